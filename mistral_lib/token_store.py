"""Token ids on disk between tokenising and packing: flat files, and a few bytes per window in memory.

A record becomes one window, or several where it is longer than a block. On disk a token is its id if it is graded, else
the id's complement, which is negative: one file, one read per window.
"""

import os
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mistral_lib.chat_format import IGNORED, Encoded

NAME = "tokens.int32"
BYTES = 4  # of a token
COLUMNS = ("length", "supervised", "record")  # of each window
WAITING = 1 << 18  # tokens written at once
OPEN = 128  # files open at once


class TokenWriter:
    """Appends the windows of one part to a file; its columns are arrays of one number per window."""

    def __init__(self, folder: Path):
        self.file = open(folder / NAME, "wb", buffering=0)  # noqa: SIM115 — until close()
        self.windows: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
        self.waiting: list[np.ndarray] = []  # tokens that are not yet on disk

    def add(self, record: int, encoded: Encoded) -> None:
        """One window."""
        labels = np.array(encoded.labels, np.int32)
        self.add_all(np.array([record]), np.array(encoded.input_ids, np.int32), labels != IGNORED, np.array([len(labels)]))

    def add_all(self, records: np.ndarray, ids: np.ndarray, graded: np.ndarray, lengths: np.ndarray) -> None:
        """Windows one after the other. records, lengths: of each its record and its tokens, at least one; ids, graded: of each token."""
        if not len(records):
            return
        supervised = np.add.reduceat(graded, np.cumsum(lengths) - lengths, dtype=np.int32)
        for name, values in zip(COLUMNS, (lengths, supervised, records), strict=True):
            self.windows[name].append(values.astype(np.int32))
        self.waiting.append(np.where(graded, ids, ~ids))
        if sum(map(len, self.waiting)) > WAITING:
            self.flush()

    def flush(self) -> None:
        self.file.write(np.concatenate([np.empty(0, np.int32), *self.waiting]).data)
        self.waiting = []

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()  # also on a full disk, which gets nothing back while a file is open

    def columns(self) -> dict[str, np.ndarray]:
        """length, supervised and record of all windows, int32 (windows,); the last tokens are on disk then."""
        self.flush()
        return {name: np.concatenate([np.empty(0, np.int32), *values]) for name, values in self.windows.items()}


class TokenStore:
    """Reads the windows of all parts by number."""

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.parts: list[dict[str, np.ndarray]] = []
        self.open = lru_cache(maxsize=OPEN)(self._open)

    def _open(self, part: int) -> BinaryIO:
        return open(self.files[part], "rb", buffering=0)

    def append(self, folder: Path, columns: dict[str, np.ndarray]) -> None:
        """A part that a TokenWriter wrote."""
        self.files.append(folder / NAME)
        self.parts.append(columns)

    def close(self) -> None:
        """No more parts will come: put the columns together."""
        sizes = [len(part["length"]) for part in self.parts]
        self.part = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)  # of each window
        self.start = np.concatenate([np.cumsum(part["length"], dtype=np.int64) - part["length"] for part in self.parts])  # in its file
        self.length, self.supervised, self.record = (np.concatenate([part.pop(name) for part in self.parts]) for name in COLUMNS)

    def forget(self) -> None:
        """Nothing more will be read: close the files."""
        self.open.cache_clear()

    def per_record(self, column: str, records: int) -> np.ndarray:
        """A column (length, supervised) summed over the windows of each record, int32 (records,)."""
        sums = np.zeros(records, np.int32)
        np.add.at(sums, self.record, getattr(self, column))
        return sums

    def read(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids, int32, and whether each is graded, bool, of the windows one after the other."""
        places = zip(*(column[windows].tolist() for column in (self.part, self.start, self.length)), strict=True)
        pieces = [_read(self.open(part), length * BYTES, start * BYTES) for part, start, length in places]
        tokens = np.frombuffer(b"".join(pieces), np.int32)
        graded = tokens >= 0
        return np.where(graded, tokens, ~tokens), graded


def _read(file: BinaryIO, count: int, start: int) -> bytes:
    return os.pread(file.fileno(), count, start)
