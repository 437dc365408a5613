"""A small disk of its own: a real file system in memory, which fills up as a disk does."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(place: Path, mebibytes: int) -> Iterator[Path]:
    """A folder on a file system of so many MiB; the test is skipped without the right to mount one."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the right to mount a file system: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, leave: int) -> None:
    """Take all but `leave` bytes of a disk."""
    with open(place / "filler", "wb") as file:
        file.write(b"\0" * (shutil.disk_usage(place).free - leave))
