"""Messages and progress bars. They go to stderr, so that a notebook's results stay the same on every run."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
INTERVAL = 4.0  # seconds between two lines of a bar without a terminal


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def in_notebook() -> bool:
    """Whether stderr is shown below a notebook's cell."""
    return type(sys.stderr).__module__.startswith("ipykernel")


def bar(
    items: Iterable[Item], what: str, total: int | None = None, unit: str = "it", state: Callable[[], str] | None = None
) -> Iterator[Item]:
    """Iterate with a progress bar: a moving one in a terminal, a line every few seconds in a notebook, none in a log file.

    state: what the bar says behind its numbers.

    Work that ends before the first line is due shows no bar: in a notebook an empty red line would remain.
    """
    terminal, notebook = sys.stderr.isatty(), in_notebook()
    interval = 0.2 if terminal else INTERVAL
    shown = tqdm(items, desc=what, total=total, unit=unit, mininterval=interval, delay=interval, file=sys.stderr, leave=False,
                 disable=not (terminal or notebook))  # fmt: skip
    return iter(shown) if state is None else _with_state(shown, state)


def _with_state(shown: tqdm, state: Callable[[], str]) -> Iterator[Item]:
    for item in shown:
        shown.set_postfix_str(state(), refresh=False)
        yield item
