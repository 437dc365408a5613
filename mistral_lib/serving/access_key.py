"""The key that a served model asks for: made on first use, in a file that nobody but its owner can read.

It is below the home and not in the run folder: stages hash, copy and publish what is in there. A run keeps its key, so that a client that
has it still reaches the model after a new export. Knows files and their modes; knows nothing of servers.
"""

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from mistral_lib.run import files, paths

FOLDER = ".serving"  # below the home
RANDOM_BYTES = 32
OTHERS = stat.S_IRWXG | stat.S_IRWXO  # any right of the group or of all others


class KeyFileError(ValueError):
    """A key file that cannot be used; the message says what was seen and what to do. It never holds the key."""


def folder() -> Path:
    """The folder of keys and logs, made if it is not there. The home may be a clone of the workbook: git ignores it."""
    place = paths.home() / FOLDER
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (place / ".gitignore").exists():
        files.write_text(place / ".gitignore", "*\n")
    return place


def place(run_name: str) -> Path:
    """The key file of a run."""
    return folder() / f"{run_name}.key"


def read_or_make(path: Path) -> str:
    """The key in the file; a new one if there is no such file. Two processes at once get the same key. Errors: KeyFileError."""
    with suppress(FileExistsError):
        if not path.exists():
            _write(path, secrets.token_urlsafe(RANDOM_BYTES))
    return read(path)


def read(path: Path) -> str:
    """The key in the file, without the line's end. Errors: KeyFileError if others can read it, or if it holds no key; FileNotFoundError."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such key file; `serve` makes one and prints its path")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & OTHERS:
        raise KeyFileError(
            f"{path}: its mode is {mode:04o}, so that others on this machine may have read the key; expected 0600: chmod 600 {path} "
            "keeps this key, deleting the file makes a new one"
        )
    lines = path.read_text(errors="replace").split()
    if len(lines) != 1 or not (lines[0].isascii() and lines[0].isprintable()):
        raise KeyFileError(f"{path}: holds {len(lines)} words, expected one key without blanks; delete it, and `serve` makes a new one")
    return lines[0]


def _write(path: Path, key: str) -> None:
    """The file appears at once and complete, with mode 0600 from its first byte on. Errors: FileExistsError if it is there already."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    file = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "w") as text:
            text.write(f"{key}\n")
            text.flush()
            os.fsync(text.fileno())
        os.link(partial, path)  # fails if another process was first; os.replace would take its key away
    finally:
        partial.unlink()
