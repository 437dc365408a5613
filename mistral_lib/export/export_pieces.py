"""The files of an export while they are made: each is complete or not there, and is taken over from a killed or an earlier export.

They belong to one key, a hash of everything that they are made from. Knows names and hashes; knows nothing of models.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mistral_lib.run import files
from mistral_lib.run.progress import say

KEY = "key.json"


class Pieces:
    """Files and folders that belong to one key, below `work`."""

    def __init__(self, work: Path, key: str, earlier: Path | None = None):
        """earlier: the folder of a complete export with the same key, whose files may be taken over."""
        self.work, self.key, self.earlier = work, key, earlier
        if _key(work) != key:
            files.fresh_folder(work)
            files.write_json(work / KEY, {"key": key})

    def piece(self, name: str, make: Callable[[Path], object]) -> Path:
        """The file or folder `name`: of a killed export, else of an earlier one, else made now. make: writes it completely or not at all."""
        place = self.work / name
        if place.exists():
            say(f"export: {name} was made before and is used")
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        if self.earlier is not None and (self.earlier / name).exists():
            say(f"export: {name} is taken over from the earlier export")
            link(self.earlier / name, place)
            return place
        make(place)
        return place

    def publish(self, folder: Path, *names: str) -> None:
        """Hard links of these pieces in another folder on the same disk."""
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            link(self.work / name, folder / name)

    def discard(self) -> None:
        shutil.rmtree(self.work)


def intact_keys(run_folder: Path, written: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The keys of the files in export/, by kind, if all of them are as they were written; else none.

    written: `{name below the run folder: {bytes, sha256}}`, as the manifest has them.
    """
    if not written or files.damages(run_folder, written):
        return {}
    return files.read_json(run_folder / "export" / "result.json")["keys"]


def link(source: Path, target: Path) -> None:
    """The same file or folder under a second name, without a second copy; a copy if the disk has no links. It appears at once."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.unlink(missing_ok=True)
    if source.is_dir():
        shutil.copytree(source, partial, copy_function=_link)
    else:
        _link(source, partial)
    os.replace(partial, target)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _key(folder: Path) -> str:
    try:
        return files.read_json(folder / KEY)["key"]
    except (OSError, ValueError, KeyError):
        return ""
