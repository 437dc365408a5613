"""A column of numbers that waits on disk while no step asks for it: eight bytes a row that memory need not hold."""

from pathlib import Path

import numpy as np


class StoredColumn:
    """Plain reads, no memory map: mapped pages would count as memory of the process."""

    def __init__(self, path: Path, values: np.ndarray) -> None:
        self.path, self.dtype = path, values.dtype
        values.tofile(path)

    def read(self) -> np.ndarray:
        """All of it, anew."""
        return np.fromfile(self.path, self.dtype)
