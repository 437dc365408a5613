"""A full disk is told as one, and gets back what was taken of it."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mistral_lib import home


class NoSpace(OSError):
    """The disk of the run folder is full; the message says what to do."""


@contextmanager
def explained(run_folder: Path, *taken: Path) -> Iterator[None]:
    """taken: the folders that are removed then.

    Errors: NoSpace."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        for place in taken:
            shutil.rmtree(place, ignore_errors=True)
        raise NoSpace(
            f"no space left on the disk of {home.short(run_folder)} ({error.filename or error}): preparing needs about five times the size of the "
            f"sources there; free some, or set {home.VARIABLE} to a larger disk, and run again. Earlier results are untouched"
        ) from error
