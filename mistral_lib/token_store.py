"""Token ids on disk between tokenising and packing: flat files, and a few bytes per window in memory.

A record becomes one window, or several where it is longer than a block. Each window has its place in the flat files,
its length and the number of its record.
"""

from array import array
from pathlib import Path

import numpy as np

from mistral_lib.chat_format import IGNORED, Encoded


class TokenStore:
    """Appends windows, then reads them by number."""

    def __init__(self, folder: Path):
        self.paths = {"ids": folder / "token_ids.int32", "graded": folder / "graded.uint8"}
        self.files = {name: open(path, "w+b", buffering=1 << 20) for name, path in self.paths.items()}  # noqa: SIM115 — until discard()
        self.start, self.length, self.supervised, self.record = array("q"), array("i"), array("i"), array("q")
        self.end = 0

    def add(self, record: int, encoded: Encoded) -> None:
        ids = np.asarray(encoded.input_ids, dtype=np.int32)
        graded = np.asarray(encoded.labels, dtype=np.int32) != IGNORED
        self.files["ids"].write(ids.tobytes())
        self.files["graded"].write(graded.astype(np.uint8).tobytes())
        for column, value in ((self.start, self.end), (self.length, len(ids)), (self.supervised, int(graded.sum())), (self.record, record)):
            column.append(value)
        self.end += len(ids)

    def close(self) -> None:
        """No more windows will come: put them on disk and the columns into arrays."""
        for file in self.files.values():
            file.flush()
        self.start, self.length = np.frombuffer(self.start, dtype=np.int64), np.frombuffer(self.length, dtype=np.int32)
        self.supervised, self.record = np.frombuffer(self.supervised, dtype=np.int32), np.frombuffer(self.record, dtype=np.int64)

    def discard(self) -> None:
        for name, path in self.paths.items():
            self.files[name].close()
            path.unlink()

    def per_record(self, column: str, records: int) -> np.ndarray:
        """A column (length, supervised) summed over the windows of each record, int64 (records,)."""
        return np.bincount(self.record, weights=getattr(self, column), minlength=records).astype(np.int64)

    def window(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids int32 (tokens,) and whether each is graded, bool (tokens,)."""
        start, length = int(self.start[number]), int(self.length[number])
        return self._read("ids", np.int32, start, length), self._read("graded", np.uint8, start, length).astype(bool)

    def _read(self, name: str, dtype: type, start: int, length: int) -> np.ndarray:
        size, file = np.dtype(dtype).itemsize, self.files[name]
        file.seek(start * size)
        return np.frombuffer(file.read(length * size), dtype=dtype)
