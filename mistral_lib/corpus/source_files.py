"""The files of one path (a file, a folder, a glob, an s3:// address or a data set of the hub), each with the name that its rows carry.

Folders behind links are walked, each real folder once. What is passed over is counted by kind: hidden files, pictures, cards of data sets,
results of the workbook. A file that cannot be listed or opened is an error, since it would be missing without notice.
"""

import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import BinaryIO

from mistral_lib.corpus import demo_corpus, hub_datasets, object_store
from mistral_lib.corpus.object_store import RemoteObject
from mistral_lib.formats import kinds
from mistral_lib.formats.streams import CHUNK
from mistral_lib.run import paths

OWN_RESULTS = "results of the workbook"
CACHES = "cache files of the library datasets"
RUN_FILES = ("manifest.json", "params.yaml")  # a folder with both is a run


@dataclass(frozen=True, slots=True)
class SourceFile:
    path: Path | None  # None for an object of an object store
    name: str  # relative to the path that the user gave; the `source` of each of its records begins with it
    origin: str  # corpus or operatives
    remote: RemoteObject | None = None
    sections: int = 0  # characters of the sections that its texts are divided into; 0: a text is one row

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


@dataclass(slots=True)
class Expansion:
    """Finds the files of paths, and counts what it passes over. ocr: pictures are read."""

    origin: str
    left_out: Counter
    ocr: bool = False

    def files(self, source: str) -> Iterator[SourceFile]:
        """Errors: OSError or ValueError with a sentence if the path cannot be used."""
        if source.startswith("s3://"):
            yield from self._objects(source)
        elif source.startswith(hub_datasets.SCHEME):
            for path, name in hub_datasets.files(source):
                yield SourceFile(path, clean(name), self.origin)
        else:
            yield from self._local(source)

    def _local(self, source: str) -> Iterator[SourceFile]:
        if not source.strip():
            raise ValueError("an empty path would be the whole folder of the workbook")
        place = place_of(source)
        _refuse_own_results(place)
        if place.is_dir():
            yield from self._of_folder(place)
        elif place.exists():
            yield SourceFile(_regular(place), clean(place.name), self.origin)
        else:
            for path in sorted(Path(found) for found in glob(str(place), recursive=True)):
                if not path.is_dir() and not self._is_left_out(path, path.name):
                    yield SourceFile(_regular(path), clean(path.name), self.origin)

    def _of_folder(self, folder: Path) -> Iterator[SourceFile]:
        for path, kind in _walk(folder):
            name = path.relative_to(folder).as_posix()
            if kind:
                self.left_out[kind] += 1
            elif not self._is_left_out(path, name):
                yield SourceFile(_regular(path), clean(name), self.origin)

    def _is_left_out(self, path: Path, name: str) -> bool:
        start = None
        if kinds.about_content(name) and path.is_file():
            with open(path, "rb") as file:
                start = file.read(kinds.START)
        return self._counted(kinds.left_out(clean(name), start, self.ocr))

    def _counted(self, kind: str) -> bool:
        if kind:
            self.left_out[kind] += 1
        return bool(kind)

    def _objects(self, url: str) -> Iterator[SourceFile]:
        prefix = url.rstrip("/") + "/"
        for remote in object_store.listing(url):
            inside = remote.url.startswith(prefix)
            name = remote.url.removeprefix(prefix) if inside else remote.url.rpartition("/")[2]
            if remote.url == url or not self._counted(kinds.left_out(clean(name), None, self.ocr)):
                yield SourceFile(None, clean(name), self.origin, remote)


def shown_place(source: str) -> str:
    return source if source.startswith(("s3://", "demo:", hub_datasets.SCHEME)) else str(place_of(source))


def place_of(source: str) -> Path:
    if source.startswith("demo:"):
        return demo_corpus.place(source)
    return paths.home() / Path(source).expanduser()


def _refuse_own_results(place: Path) -> None:
    """Errors: ValueError for the runs folder, a run, or anything in one: a model is not trained on its own answers and reports."""
    real = place.resolve()
    if real.is_relative_to(paths.runs().resolve()) or any(_is_run(folder) for folder in (real, *real.parents)):
        raise ValueError(
            f"it holds {OWN_RESULTS} (a run with its reports, answers and prepared data), which are no corpus; copy what you need"
        )


def _is_run(folder: Path) -> bool:
    return all((folder / name).is_file() for name in RUN_FILES)


def _walk(folder: Path) -> Iterator[tuple[Path, str]]:
    """(path, kind that is left out or "") of every file below a folder. Errors: OSError if one cannot be listed."""

    def stop(error: OSError) -> None:
        raise error

    above = {
        (one.stat().st_dev, one.stat().st_ino) for one in folder.resolve().parents
    }  # a link to one of them would read its other folders
    own, seen = {paths.runs().resolve(), paths.models().resolve()}, set()
    inside_own: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in seen | above:  # a link to a folder that was walked already, or to one above it
            folders[:] = []
            continue
        seen.add((status.st_dev, status.st_ino))
        here = Path(parent)
        is_own = str(here.parent) in inside_own or here.resolve() in own or _is_run(here)
        if is_own:
            inside_own.add(str(here))
        folders.sort(key=lambda name: ((here / name).is_symlink(), name))
        stored = None if is_own else _stored_tables(here, names)
        for name in sorted(names):
            cached = stored is not None and name.endswith(".arrow") and name not in stored
            yield here / name, OWN_RESULTS if is_own else CACHES if cached else ""


def _stored_tables(folder: Path, names: list[str]) -> set[str] | None:
    """The tables of a data set that `datasets` saved, without the caches beside them; None for another folder."""
    if "state.json" not in names:
        return None
    with suppress(OSError, ValueError, KeyError, TypeError):
        return {one["filename"] for one in json.loads((folder / "state.json").read_bytes())["_data_files"]} or None
    return None


def _regular(path: Path) -> Path:
    if not path.is_file():
        raise OSError(f"{path} is " + ("a broken link" if path.is_symlink() else "neither a file nor a folder") + ": remove or replace it")
    return path


def clean(name: str) -> str:
    """A file name that can be written as UTF-8, whatever bytes the file system returned."""
    return name.encode("utf-8", "backslashreplace").decode()
