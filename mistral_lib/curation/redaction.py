"""Replaces secrets and personal data in a text by typed placeholders such as <EMAIL>.

The rules are in the package `detection`; this module searches and replaces. It returns the text without the values, and their number
by kind. The values are in no other result, no exception and no log.
Source of the order (strings that are fast to find, then precise patterns, then a check of the value): gitleaks, detect-secrets.
"""

import re
from collections import Counter
from functools import lru_cache

from ahocorasick_rs import AhoCorasick, Implementation, MatchKind

from mistral_lib.detection import kinds
from mistral_lib.detection.rules import Rule, open_gates

GROUPS: dict[str, tuple[Rule, ...]] = kinds.GROUPS
USUAL = ("secrets", "personal_data")  # the groups that are searched by default; the others are the kinds that are off by default
PLACEHOLDER = re.compile("<(?:" + "|".join(sorted({rule.placeholder[1:-1] for rules in GROUPS.values() for rule in rules})) + ")>")
ROUNDS = 16  # two are usual; a limit, since a hostile text could need a round for each of its characters


class Finder:
    """Tells which rules could find something: one pass over the text looks for the needles of all rules."""

    def __init__(self, groups: tuple[str, ...]) -> None:
        self.rules = [rule for group in groups for rule in GROUPS[group]]
        called: dict[str, set[int]] = {}  # needle → places of its rules
        for place, rule in enumerate(self.rules):
            for needle in rule.needles:
                called.setdefault(needle, set()).add(place)
        without = [(place, rule.gate) for place, rule in enumerate(self.rules) if not rule.needles]
        self.by_gate = {gate: {place for place, own in without if own == gate} for _, gate in without}
        self.by_character = [(needle, places) for needle, places in called.items() if len(needle) == 1]  # `in` is faster for these
        longer = {needle: places for needle, places in called.items() if len(needle) > 1}
        self.by_needle = list(longer.values())
        self.automaton = AhoCorasick(list(longer), matchkind=MatchKind.Standard, implementation=Implementation.DFA)

    def possible(self, text: str) -> list[Rule]:
        """The rules whose needles and gates the text has, in their order. Nearly always there is none, and this case has to be fast."""
        places: set[int] = set()
        for needle in {match[0] for match in self.automaton.find_matches_as_indexes(text, overlapping=True)}:
            places |= self.by_needle[needle]
        for needle, own in self.by_character:
            if needle in text:
                places |= own
        gates = open_gates(text)
        for gate in gates & self.by_gate.keys():
            places |= self.by_gate[gate]
        return [rule for place in sorted(places) if (rule := self.rules[place]).gate in gates]


@lru_cache(maxsize=16)
def _finder(groups: tuple[str, ...]) -> Finder:
    return Finder(groups)


def possible_rules(text: str, groups: tuple[str, ...] = USUAL) -> list[Rule]:
    """The rules that could find something in the text."""
    return _finder(groups).possible(text)


def redact(text: str, groups: tuple[str, ...] = USUAL, rules: list[Rule] | None = None) -> tuple[str, dict[str, int]]:
    """The text with placeholders, and the number of values found by kind. Redacting the result again finds nothing.

    groups: names in GROUPS. rules: those that could find something, if they are known. Errors: KeyError for another group.
    """
    found: dict[str, int] = {}
    # A placeholder can uncover another value in the same word, so the result is searched again until nothing is found.
    for _ in range(ROUNDS):
        replaced = 0
        for rule in possible_rules(text, groups) if rules is None else rules:
            text, count = _replace(text, rule)
            if count:
                found[rule.kind] = found.get(rule.kind, 0) + count
                replaced += count
        if not replaced:
            break
        rules = None
    return text, found


def find(text: str, groups: tuple[str, ...] = USUAL) -> dict[str, int]:
    """The number of values of each kind in the text."""
    return redact(text, groups)[1]


def redact_all(texts: list[str], groups: tuple[str, ...] = USUAL) -> tuple[list[str], dict[str, int]]:
    """`redact` for the texts of one record; the fast search for possible rules is done once for all of them."""
    rules = possible_rules("\n".join(texts), groups) if groups else []
    if not rules:
        return texts, {}
    cut = [redact(text, groups, rules) for text in texts]
    return [text for text, _ in cut], dict(sum((Counter(counts) for _, counts in cut if counts), Counter()))


def _replace(text: str, rule: Rule) -> tuple[str, int]:
    pieces, end, count = [], 0, 0
    for match in rule.pattern.finditer(text):
        span = rule.span(match)
        if span is not None:
            pieces += [text[end : span[0]], rule.placeholder]
            end, count = span[1], count + 1
    return ("".join([*pieces, text[end:]]), count) if count else (text, 0)
