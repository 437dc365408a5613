"""Room on disk for what a training saves: asked for before the start and before each save, in words that say what to do."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mistral_lib.run import paths

MIB = 2**20
RESERVE = 16 * MIB  # stays free for the log, the manifest and the report
WHOLE_CHECKPOINTS = 3  # two are kept, and a third is written before the oldest goes
ADAPTERS = 4  # the best one and the result, each written beside its place


class DiskFull(OSError):
    """The disk has no room for what must be saved; the message says how much is missing and what is safe."""


def adapter_bytes(trainable_parameters: int) -> int:
    """An adapter in float32, with room for its configuration."""
    return 4 * trainable_parameters + MIB


def checkpoint_bytes(trainable_parameters: int) -> int:
    """Weights and both moments of AdamW in float32, with room for the states of generators and scheduler."""
    return 12 * trainable_parameters + MIB


def whole_training_bytes(trainable_parameters: int) -> int:
    """The most that one training holds on disk at a time."""
    return WHOLE_CHECKPOINTS * checkpoint_bytes(trainable_parameters) + ADAPTERS * adapter_bytes(trainable_parameters)


def has_room(folder: Path, wanted: int) -> bool:
    """Whether the disk of `folder` has `wanted` bytes and the reserve free."""
    return shutil.disk_usage(folder).free >= wanted + RESERVE


def require(folder: Path, wanted: int, what: str, safe: str = "") -> None:
    """Errors: DiskFull if there is no room for `wanted` bytes; `safe` is what is on disk already, for the message."""
    if not has_room(folder, wanted):
        raise DiskFull(errno.ENOSPC, message(folder, wanted, what, safe))


def message(folder: Path, wanted: int, what: str, safe: str = "") -> str:
    free, wanted = shutil.disk_usage(folder).free, wanted + RESERVE
    return (
        f"no room on disk for {what}: {_mib(wanted)} are needed, {_mib(free)} are free at {paths.short(folder)}. {safe}"
        f"Free at least {_mib(wanted - free)}, or set MISTRAL_WORKBOOK_HOME to a larger disk, then run this again"
    )


def is_full(folder: Path, error: BaseException) -> bool:
    """Whether an error in writing is for want of room: it says so, or nothing but crumbs is free."""
    says_so = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return says_so or "No space left" in str(error) or shutil.disk_usage(folder).free < MIB


def held(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _mib(size: float) -> str:
    return f"{max(1, -(-int(size) // MIB)):,} MiB"


# -- a full disk is told as one, and gets back what was taken of it -----


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
            f"no space left on the disk of {paths.short(run_folder)} ({error.filename or error}): preparing needs about five times the size of the "
            f"sources there; free some, or set {paths.VARIABLE} to a larger disk, and run again. Earlier results are untouched"
        ) from error
