"""Replaces secrets and personal data in a text by typed placeholders such as <EMAIL>.

The rules are in `secret_patterns` and `personal_data`; this module searches and replaces. It returns the text without the values,
and their number by kind. The values are in no other result, no exception and no log.
Source of the order (words that are fast to find, then precise patterns, then a check of the value): gitleaks, detect-secrets.
"""

import re
from collections import Counter
from functools import lru_cache

from mistral_lib.curation import personal_data, secret_patterns
from mistral_lib.curation.redaction_rules import Rule, open_gates

GROUPS: dict[str, tuple[Rule, ...]] = {"secrets": secret_patterns.RULES, "personal_data": personal_data.RULES}
PLACEHOLDER = re.compile("<(?:" + "|".join(sorted({rule.placeholder[1:-1] for rules in GROUPS.values() for rule in rules})) + ")>")
ROUNDS = 16  # two are usual; a limit, since a hostile text could need a round for each of its characters


@lru_cache(maxsize=8)
def _plan(groups: tuple[str, ...]) -> tuple[tuple[Rule, ...], dict[str, dict[str, set[Rule]]]]:
    """The rules in their order; and by gate, for each needle, the rules that search for it."""
    rules = tuple(rule for group in groups for rule in GROUPS[group])
    called: dict[str, dict[str, set[Rule]]] = {}
    for rule in rules:
        for needle in rule.needles or ("",):  # the empty string is in every text
            called.setdefault(rule.gate, {}).setdefault(needle, set()).add(rule)
    return rules, called


def possible_rules(text: str, groups: tuple[str, ...] = tuple(GROUPS)) -> list[Rule]:
    """The rules that could find something. Nearly always there is none, and this case has to be fast."""
    rules, called = _plan(groups)
    wanted: set[Rule] = set()
    for gate in open_gates(text):
        needles = called.get(gate, {})
        for needle in [needle for needle in needles if needle in text]:
            wanted |= needles[needle]
    return [rule for rule in rules if rule in wanted] if wanted else []


def redact(text: str, groups: tuple[str, ...] = tuple(GROUPS)) -> tuple[str, dict[str, int]]:
    """The text with placeholders, and the number of values found by kind. Redacting the result again finds nothing.

    groups: "secrets", "personal_data" or both. Errors: KeyError for another name.
    """
    found: Counter[str] = Counter()
    # A placeholder can uncover another value in the same word, so the result is searched again until nothing is found.
    for _ in range(ROUNDS):
        before = found.total()
        for rule in possible_rules(text, groups):
            text, count = _replace(text, rule)
            if count:
                found[rule.kind] += count
        if found.total() == before:
            break
    return text, dict(found)


def find(text: str, groups: tuple[str, ...] = tuple(GROUPS)) -> dict[str, int]:
    """The number of values of each kind in the text."""
    return redact(text, groups)[1]


def redact_all(texts: list[str], groups: tuple[str, ...] = tuple(GROUPS)) -> tuple[list[str], dict[str, int]]:
    """`redact` for the texts of one record; the fast search for possible rules is done once for all of them."""
    if not groups or not possible_rules("\n".join(texts), groups):
        return texts, {}
    cut = [redact(text, groups) for text in texts]
    return [text for text, _ in cut], dict(sum((Counter(counts) for _, counts in cut), Counter()))


def _replace(text: str, rule: Rule) -> tuple[str, int]:
    pieces, end, count = [], 0, 0
    for match in rule.pattern.finditer(text):
        span = rule.span(match)
        if span is not None:
            pieces += [text[end : span[0]], rule.placeholder]
            end, count = span[1], count + 1
    return ("".join([*pieces, text[end:]]), count) if count else (text, 0)
