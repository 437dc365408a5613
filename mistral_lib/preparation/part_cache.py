"""Finished parts of a long stage, kept on disk: a stage that was killed resumes after the last complete part.

A part is a folder of files, arrays and facts that is complete or not there. All parts belong to one key; parts of another key are deleted.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from mistral_lib.run import files, sealed

FACTS, KEY = "facts.json", "key.txt"


class PartCache:
    def __init__(self, folder: Path, key: str):
        """key: a hash of everything that the parts depend on."""
        self.folder = folder
        place = folder / KEY
        if not place.is_file() or place.read_text() != key:
            files.fresh_folder(folder)
            files.write_text(place, key)

    @contextmanager
    def new_part(self, name: str) -> Iterator[Path]:
        """Yields an empty folder for the files of a part; the part is complete when the block ends."""
        with sealed.new_folder(self.folder / name) as folder:
            yield folder
            sealed.seal(folder)

    def part(self, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """The facts and the arrays of a part; None if it is not complete."""
        folder = self.folder / name
        if not sealed.is_complete(folder):
            return None
        return files.read_json(folder / FACTS), {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def write(folder: Path, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Add a part's facts (JSON values) and arrays to its files."""
    (folder / FACTS).write_bytes(orjson.dumps(facts))
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)
