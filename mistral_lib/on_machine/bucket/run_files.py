"""Which files of a run folder may leave the machine: those that are whole, and checkpoints that are complete.

A folder or file under a hidden name with `.partial` is still being written. A checkpoint is complete if it has its list of files, and
each of them with the hash that it was written with (mistral_lib/run/sealed.py).
"""

import json
from pathlib import Path

from mistral_lib.on_machine.bucket.object_store import sha256_of
from mistral_lib.on_machine.bucket.results_list import Entry

CHECKPOINTS = "training/checkpoints/"
RESUMED = "checkpoint-"  # how the name of a checkpoint begins that a run resumes from; the others are kept adapters
LIST = "complete.json"  # in a checkpoint: its files with their hashes
MANIFEST = "manifest.json"
NOT_UPLOADED = (".lock", ".progress.json")  # of processes on this machine


def outside_checkpoints(folder: Path) -> dict[str, Path]:
    """The files by their paths relative to the run folder, without the manifest, locks, partial files and checkpoints."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name != MANIFEST and not _stays(name) and path.is_file() and not path.is_symlink():
            found[name] = path
    return found


def _stays(name: str) -> bool:
    parts = name.split("/")
    partial = any(part.startswith(".") and ".partial" in part for part in parts)
    return partial or parts[-1] in NOT_UPLOADED or name.startswith(CHECKPOINTS)


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoints and kept adapters that look complete, the newest first: their list is there, and each file with its size."""
    return sorted((place for place in (folder / CHECKPOINTS).glob("[!.]*") if _has_its_files(place)), key=_step, reverse=True)


def _step(place: Path) -> tuple[int, str]:
    number = place.name.rpartition("-")[2]
    return int(number) if number.isdigit() else 0, place.name


def _has_its_files(place: Path) -> bool:
    try:
        listed = json.loads((place / LIST).read_bytes())
        return all((place / name).stat().st_size == fact["bytes"] for name, fact in listed.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def contents(place: Path) -> dict[str, Entry] | None:
    """The files of a checkpoint with their hashes, by their paths in it; None if it is damaged, or was deleted meanwhile."""
    try:
        listed = json.loads((place / LIST).read_bytes())
        names = [*listed, LIST]
        found = {name: Entry((place / name).stat().st_size, sha256_of(place / name)) for name in names}
    except OSError:
        return None
    return found if all(found[name].sha256 == fact["sha256"] for name, fact in listed.items()) else None


def signature(path: Path) -> tuple[int, int, int]:
    """What changes if the file is written or replaced. Errors: OSError."""
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
