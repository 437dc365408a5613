"""A detection rule: a kind, strings that are fast to find, a precise pattern, and a check of the value."""

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

Span = tuple[int, int]

# Gates: what a text must contain, beside a needle, before a pattern is tried. Substrings of its bytes tell it fast.
ALWAYS, LONG_WORD, LONGER_WORD, SEVEN_DIGITS = "always", "long word", "longer word", "seven digits"
WORD_BYTES = bytes(ord("w") if chr(b).isascii() and chr(b).isalnum() else ord(" ") for b in range(256))
DIGIT_BYTES = bytes(ord("0") if chr(b) in "0123456789" else ord("a") for b in range(256))
NO_DIGITS = bytes(b for b in range(256) if chr(b) not in "0123456789")
SEPARATORS = b" .-()/\xc2\xa0\xe2\x80\x90\x91\x93"  # between the digits of one number; the last ones: NBSP and hyphens in UTF-8
LONG, LONGER = b"w" * 16, b"w" * 23  # letters and digits in a row
FEWEST_DIGITS = 7


def words(listing: str) -> frozenset[str]:
    """The words of a listing, separated by white space."""
    return frozenset(listing.split())


def spellings(*needles: str) -> tuple[str, ...]:
    """Each word in lower case, with a capital, and in upper case."""
    return tuple(dict.fromkeys(form for word in needles for form in (word.lower(), word.capitalize(), word.upper())))


def whole_value(match: re.Match[str]) -> Span | None:
    """The span of the group `value` if it is part of the match, else of the match."""
    return match.span("value" if match.groupdict().get("value") is not None else 0)


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    kind: str  # as it is counted: github_token
    placeholder: str  # what replaces the value: <GITHUB_TOKEN>
    needles: tuple[str, ...]  # the pattern is tried only if the text contains one of these; (): if the gate is open
    pattern: re.Pattern[str]  # linear on any input: bounded repeats, or starts that cannot occur inside a run
    span: Callable[[re.Match[str]], Span | None] = whole_value  # the part to replace; None: not such a value after all
    gate: str = ALWAYS


def open_gates(text: str) -> set[str]:
    """The gates whose condition the text meets."""
    raw = text.encode("utf-8", "surrogatepass")
    gates = {ALWAYS}
    marked = raw.translate(WORD_BYTES)
    if LONG in marked:
        gates.add(LONG_WORD)
        if LONGER in marked:
            gates.add(LONGER_WORD)
    if len(raw.translate(None, NO_DIGITS)) >= FEWEST_DIGITS and b"0" * FEWEST_DIGITS in raw.translate(DIGIT_BYTES, SEPARATORS):
        gates.add(SEVEN_DIGITS)
    return gates


def entropy(value: str) -> float:
    """Shannon entropy of the characters, bits per character. Source: C. E. Shannon 1948, section 6."""
    total = len(value)
    return -sum(count / total * math.log2(count / total) for count in Counter(value).values()) if total else 0.0


RUNS = re.compile("[A-Z]?[a-z]+|[A-Z]+|[0-9]+")


def mixed(value: str) -> bool:
    """Whether capitals, small letters and digits alternate as in a generated value (Tz8kQp2v), unlike in a name (dbPassword2)."""
    runs = RUNS.findall(value)
    return len(runs) >= 4 and sum(map(len, runs)) < 2.2 * len(runs)
