"""The files of one path (a file, a folder, a glob or an s3:// address), each with the name that its rows carry.

Hidden files are skipped. A file that cannot be listed or opened is an error, since it would be missing without notice.
"""

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import BinaryIO

from mistral_lib.corpus import demo_corpus, object_store
from mistral_lib.corpus.object_store import RemoteObject
from mistral_lib.formats.streams import CHUNK
from mistral_lib.run import paths


@dataclass(frozen=True, slots=True)
class SourceFile:
    path: Path | None  # None for an object of an object store
    name: str  # relative to the path that the user gave; the `source` of each of its records begins with it
    origin: str  # corpus or operatives
    remote: RemoteObject | None = None

    @property
    def size(self) -> int:
        """Bytes, as stored."""
        return self.remote.size if self.remote else self.path.stat().st_size

    @property
    def version(self) -> object:
        """A value that changes with the content. Errors: OSError if the file was deleted."""
        if self.remote:
            return self.remote
        stat = self.path.stat()
        return stat.st_size, stat.st_mtime_ns

    @property
    def place(self) -> str:
        """The address of the file, different for every file."""
        return self.remote.url if self.remote else str(self.path.resolve())

    def open(self) -> BinaryIO:
        return io.BufferedReader(object_store.open_object(self.remote), CHUNK) if self.remote else open(self.path, "rb", CHUNK)


def shown_place(source: str) -> str:
    return source if source.startswith(("s3://", "demo:")) else str(place_of(source))


def place_of(source: str) -> Path:
    if source.startswith("demo:"):
        return demo_corpus.place(source)
    return paths.home() / Path(source).expanduser()


def expand(source: str, origin: str) -> Iterator[SourceFile]:
    if source.startswith("s3://"):
        yield from _objects(source, origin)
        return
    place = place_of(source)
    if place.is_dir():
        for path in _walk(place):
            yield SourceFile(path, clean(path.relative_to(place).as_posix()), origin)
    elif place.exists():
        yield SourceFile(_regular(place), clean(place.name), origin)
    else:
        for path in sorted(Path(found) for found in glob(str(place), recursive=True)):
            if not path.is_dir():
                yield SourceFile(_regular(path), clean(path.name), origin)


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below a folder that is not hidden. Errors: OSError if one cannot be listed or opened."""

    def stop(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=stop):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (_regular(Path(parent) / name) for name in sorted(names) if not name.startswith("."))


def _regular(path: Path) -> Path:
    if not path.is_file():
        raise OSError(f"{path} is " + ("a broken link" if path.is_symlink() else "neither a file nor a folder") + ": remove or replace it")
    return path


def _objects(url: str, origin: str) -> Iterator[SourceFile]:
    prefix = url.rstrip("/") + "/"
    for remote in object_store.listing(url):
        name = remote.url.removeprefix(prefix) if remote.url.startswith(prefix) else remote.url.rpartition("/")[2]
        if not any(part.startswith(".") for part in name.split("/")):
            yield SourceFile(None, clean(name), origin, remote)


def clean(name: str) -> str:
    """A file name that can be written as UTF-8, whatever bytes the file system returned."""
    return name.encode("utf-8", "backslashreplace").decode()
