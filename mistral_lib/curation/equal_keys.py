"""Positions of equal keys among many: in pieces by the size of the key, so that sorting needs little memory beside the keys themselves.

Keys are whole numbers, none of them negative. Positions fit into 31 bits.
"""

from collections.abc import Iterator

import numpy as np

PIECES = 16  # at most; a piece is sorted at once
SMALLEST = 1 << 16  # keys of a piece, on average, unless there are fewer
CHUNK = 1 << 16  # keys whose piece is computed at once, positions that are looked up at once


def first_occurrence(keys: np.ndarray) -> np.ndarray:
    """For each key the position of the first equal one, int32 (n,); beside it 5 bytes per key while it runs, if keys are spread evenly."""
    first = np.arange(len(keys), dtype=np.int32)
    for members, sizes in _runs(keys):
        first[members] = np.repeat(members[np.cumsum(sizes) - sizes], sizes)
    return first


def shared_keys(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positions of all keys that occur twice or more, int32, key after key, each in ascending order; and how often each key occurs."""
    members, sizes = zip(*_runs(keys), strict=True)
    return np.concatenate([one.astype(np.int32) for one in members]), np.concatenate(sizes)


def taken(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """values[positions], without the copy of int32 positions as int64 that numpy makes."""
    found = np.empty(len(positions), values.dtype)
    for start in range(0, len(positions), CHUNK):
        found[start : start + CHUNK] = values[positions[start : start + CHUNK]]
    return found


def _runs(keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each piece what `shared_keys` returns for all, int64; smaller keys first."""
    for at in _pieces(keys):
        own = keys[at]
        order = np.argsort(own, kind="stable")
        own = own[order]
        as_before = np.zeros(len(own) + 1, bool)
        np.equal(own[1:], own[:-1], out=as_before[1:-1])
        shared = as_before[1:] | as_before[:-1]  # dropping single keys first keeps the rest of the work small
        starts = np.flatnonzero(~as_before[:-1][shared])
        yield at[order[shared]], np.diff(starts, append=int(shared.sum()))


def _pieces(keys: np.ndarray) -> Iterator[np.ndarray]:
    """The positions of the keys of each piece, ascending, int64."""
    pieces = min(PIECES, len(keys) // SMALLEST + 1)
    if pieces == 1:
        yield np.arange(len(keys))
        return
    width = keys.dtype.type(int(keys.max()) // pieces + 1)
    piece = np.empty(len(keys), np.uint8)
    for start in range(0, len(keys), CHUNK):
        piece[start : start + CHUNK] = keys[start : start + CHUNK] // width
    for number in range(pieces):
        yield np.flatnonzero(piece == number)
