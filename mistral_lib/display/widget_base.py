"""What all pages share: a box of widgets with a plain text form, and work in the background whose newest result is shown."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from typing import Any, Generic, TypeVar

import ipywidgets

Result = TypeVar("Result")
AUTO = {"width": "auto"}  # layout of a button that is as wide as its text
PAUSE = 0.3  # seconds without a new request before the work starts


class PlainTextBox(ipywidgets.VBox):
    """A box of widgets with `plain`, its text form.

    A notebook stores both forms; run headless, the plain text is shown.
    """

    def __init__(self, children: Sequence[ipywidgets.Widget], plain: str):
        super().__init__(children)
        self.plain = plain

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        return {**(super()._repr_mimebundle_(**options) or {}), "text/plain": self.plain}


def button(text: str, action: Callable[[], Any], **options: Any) -> ipywidgets.Button:
    """A button that calls `action`. options: of ipywidgets.Button."""
    made = ipywidgets.Button(description=text, **options)
    made.on_click(lambda _: action())
    return made


class BackgroundJob(Generic[Result]):
    """One kind of work in a thread, so that the page still answers: it starts after a short pause, and a new request replaces the one before."""

    def __init__(self) -> None:
        self._turn, self._request = threading.Lock(), 0
        self._thread: threading.Timer | None = None

    def start(
        self, results: Iterator[Result], show: Callable[[Result], None], failed: Callable[[Exception], None], pause: float = PAUSE
    ) -> None:
        """Call `show` with each result as it comes, or `failed` with the error that ended the work. Earlier requests show nothing more."""
        self.cancel()
        request, context = self._request, copy_context()  # a kernel keeps in the context which cell an output belongs to
        self._thread = threading.Timer(pause, lambda: context.run(self._work, request, results, show, failed))
        self._thread.daemon = True
        self._thread.start()

    def cancel(self) -> None:
        """Show nothing more of what was started."""
        self._request += 1
        if self._thread is not None:
            self._thread.cancel()

    def wait(self) -> None:
        """Wait until the latest request has ended."""
        if self._thread is not None:
            self._thread.join()

    def _work(self, request: int, results: Iterator[Result], show: Callable[[Result], None], failed: Callable[[Exception], None]) -> None:
        with self._turn:  # one at a time: two that compete for the processor are both late
            try:
                while request == self._request and (result := next(results, None)) is not None:
                    if request == self._request:
                        show(result)
            except Exception as error:  # the page shows what went wrong in the thread
                if request == self._request:
                    failed(error)
