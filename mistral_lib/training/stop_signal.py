"""SIGTERM and SIGINT, the notice before a spot instance is taken away: between steps a wish that is honoured after saving."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Stopped(KeyboardInterrupt):
    """The process was told to stop, and saved."""


class StopSignal:
    """While `stepping`, a signal is a wish that the trainer honours after saving; elsewhere it is an end at once."""

    def __init__(self) -> None:
        self.requested = False
        self.stepping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: Any) -> None:
        self.requested = True
        if not self.stepping:
            raise Stopped(f"told to stop ({signal.Signals(number).name}) between the steps, where nothing new is to be saved")

    @contextmanager
    def after_saving(self) -> Iterator[None]:
        """For the steps: a signal is a wish."""
        self.stepping = True
        try:
            yield
        finally:
            self.stepping = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For work between steps that need not be finished: a signal raises Stopped."""
        self.stepping = False
        try:
            yield
        finally:
            self.stepping = True
