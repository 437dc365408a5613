"""Token ids on disk between tokenizing and packing: flat files, and a few bytes per window in memory.

A record becomes one window, or several if it is longer than a block. On disk a graded token is its id, an ungraded one
the id's complement, which is negative: one file, one read per window.
"""

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from mistral_lib.preparation.record_store import GrownColumn

NAME = "tokens.int32"
BYTES = 4  # of a token
COLUMNS = ("length", "supervised", "record")  # of each window
OPEN = 128  # files open at once


Windows = tuple[np.ndarray, Sequence[int], np.ndarray, np.ndarray]  # consecutive ones: record and length of each; ids, graded of each token


def write(folder: Path, parts: Iterable[Sequence[Windows]]) -> dict[str, np.ndarray]:
    """Write windows, each of at least one token; returns length, supervised and record of all, int32 (windows,)."""
    columns = {name: GrownColumn(np.int32) for name in COLUMNS}
    with open(folder / NAME, "wb", buffering=0) as file:
        for part in parts:
            record, length, ids, graded = (np.concatenate(pieces) for pieces in zip(*part, strict=True))
            supervised = np.add.reduceat(graded, np.cumsum(length) - length, dtype=np.int32)
            for name, values in zip(COLUMNS, (length, supervised, record), strict=True):
                columns[name].append(values)
            file.write(np.where(graded, ids, ~ids).data)
    return {name: column.array() for name, column in columns.items()}


class TokenStore:
    """Reads the windows of all parts by number."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.sizes: list[int] = []  # windows of each part
        self.columns = {name: GrownColumn(np.int32) for name in COLUMNS}
        self.open = lru_cache(maxsize=OPEN)(lambda part: open(self.files[part], "rb", buffering=0))  # noqa: SIM115 — until close()

    def append(self, folder: Path, columns: dict[str, np.ndarray]) -> None:
        """Add a part. columns: what `write` returned."""
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
        pieces = [os.pread(self.open(part).fileno(), length * BYTES, start * BYTES) for part, start, length in places]
        tokens = np.frombuffer(b"".join(pieces), np.int32)
        graded = tokens >= 0
        return np.where(graded, tokens, ~tokens), graded
