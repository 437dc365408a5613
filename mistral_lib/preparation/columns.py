"""Columns of numbers: one appended to part by part without a small object for each part, and one on disk while no step needs it.

A small object that stays alive among many short-lived ones keeps a megabyte of Python's memory from being released; a few
hundred parts leave a few thousand of them.
"""

from pathlib import Path

import numpy as np


class GrownColumn:
    """Numbers that are appended in stretches; memory holds them once, and at most an eighth more."""

    def __init__(self, kind: str | type) -> None:
        self.kind, self.bytes = np.dtype(kind), bytearray()

    def append(self, values: np.ndarray) -> None:
        self.bytes += np.ascontiguousarray(values, self.kind).data.cast("B")

    def array(self) -> np.ndarray:
        """All of them, as one writable array; nothing can be appended while it is in use."""
        return np.frombuffer(self.bytes, self.kind)


class StoredColumn:
    """Numbers on disk. Plain reads, no memory map: mapped pages would count as memory of the process."""

    def __init__(self, path: Path, values: np.ndarray) -> None:
        """path: ends with .npy."""
        self.path = path
        self.overwrite(values)

    def read(self) -> np.ndarray:
        return np.load(self.path)

    def overwrite(self, values: np.ndarray) -> None:
        np.save(self.path, values)
