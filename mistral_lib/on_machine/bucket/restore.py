"""Brings the run folder of an earlier machine back, so that the run resumes: the inverse of uploads.py.

Files are downloaded and verified beside the run folder, which is replaced when all of them are there. A checkpoint with a file that is
missing or has another content is left out whole; any other damaged file is left out too, and the run makes its stage again.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mistral_lib.on_machine.bucket.object_store import MissingError, Store, WrongContentError
from mistral_lib.on_machine.bucket.results_list import FOLDER, NAME, Results
from mistral_lib.on_machine.bucket.run_files import CHECKPOINTS, LIST, RESUMED


@dataclass(frozen=True)
class Restored:
    """What was brought back: files and bytes, which were not because they are damaged in the bucket, and from where a training resumes."""

    files: int
    bytes: int
    damaged: tuple[str, ...] = ()
    checkpoint: str | None = None  # the newest one

    def __str__(self) -> str:
        damaged = f"; left out, since damaged in the bucket: {', '.join(self.damaged)}" if self.damaged else ""
        resumes = f"its newest checkpoint is {self.checkpoint}" if self.checkpoint else "without a checkpoint: a training starts over"
        return f"restored {self.files} files, {self.bytes:,} bytes, of an earlier machine{damaged}; {resumes}"


def restore(store: Store, folder: Path) -> Restored | None:
    """Replace the run folder by the listed results; None if nothing is listed, and the folder stays as it is.

    An earlier folder is moved aside, never deleted. If it is cut, the next call keeps what was verified. Errors: StoreError,
    ResultsError, OSError.
    """
    results = Results.from_json(store.read(NAME))
    if not results.files:
        return None
    partial = folder.with_name(f".{folder.name}.restored.partial")
    damaged = [name for name, entry in results.files.items() if not _fetched(store, partial / name, name, entry.sha256)]
    broken = {_checkpoint_of(name) for name in damaged if name.startswith(CHECKPOINTS)}
    left_out = [name for name in results.files if name in damaged or _checkpoint_of(name) in broken]
    for name in left_out:
        (partial / name).unlink(missing_ok=True)
    _remove_others(partial, results.files.keys() - set(left_out))
    if folder.exists():
        os.replace(folder, folder.with_name(f".{folder.name}.{time.time_ns()}.earlier"))
    partial.mkdir(parents=True, exist_ok=True)
    os.replace(partial, folder)
    kept = {name: entry.bytes for name, entry in results.files.items() if name not in left_out}
    return Restored(len(kept), sum(kept.values()), tuple(left_out), _newest_checkpoint(kept))


def _fetched(store: Store, target: Path, name: str, sha256: str) -> bool:
    """False if the object is missing, or has neither the listed content nor a newer one that is whole."""
    try:
        store.download(FOLDER + name, target, sha256, newer=not name.startswith(CHECKPOINTS))
    except (MissingError, WrongContentError):
        return False
    return True


def _checkpoint_of(name: str) -> str | None:
    """The checkpoint that a file belongs to, by its name; None if it belongs to none."""
    return name.removeprefix(CHECKPOINTS).split("/")[0] if name.startswith(CHECKPOINTS) else None


def _newest_checkpoint(names: Iterable[str]) -> str | None:
    found = [name.split("/")[2] for name in names if name.startswith(CHECKPOINTS + RESUMED) and name.endswith(f"/{LIST}")]
    return max(found, key=lambda name: int(name.removeprefix(RESUMED)), default=None)


def _remove_others(partial: Path, names: set[str]) -> None:
    """Delete what an attempt that was cut has left, and the list does not name any more; then folders that are empty."""
    for path in sorted(partial.rglob("*"), reverse=True):  # the contents of a folder before the folder
        if path.is_file() and path.relative_to(partial).as_posix() not in names:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
