"""Room on disk: what a training needs, checked before it starts and before each save, and one clear error if the disk is full."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mistral_lib.run import paths

MIB, GIB = 2**20, 2**30
RESERVE = 16 * MIB  # stays free for the log, the manifest and the report
CHECKPOINTS = 3  # two are kept, and a third is written before the oldest is deleted
ADAPTERS = 4  # the best one and the result, each with its partial copy while it is written


class DiskFullError(OSError):
    """The disk has no room for what must be saved; the message says how much is missing, what is kept and what to do."""


def adapter_bytes(trainable_parameters: int) -> int:
    """An adapter in float32, with room for its configuration."""
    return 4 * trainable_parameters + MIB


def checkpoint_bytes(trainable_parameters: int) -> int:
    """Weights and both moments of AdamW in float32, with room for the states of generators and scheduler."""
    return 12 * trainable_parameters + MIB


def training_bytes(trainable_parameters: int) -> int:
    """The most that one training occupies at a time."""
    return CHECKPOINTS * checkpoint_bytes(trainable_parameters) + ADAPTERS * adapter_bytes(trainable_parameters)


def file_facts(folder: Path) -> list[os.stat_result]:
    """Size and times of all files below a folder. A file that a training deletes meanwhile is left out."""
    facts = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                facts.append(path.stat())
    return facts


def used_bytes(folder: Path) -> int:
    return sum(fact.st_size for fact in file_facts(folder))


def require(folder: Path, needed: int, what: str, kept: str | Callable[[], str] = "", variable: str = paths.VARIABLE) -> None:
    """Errors: DiskFullError if the disk of `folder` has less than `needed` bytes and the reserve free.

    kept: a sentence for the message that says what is on disk already, or a function that returns it. variable: the environment
    variable that moves the folder to another disk.
    """
    if shutil.disk_usage(existing(folder)).free < needed + RESERVE:
        raise _disk_full(folder, needed, what, kept, variable)


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists, on whose disk it will be made."""
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


@contextmanager
def full_reported(folder: Path, needed: int, what: str, kept: str | Callable[[], str], *partial: Path) -> Iterator[None]:
    """Reports a full disk clearly and deletes the partial output. Parameters as in `require`. Errors: DiskFullError."""
    try:
        yield
    except Exception as error:
        if not _is_full(folder, error):
            raise
        for path in partial:
            shutil.rmtree(path, ignore_errors=True)
        raise _disk_full(folder, needed, what, kept) from error


def _is_full(folder: Path, error: Exception) -> bool:
    """Whether a full disk caused the error: it says so, or it comes from a library that does not and less than 1 MiB is free."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return True
    return isinstance(error, (OSError, RuntimeError)) and shutil.disk_usage(folder).free < MIB


def _disk_full(folder: Path, needed: int, what: str, kept: str | Callable[[], str], variable: str = paths.VARIABLE) -> DiskFullError:
    free, needed = shutil.disk_usage(existing(folder)).free, needed + RESERVE
    size = _gib if needed >= 10 * GIB else _mib
    sentences = [
        f"no room on disk for {what}: {size(needed)} are needed, {size(free)} are free at {paths.short(folder)}.",
        kept if isinstance(kept, str) else kept(),
        f"Free at least {size(max(MIB, needed - free))}, or set {variable} to a folder on a larger disk, then run this again",
    ]
    return DiskFullError(errno.ENOSPC, " ".join(filter(None, sentences)))


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f} GiB"


def _mib(size: float) -> str:
    return f"{-(-int(size) // MIB):,} MiB"
