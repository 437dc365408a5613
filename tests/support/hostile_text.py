"""Texts that make a careless regular expression quadratic, and the time it may take on them."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

LENGTH = 120_000  # characters: anything linear takes a third of a second, anything quadratic minutes
LIMIT = 10  # seconds of processor time: far above the first, also on a slow machine, and far below the second


def repeated(piece: str) -> str:
    """`piece` again and again, LENGTH characters."""
    return (piece * (LENGTH // len(piece) + 1))[:LENGTH]


@contextmanager
def no_more_than_linear_time() -> Iterator[None]:
    """Fails if the block within takes more than LIMIT seconds of processor time."""
    started = time.process_time()
    yield
    assert time.process_time() - started < LIMIT
