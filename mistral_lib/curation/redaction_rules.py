"""What a redaction rule is: a kind, cheap words that must be there, a precise pattern, and a check of the value."""

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

Span = tuple[int, int]

# Gates: what a text must show before any word is looked for. Telling takes one pass over its bytes.
ALWAYS, LONG_WORD, DIGITS, ASSIGNMENT = "always", "long word", "digits", "assignment"
WORD_BYTES = bytes(ord("w") if chr(b).isascii() and (chr(b).isalnum() or chr(b) in "_-") else ord(" ") for b in range(256))
DIGIT_BYTES = bytes(ord("0") if chr(b) in "0123456789" else ord(" ") for b in range(256))
LONG = b"w" * 15  # characters in a row without which there is no provider token
FOUR_DIGITS = b"0000"


def words(listing: str) -> frozenset[str]:
    """The words of a listing with blanks between."""
    return frozenset(listing.split())


def whole_value(match: re.Match[str]) -> Span | None:
    """The group `value` if the pattern names one, else all of the match."""
    return match.span("value" if "value" in match.re.groupindex else 0)


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    kind: str  # what is counted: github_token
    placeholder: str  # what stands in the text afterwards: <GITHUB_TOKEN>
    needles: tuple[str, ...]  # the pattern is tried only where one of these stands; (): wherever the gate is open
    pattern: re.Pattern[str]  # linear on any input: bounded repeats, or starts that cannot stand inside a run
    span: Callable[[re.Match[str]], Span | None] = whole_value  # the part to replace; None: no such thing after all
    gate: str = ALWAYS


def open_gates(text: str) -> list[str]:
    """The gates that a text opens."""
    raw = text.encode("utf-8", "surrogatepass")
    gates = [ALWAYS]
    if LONG in raw.translate(WORD_BYTES):
        gates.append(LONG_WORD)
    if FOUR_DIGITS in raw.translate(DIGIT_BYTES):
        gates.append(DIGITS)
    if "=" in text or ":" in text:
        gates.append(ASSIGNMENT)
    return gates


def entropy(value: str) -> float:
    """Shannon entropy of the characters, bits per character. Source: C. E. Shannon 1948, section 6."""
    total = len(value)
    return -sum(count / total * math.log2(count / total) for count in Counter(value).values()) if total else 0.0
