"""Token ids on disk between tokenizing and packing: flat files, and a few bytes per window in memory.

A record becomes one window, or several if it is longer than a block. On disk a graded token is its id, an ungraded one
the id's complement, which is negative: one file, one read per window.
"""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mistral_lib.preparation.columns import GrownColumn

NAME = "tokens.int32"
BYTES = 4  # of a token
COLUMNS = ("length", "supervised", "record")  # of each window
OPEN = 128  # files open at once


class Windows:
    """Windows that are written together, each of at least one token."""

    def __init__(self) -> None:
        self.record: list[np.ndarray] = []
        self.length: list[Sequence[int]] = []
        self.ids: list[np.ndarray] = []
        self.graded: list[np.ndarray] = []

    def add(self, records: np.ndarray, lengths: Sequence[int], ids: np.ndarray, graded: np.ndarray) -> None:
        """Add consecutive windows. records, lengths: one per window; ids, graded: one per token."""
        if len(records):
            self.record.append(records)
            self.length.append(lengths)
            self.ids.append(ids)
            self.graded.append(graded)


class TokenWriter:
    """Appends the windows of one part to a file; its columns are arrays of one number per window."""

    def __init__(self, folder: Path):
        self.file = open(folder / NAME, "wb", buffering=0)  # noqa: SIM115 — until close()
        self.columns_so_far: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}

    def add(self, windows: Windows) -> None:
        if not windows.record:
            return
        length, ids, graded = (np.concatenate(parts) for parts in (windows.length, windows.ids, windows.graded))
        supervised = np.add.reduceat(graded, np.cumsum(length) - length, dtype=np.int32)
        for name, values in zip(COLUMNS, (length, supervised, np.concatenate(windows.record)), strict=True):
            self.columns_so_far[name].append(values.astype(np.int32))
        self.file.write(np.where(graded, ids, ~ids).data)

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        self.file.close()  # also on a full disk: the space of a deleted file is free only after it is closed

    def columns(self) -> dict[str, np.ndarray]:
        """length, supervised and record of all windows, int32 (windows,)."""
        return {name: np.concatenate([np.empty(0, np.int32), *values]) for name, values in self.columns_so_far.items()}


class TokenStore:
    """Reads the windows of all parts by number."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.sizes: list[int] = []  # windows of each part
        self.columns = {name: GrownColumn(np.int32) for name in COLUMNS}
        self.open = lru_cache(maxsize=OPEN)(self._open)

    def _open(self, part: int) -> BinaryIO:
        return open(self.files[part], "rb", buffering=0)

    def append(self, folder: Path, columns: dict[str, np.ndarray]) -> None:
        """Add a part that a TokenWriter wrote."""
        self.files.append(str(folder / NAME))
        self.sizes.append(len(columns["length"]))
        for name, column in self.columns.items():
            column.append(columns[name])

    def index(self) -> None:
        """After the last part: note the file and the offset of each window."""
        self.length, self.supervised, self.record = (self.columns[name].array() for name in COLUMNS)
        self.part = np.repeat(np.arange(len(self.sizes), dtype=np.min_scalar_type(len(self.sizes))), self.sizes)  # of each window
        ends = np.cumsum(self.sizes)
        own = [self.length[end - size : end] for size, end in zip(self.sizes, ends, strict=True)]
        most = max((int(part.sum(dtype=np.int64)) for part in own), default=0)
        self.start = np.empty(len(self.length), np.min_scalar_type(most))  # of each window, in its file
        for part, size, end in zip(own, self.sizes, ends, strict=True):
            self.start[end - size : end] = np.cumsum(part, dtype=np.int64) - part

    def close(self) -> None:
        """Close the files: nothing more is read. What was counted stays."""
        self.open.cache_clear()
        self.part = self.start = None

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
