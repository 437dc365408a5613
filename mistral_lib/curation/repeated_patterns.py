"""Placeholder text that shows in the complete corpus: many records repeat one sentence with other names or numbers.

Each text is reduced to a skeleton (names, numbers, paths and quotations masked), and equal skeletons are counted by their hashes.
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
LONGEST = 1000  # characters that are compared: placeholder texts are short


def skeleton(text: str) -> str:
    """The text with names, numbers, quotations, paths and file names masked."""
    return " ".join(MASKS.sub(MASK, VARIABLE.sub(MASK, text[:LONGEST])).split())


def skeleton_hash(text: str) -> int:
    """The 64-bit hash of a text's skeleton."""
    return hash64(skeleton(text))


def repeated(hashes: np.ndarray, more_than: int) -> np.ndarray:
    """The hashes that occur more than `more_than` times, ascending. hashes: uint64 (records,)."""
    values, counts = np.unique(hashes, return_counts=True)
    return values[counts > more_than]
