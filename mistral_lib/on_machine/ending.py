"""When and why the machine ends by itself, and its shutdown.

Three things end a machine independently: `shutdown -P +minutes` of the user data, the deadline's timer, and the agent by these rules.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from mistral_lib.on_machine import programs

LONGEST_WRAP_UP = 600.0  # seconds before the end at which the run is stopped, so that its results can be uploaded
WRAP_UP_SHARE = 0.1  # of the machine's whole time, if that is less
GRACE_SECONDS = 900.0  # for a stopped machine that was started again after its end: until new orders arrive


class EndError(RuntimeError):
    """The machine has to end now; the message is the reason."""


@dataclass(frozen=True)
class Limits:
    """What a machine may use. Times are seconds since 1970."""

    started: float
    ends_at: float
    idle_minutes: float = 30.0  # without a job, or without work
    max_usd: float = 0.0  # 0: no limit
    usd_per_hour: float = 0.0
    usd_before: float = 0.0  # spent by earlier machines of this run

    def usd(self, now: float) -> float:
        """Spent so far, earlier machines included."""
        return self.usd_before + max(0.0, now - self.started) / 3600 * self.usd_per_hour

    @property
    def stops_at(self) -> float:
        """When the run is stopped, so that its results are uploaded before the end."""
        return self.ends_at - min(LONGEST_WRAP_UP, WRAP_UP_SHARE * max(0.0, self.ends_at - self.started))

    def reached(self, now: float) -> str | None:
        """Which limit is reached, as a sentence; None if none is."""
        if now >= self.stops_at:
            return "time: the machine's time is over"
        if self.max_usd and self.usd(now) >= self.max_usd:
            return f"budget: {self.usd(now):.2f} USD are spent, the limit is {self.max_usd:.2f} USD"
        return None


def first_end(started: float, minutes: float, now: float) -> float:
    """When a machine without a job ends, in seconds since 1970. One that is started again later gets time for new orders."""
    ends_at = started + 60 * minutes
    return ends_at if ends_at > now else now + GRACE_SECONDS


def last_progress(folders: list[Path]) -> float:
    """The newest time at which anything below these folders was written, in seconds since 1970; 0 if they are empty.

    A training notes each forward pass, a measurement each record, a download each file.
    """
    newest = 0.0
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in (".", *names):
                try:
                    newest = max(newest, Path(place, name).lstat().st_mtime)
                except OSError:
                    continue  # deleted meanwhile
    return newest


def hung(folders: list[Path], since: float, minutes: float, now: float) -> str | None:
    """That nothing was written for longer than `minutes` (0: no limit), as a sentence; None if it was. since: start of the run."""
    quiet = now - max(since, last_progress(folders))
    if not minutes or quiet < 60 * minutes:
        return None
    return f"hung: no file was written for {quiet / 60:.0f} minutes, the limit is {minutes:g}"


def shut_down(reason: str) -> None:
    """Shut the machine down now; the deadline's timer remains if this fails. Errors: ProgramError."""
    print(f"{time.strftime('%FT%TZ', time.gmtime())} the machine shuts down: {reason}", flush=True)
    programs.output(["shutdown", "-P", "now"])
