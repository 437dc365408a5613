"""A redaction rule: a kind, words that are fast to find, a precise pattern, and a check of the value."""

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

Span = tuple[int, int]

# Gates: what a text must contain before any word is searched for. One pass over its bytes finds out.
ALWAYS, LONG_WORD, DIGITS, ASSIGNMENT = "always", "long word", "digits", "assignment"
WORD_BYTES = bytes(ord("w") if chr(b).isascii() and (chr(b).isalnum() or chr(b) in "_-") else ord(" ") for b in range(256))
DIGIT_BYTES = bytes(ord("0") if chr(b) in "0123456789" else ord(" ") for b in range(256))
LONG = b"w" * 15  # the shortest row of such characters in a provider token
FOUR_DIGITS = b"0000"


def words(listing: str) -> frozenset[str]:
    """The words of a listing, separated by white space."""
    return frozenset(listing.split())


def whole_value(match: re.Match[str]) -> Span | None:
    """The span of the group `value` if the pattern has one, else of the match."""
    return match.span("value" if "value" in match.re.groupindex else 0)


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    kind: str  # as it is counted: github_token
    placeholder: str  # what replaces the value: <GITHUB_TOKEN>
    needles: tuple[str, ...]  # the pattern is tried only if the text contains one of these; (): if the gate is open
    pattern: re.Pattern[str]  # linear on any input: bounded repeats, or starts that cannot occur inside a run
    span: Callable[[re.Match[str]], Span | None] = whole_value  # the part to replace; None: not such a value after all
    gate: str = ALWAYS


def open_gates(text: str) -> list[str]:
    """The gates whose condition the text meets."""
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
