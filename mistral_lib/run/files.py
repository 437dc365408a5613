"""Atomic writes, JSON, JSON lines, content hashes and sizes. A file is complete or not there."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import orjson

JSON_STYLE = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS


@contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """Write to a temporary file beside `path`; flush it to disk, and rename it to `path` if the block does not raise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    with atomic(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, orjson.dumps(value, option=JSON_STYLE))


def read_json(path: Path) -> Any:
    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); the file was altered after it was written") from None


def write_json_lines(path: Path, values: Iterable[Any]) -> None:
    write_bytes(path, b"".join(orjson.dumps(value) + b"\n" for value in values))


def append_json_line(path: Path, value: Any) -> None:
    """Append one JSON line and flush it to disk. A half-written last line, left by a killed process, is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if size and file.read(1) != b"\n":
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        file.write(orjson.dumps(value) + b"\n")  # append mode: it goes to the end of the file, in one piece
        file.flush()
        os.fsync(file.fileno())


def read_json_lines(path: Path) -> list[Any]:
    """Every complete line; a half-written last line, left by a killed process, is skipped."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    return [orjson.loads(line) for line in lines[:-1] if line.strip()]


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash64(text: str) -> int:
    """64 bits of the BLAKE2b hash of a text, for an array of numpy.uint64; the same on every machine and in every run."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def digest(value: Any) -> str:
    """A hash of any JSON value that does not depend on the order of its keys."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)).hexdigest()


def hashes(folder: Path, relative_to: Path, without: tuple[str, ...] = ()) -> dict[str, dict[str, Any]]:
    """`{relative path: {sha256, bytes}}` of every file below `folder`, except hidden ones and those below a folder named in `without`."""
    found = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    files = sorted(p for p in found if not set(without) & set(p.relative_to(folder).parts[:-1]))
    return {str(p.relative_to(relative_to)): {"sha256": sha256(p), "bytes": p.stat().st_size} for p in files}


def damages(folder: Path, written: Mapping[str, Mapping[str, Any]], below: str = "") -> list[str]:
    """Which files are missing or altered, as texts. written: of `hashes`, with names relative to `folder`. below: only names that begin so."""
    reasons = []
    for name, fact in written.items():
        path = folder / name
        if not name.startswith(below):
            continue
        if not path.exists():
            reasons.append(f"{name} is missing")
        elif path.stat().st_size != fact["bytes"] or sha256(path) != fact["sha256"]:
            reasons.append(f"{name} was altered")
    return reasons


def size_text(size: int) -> str:
    """Bytes in the unit that suits them: `812 bytes`, `41.9 KiB`, `5.75 MiB`."""
    if size < 1024:
        return f"{size} bytes"
    return f"{size / 2**10:.1f} KiB" if size < 2**20 else f"{size / 2**20:,.2f} MiB"


def put_once(new: Path, place: Path) -> None:
    """Rename the folder `new` to `place`. If another process did so first, with the same content, `new` is deleted."""
    try:
        new.rename(place)
    except OSError:
        shutil.rmtree(new)
        if not place.exists():
            raise


def fresh_folder(path: Path) -> Path:
    """An empty folder at `path`; what a killed process left there is deleted."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
