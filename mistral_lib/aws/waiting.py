"""Growing pauses between two tries, within a limit; the deletion of what a machine that ends still uses."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from mistral_lib.aws import errors

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


def deleted(delete: Callable[[], Any], in_use: str, seconds: float) -> None:
    """Delete; while AWS answers with the code `in_use`, again within the time. What is gone already is accepted. Errors: ClientError."""
    from botocore.exceptions import ClientError

    for left in tries(seconds, first=2.0):
        try:
            delete()
        except ClientError as error:
            if errors.code(error) == in_use and left > 0:
                continue
            if not errors.is_not_there(errors.code(error)):
                raise
        return
