"""Folders that are complete or not there, whatever ends the process that writes them.

A folder is written under a hidden name. When all its files are there, a list of them with their hashes is added, and the folder is
renamed into place. A folder without this list, or with a file that is missing or altered (a power cut, a failing disk), is not complete.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from mistral_lib.run import files

FILES = "complete.json"  # the list of files


def partial(place: Path) -> Path:
    """The hidden folder in which the new `place` is written."""
    return place.with_name(f".{place.name}.partial")


@contextmanager
def new_folder(place: Path, previous: Path | None = None) -> Iterator[Path]:
    """Yields an empty hidden folder and renames it to `place` at the end; deletes it if the block raises.

    previous: where an earlier folder at `place` is moved to; None: it is deleted.
    """
    folder = files.fresh_folder(partial(place))
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    earlier = previous or place.with_name(f".{place.name}.earlier.partial")
    if previous is None:
        shutil.rmtree(earlier, ignore_errors=True)  # of a process that was killed here
    if place.exists():
        earlier.parent.mkdir(parents=True, exist_ok=True)
        os.replace(place, earlier)
    os.replace(folder, place)
    if previous is None:
        shutil.rmtree(earlier, ignore_errors=True)


def seal(folder: Path) -> None:
    """Add the list of files with their hashes. It is not forced to disk: what a power cut leaves is recognized by the hashes."""
    (folder / FILES).write_bytes(orjson.dumps(files.hashes(folder, folder)))


def is_complete(folder: Path) -> bool:
    """Whether the folder has its list of files, and each of them with the hash that it was written with."""
    try:
        listed = files.read_json(folder / FILES)
    except (OSError, ValueError):
        return False
    found = files.hashes(folder, folder)
    return isinstance(listed, dict) and all(found.get(name) == fact for name, fact in listed.items())
