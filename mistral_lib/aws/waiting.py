"""Growing pauses between two tries, within a limit."""

import time
from collections.abc import Iterator

FIRST_SECONDS, LONGEST_SECONDS, GROWTH = 1.0, 15.0, 1.5


def tries(seconds: float, first: float | None = None) -> Iterator[float]:
    """The seconds that are left, before each try: at once, then after pauses that grow; at least one try, and none after `seconds`.

    first: length of the first pause in seconds.
    """
    end = time.monotonic() + seconds
    pause = FIRST_SECONDS if first is None else first
    left = seconds
    while True:
        yield max(0.0, left)
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(pause, left, LONGEST_SECONDS))
        pause = min(pause * GROWTH, LONGEST_SECONDS)
        left = end - time.monotonic()
