"""Which texts are near-duplicates: the exact Jaccard similarity of their word 5-grams reaches a threshold.

In Chinese, Japanese, Thai, Lao, Khmer and Burmese, which put no blanks between words, each letter counts as a word.
To change the measure, change also what assumes it: `bands_and_rows` and `least_agreement` in minhash.py, which propose candidates, the
fast way to the same words in minhash.py, and `near_copies` in preparation/survey/corpus_index.py. Then raise FORMAT["data"] in run/folder.py.
Source: Broder 1997, "On the resemblance and containment of documents"
"""

import re

GRAM = 5  # words in a shingle
LETTERS = "".join((
    "\u0e00-\u0eff", "\u1000-\u109f", "\u1780-\u17ff",  # Thai and Lao, Burmese, Khmer
    "\u3040-\u30ff", "\uff66-\uff9f",  # Hiragana and Katakana
    "\u3005", "\u3400-\u4dbf", "\u4e00-\u9fff", "\uf900-\ufaff", "\U00020000-\U0003fffd",  # Chinese characters
))  # fmt: skip
WORD = re.compile(rf"[{LETTERS}]|[^\W{LETTERS}]+")

# What folded words leave out and what may be all that differs in short texts: operators, brackets, currencies, emoji, a minus, C#, 5!
# Each branch begins with its character, so that `re` skips all others at once: four times as fast as with the lookbehind first.
SYMBOLS = re.compile(
    r"[+*/%=<>^~|&()\[\]{}$€£¥°√×÷±¬\u2190-\u22ff\u2600-\u27bf\U0001f000-\U0001faff]|-(?<!\w-)|#(?<=\w#)|!(?:(?<=\d!)|(?==))"
)

Shingles = set[tuple[str, ...]]


def folded_words(text: str) -> list[str]:
    """Lower-cased words, without the blanks, punctuation and line ends between them."""
    return WORD.findall(text.lower())


def symbols(text: str) -> str:
    """The operators, brackets, emoji and the like of a text, in their order."""
    return "".join(SYMBOLS.findall(text))


def shingles(text: str) -> Shingles:
    """The distinct word 5-grams of a text; empty for texts with fewer than five words."""
    return grams(folded_words(text))


def grams(words: list[str]) -> Shingles:
    """The distinct 5-grams of a list of words."""
    return set(zip(*(words[k:] for k in range(GRAM)), strict=False))


def jaccard(a: set, b: set) -> float:
    """Shared members divided by all members, 0 to 1; 0 for two empty sets."""
    shared = len(a & b)
    return shared / (len(a) + len(b) - shared) if shared else 0.0


def are_near(a: set, b: set, threshold: float) -> bool:
    """Whether two texts are near-duplicates, by their shingles."""
    return jaccard(a, b) >= threshold
