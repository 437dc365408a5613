"""A box of widgets with a plain form, for wherever no widget can be shown.

A notebook run headless keeps the plain text of these displays, by the nature of a display with several forms: the
front end takes the richest that it understands.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from typing import Any, Generic, TypeVar

import ipywidgets


class PlainTextBox(ipywidgets.VBox):
    """A box of widgets whose plain form, `plain`, says what it shows."""

    def __init__(self, children: Sequence[ipywidgets.Widget], plain: str):
        super().__init__(children)
        self.plain = plain

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(**options)
        return {**bundle, "text/plain": self.plain} if bundle else {"text/plain": self.plain}


# -- work beside a page that is being operated: it starts after a short pause, and only the newest result is shown -----

Result = TypeVar("Result")
PAUSE = 0.3  # seconds without a new wish until the work starts


class LatestJob(Generic[Result]):
    """One kind of work, of which the latest wish alone counts."""

    def __init__(self) -> None:
        self._turn, self._wish = threading.Lock(), 0
        self._thread: threading.Thread | None = None

    def start(
        self, results: Iterator[Result], show: Callable[[Result], None], failed: Callable[[Exception], None], pause: float = PAUSE
    ) -> None:
        """Show each result as it comes, in place of what an earlier start would still show. failed: what to do with an error."""
        self.cancel()
        wish, context = self._wish, copy_context()  # a kernel keeps in the context which cell an output belongs to
        timer = threading.Timer(pause, lambda: context.run(self._work, wish, results, show, failed))
        timer.daemon = True
        self._thread = timer
        timer.start()

    def cancel(self) -> None:
        """Nothing that was started is shown from now on."""
        self._wish += 1
        if isinstance(self._thread, threading.Timer):
            self._thread.cancel()

    def wait(self) -> None:
        """Until the latest work has ended."""
        if self._thread is not None:
            self._thread.join()

    def _work(self, wish: int, results: Iterator[Result], show: Callable[[Result], None], failed: Callable[[Exception], None]) -> None:
        with self._turn:  # one at a time: two that race for the processor are both late
            try:
                while wish == self._wish and (result := next(results, None)) is not None:
                    if wish == self._wish:
                        show(result)
            except Exception as error:  # what went wrong beside the page must be read on it
                if wish == self._wish:
                    failed(error)
