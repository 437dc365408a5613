"""Placeholder text on the scale of a corpus: many records that are one sentence with another name or number in it.

Each text gets a skeleton (names, numbers, paths and quotations masked); skeletons are counted as 64-bit hashes.
"""

import hashlib
import re
from collections.abc import Iterator

import numpy as np

MASK = "·"
VARIABLE = re.compile(
    r"""\"[^\"\n]{1,200}\" | (?<!\w)'[^'\n]{1,200}'(?!\w) | `[^`\n]{1,200}` | <[^<>\n]{1,200}>
    | [a-z]{2,10}://\S+ | (?<!\S)(?:[A-Za-z]:)?[\w.~-]{0,80}[/\\]\S*      # addresses and paths
    | (?<![\w.])[\w-]{1,120}\.[A-Za-z][A-Za-z0-9]{0,9}(?!\w)              # file names
    | (?<!\w)[A-Z][\w'’-]*+(?:[ ][A-Z][\w'’-]*+)*+(?:\.[A-Za-z][A-Za-z0-9]{0,9}(?!\w))?                        # names, however many words (Annual Review.docx)
    | [0-9]\w*(?:[.,:][0-9]+)*""",
    re.VERBOSE,
)
MASKS = re.compile(rf"{MASK}(?:[\s,.:;-]*{MASK})++")
LONGEST = 1000  # characters: what stands in for a text is short, and a long text is told apart by its start
CHUNK = 1 << 18  # hashes in memory at once
CELLS = 1 << 21  # of each of the two rows of counts: 16 MiB in all


def skeleton(text: str) -> str:
    """What is left of a text once names, numbers, quotations, paths and file names are masked."""
    return " ".join(MASKS.sub(MASK, VARIABLE.sub(MASK, text[:LONGEST])).split())


def skeleton_hash(text: str) -> int:
    """64 bits of a skeleton, for an array of numpy.uint64; the same on every machine and in every run."""
    return int.from_bytes(hashlib.blake2b(skeleton(text).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def repeated(hashes: np.ndarray, more_than: int) -> np.ndarray:
    """The hashes that occur more than `more_than` times, ascending, exactly.

    hashes: uint64, (records,); a numpy.memmap is read in chunks, twice. Beside it 16 MiB and the candidates are in memory:
    the first pass counts in a fixed number of cells and so never too low, the second counts what it left over exactly.
    Source: Cormode and Muthukrishnan 2005, "An improved data stream summary: the count-min sketch".
    """
    cells = np.zeros((2, CELLS), dtype=np.uint32)
    for chunk in _chunks(hashes):
        for row, places in zip(cells, _places(chunk), strict=True):
            np.add.at(row, places, 1)
    values, counts = np.empty(0, np.uint64), np.empty(0, np.int64)
    for chunk in _chunks(hashes):
        low, high = _places(chunk)
        candidates = chunk[(cells[0][low] > more_than) & (cells[1][high] > more_than)]
        values, counts = _merged(values, counts, *np.unique(candidates, return_counts=True))
    return values[counts > more_than]


def _chunks(hashes: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(hashes), CHUNK):
        yield np.asarray(hashes[start : start + CHUNK], dtype=np.uint64)


def _places(chunk: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The cell of each hash in either row: its lowest bits and its highest."""
    bits = np.uint64(CELLS.bit_length() - 1)
    return (chunk & np.uint64(CELLS - 1)).astype(np.intp), (chunk >> (np.uint64(64) - bits)).astype(np.intp)


def _merged(values: np.ndarray, counts: np.ndarray, more: np.ndarray, their_counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    merged, where = np.unique(np.concatenate([values, more]), return_inverse=True)
    totals = np.bincount(where, weights=np.concatenate([counts, their_counts]), minlength=len(merged))
    return merged, totals.astype(np.int64)
