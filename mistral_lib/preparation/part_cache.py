"""What a long stage has finished so far, part by part, so that a killed one goes on where it was.

A part is a folder of files and arrays that is sealed last, with a hash of each: what is not sealed, or altered since, is
not there and is made again. All parts belong to one key; parts of another key are removed.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from mistral_lib.run import files

SEAL, KEY = "sealed.json", "key.txt"


class FinishedParts:
    def __init__(self, folder: Path, key: str):
        """key: everything that the parts depend on, as a hash."""
        self.folder = folder
        place = folder / KEY
        if not place.is_file() or place.read_text() != key:
            files.fresh_folder(folder)
            files.write_text(place, key)

    def begin(self, name: str) -> Path:
        """An empty folder for the files of a part."""
        return files.fresh_folder(self.folder / name)

    def seal(self, name: str, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """The part is finished: write its arrays beside its files, and last of all the seal. facts: JSON values."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        for array, values in arrays.items():
            np.save(folder / f"{array}.npy", values)
        hashes = {path.name: files.sha256(path) for path in sorted(folder.iterdir())}
        seal = {"facts": facts, "arrays": sorted(arrays), "files": hashes}
        (folder / f".{SEAL}").write_bytes(orjson.dumps(seal))  # not forced to disk: what a power cut leaves is found out by its hash
        (folder / f".{SEAL}").rename(folder / SEAL)

    def finished(self, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """The facts and arrays of a part that is finished and unaltered."""
        folder = self.folder / name
        try:
            seal = files.read_json(folder / SEAL)
            if any(files.sha256(folder / file) != expected for file, expected in seal["files"].items()):
                return None
        except (OSError, ValueError):
            return None
        return seal["facts"], {array: np.load(folder / f"{array}.npy") for array in seal["arrays"]}

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
