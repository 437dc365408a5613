"""Placeholder text on the scale of a corpus: many records that are one sentence with another name or number in it.

Each text gets a skeleton (names, numbers, paths and quotations masked); skeletons are counted as 64-bit hashes.
"""

import re

import numpy as np

from mistral_lib.run.files import hash64

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


def skeleton(text: str) -> str:
    """What is left of a text once names, numbers, quotations, paths and file names are masked."""
    return " ".join(MASKS.sub(MASK, VARIABLE.sub(MASK, text[:LONGEST])).split())


def skeleton_hash(text: str) -> int:
    """The 64-bit hash of a text's skeleton."""
    return hash64(skeleton(text))


def repeated(hashes: np.ndarray, more_than: int) -> np.ndarray:
    """The hashes that occur more than `more_than` times, ascending. hashes: uint64 (records,)."""
    values, counts = np.unique(hashes, return_counts=True)
    return values[counts > more_than]
