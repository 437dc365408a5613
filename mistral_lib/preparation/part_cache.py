"""Finished parts of a long stage, kept on disk: a stage that was killed resumes after the parts that are complete.

A part is a folder of files, arrays and facts that is complete or not there. All parts belong to one key; parts of another key are deleted.
Workers of other machines write parts into the same folder if all see it, otherwise into a bucket.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import orjson

import mistral_lib
from mistral_lib.corpus.shared_storage import Bucket
from mistral_lib.run import files, paths, sealed
from mistral_lib.run.settings import Settings

# finished parts depend on the code of these packages and on the versions of these libraries
PACKAGES = ("run", "detection", "curation", "shapes", "formats", "corpus", "tokens", "engine", "preparation")
LIBRARIES = ("ahocorasick-rs", "charset-normalizer", "kreuzberg", "mistral-common", "numpy", "orjson", "pyarrow", "pypdfium2", "python-calamine", "rensa",
             "tokenizers", "transformers")  # fmt: skip
FACTS, KEY = "facts.json", "key.txt"


class UnsharedFolderError(RuntimeError):
    """A worker does not see the folder of the parts."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Finished parts, as a worker sees them."""

    folder: Path
    key: str
    bucket: Bucket | None = None  # to which every part is copied

    def check(self) -> None:
        """Errors: UnsharedFolderError if this machine does not see the folder."""
        place = self.folder / KEY
        if not place.is_file() or place.read_text() != self.key:
            raise UnsharedFolderError(
                f"{self.folder} is not the folder that the parts of this stage are written to: set shared_folder to a folder that every node "
                "sees under this path, or to s3://bucket/prefix"
            )

    @contextmanager
    def at_hand(self) -> Iterator["Parts"]:
        """The parts while a worker does one item: with a bucket in a folder of its own, which is deleted. Errors: UnsharedFolderError."""
        if self.bucket is None:
            self.check()
            yield self
            return
        with tempfile.TemporaryDirectory(prefix="mistral-parts-") as folder:
            yield Parts(Path(folder), self.key, self.bucket)

    @contextmanager
    def new_part(self, name: str) -> Iterator[Path]:
        """Yields an empty folder for the files of a part; the part is complete when the block ends. Errors: SharedStorageError."""
        with sealed.new_folder(self.folder / name) as folder:
            yield folder
            sealed.seal(folder)
        if self.bucket:
            self.bucket.put(self.folder / name, name)

    def path(self, name: str) -> Path:
        """The folder of a part, fetched from the bucket if it is not on this machine. Errors: SharedStorageError."""
        folder = self.folder / name
        if self.bucket and not (folder / sealed.FILES).exists():
            with sealed.new_folder(folder) as new:
                self.bucket.get(name, new)
        return folder

    def names(self) -> set[str]:
        """The parts that seem to be complete: what is altered is found when it is read. Errors: SharedStorageError."""
        here = {path.parent.name for path in self.folder.glob(f"*/{sealed.FILES}")}
        return here | (self.bucket.names() if self.bucket else set())

    def claimed(self, name: str) -> dict[str, Any]:
        """The facts of one of `names`, not compared with its hashes; empty if they cannot be read."""
        try:
            found = files.read_json(self.path(name) / FACTS)
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def facts(self, name: str) -> dict[str, Any] | None:
        """The facts of a part; None if it is not complete."""
        there = not self.bucket or (self.folder / name / sealed.FILES).exists() or self.bucket.has(name)
        folder = self.path(name) if there else None
        return files.read_json(folder / FACTS) if folder and sealed.is_complete(folder) else None

    def part(self, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """The facts and the arrays of a part; None if it is not complete."""
        facts = self.facts(name)
        return None if facts is None else (facts, arrays(self.folder / name))


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """The arrays of a part."""
    return {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}


class PartCache(Parts):
    """All finished parts of a stage."""

    __slots__ = ()

    def __init__(self, folder: Path, key: str, bucket: Bucket | None = None):
        """key: a hash of everything that the parts depend on."""
        super().__init__(folder, key, bucket)
        place = folder / KEY
        if not place.is_file() or place.read_text() != key:
            files.fresh_folder(folder)
            files.write_text(place, key)

    def seen_by_workers(self) -> Parts:
        """The same parts, to be sent to a worker."""
        return Parts(self.folder.absolute(), self.key, self.bucket)

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.bucket:
            self.bucket.remove()


def write(folder: Path, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Add a part's facts (JSON values) and arrays to its files."""
    (folder / FACTS).write_bytes(orjson.dumps(facts))
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)


def key(settings: Settings, stage: str, inputs: dict[str, str]) -> str:
    """A hash of everything that the finished parts of a stage depend on."""
    code, versions = code_hashes(Path(mistral_lib.__file__).parent), {name: version(name) for name in LIBRARIES}
    return files.digest([settings.work_depends_on(stage), inputs, code, versions])


def code_hashes(library: Path) -> dict[str, str]:
    """`{path in the library: sha256}` of the code that can change a part."""
    return {
        path.relative_to(library).as_posix(): files.sha256(path)
        for package in PACKAGES
        for path in sorted((library / package).rglob("*.py"))
    }


def of_run(settings: Settings, own: Path, key: str) -> PartCache:
    """The cache of a run's stage: in `own`, a folder of the run; in its shared folder if it has one; copied to its bucket."""
    shared = settings.shared_folder
    if not shared:
        return PartCache(own, key)
    if shared.startswith("s3://"):
        return PartCache(own, key, Bucket(f"{shared.rstrip('/')}/{settings.run_name}{own.name}/{key[:16]}"))
    place = files.digest(str(own.absolute()))[:8]  # others may share the folder, with runs of this name
    return PartCache(paths.home() / Path(shared).expanduser() / f"{settings.run_name}-{place}{own.name}", key)
