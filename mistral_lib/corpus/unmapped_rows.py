"""What was not understood, by name: keys that were not used, roles that are not known, and rows of no known shape.

Names are free of secrets, and limited in length and number: a report must stay readable whatever the keys of a corpus are.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

from mistral_lib.curation.redaction import redact

LONGEST_NAME = 40  # characters
MOST_KEYS = 30  # of one row that are named
MOST_NAMES = 200  # of one kind that a report has
MOST_COUNTED = 50_000  # of one kind that are counted, so that memory is bounded
OTHERS = "(others)"
NO_TEXT = re.compile(
    r"(?i)(?:^|[_ -])(?:uu|gu)?id$|(?<=[a-z])Id$|(?:^|[_ -])(?:at|date|time|timestamp|hash|sha\d*|md5|url|uri|link|source|lang|language|split)$"
)
UNKNOWN = "unknown_shape"  # the reason of a row whose keys are no known shape


@lru_cache(maxsize=4096)
def key_name(key: Any) -> str:
    """A key as a report names it."""
    return redact(" ".join(str(key).split()))[0][:LONGEST_NAME]


def key_names(value: Any) -> list[str]:
    """The names of the keys of a row."""
    return [key_name(key) for key in islice(value, MOST_KEYS)] if isinstance(value, dict) else []


def count(counts: Counter, found: Mapping[str, int]) -> None:
    """Add the counts of further rows. Of too many names the first ones of the corpus count by themselves: so the result is the same
    however the rows were divided, as long as they are added in their order."""
    if len(counts) + len(found) <= MOST_COUNTED:
        counts.update(found)
        return
    for name, number in found.items():
        counts[name if name in counts or len(counts) < MOST_COUNTED else OTHERS] += number


def most_frequent(counts: Counter) -> Counter:
    """The counts as a report has them: all but the most frequent names together."""
    names = sorted((name for name in counts if name != OTHERS), key=lambda name: (-counts[name], name))
    if len(names) <= 2 * MOST_NAMES:
        return counts
    others = set(names[MOST_NAMES:])
    kept = Counter({name: number for name, number in counts.items() if name not in others})
    kept[OTHERS] += sum(counts[name] for name in others)
    return kept


def widths(value: Mapping[Any, Any]) -> dict[str, int]:
    """The characters of each text of a row of unknown shape, by the name of its key; 0 for what is no text."""
    return {key_name(key): len(part) if isinstance(part, str) else 0 for key, part in islice(value.items(), MOST_KEYS)}


def suggested_columns(characters: Mapping[str, int]) -> str:
    """A value of the parameter `columns` that maps a row with these texts: its two longest, or its only one.

    Ids, dates, links and the like are left out unless nothing else remains.
    """
    filled = [key for key, count in characters.items() if count]
    said = [key for key in filled if not NO_TEXT.search(key)] or filled
    texts = sorted(said, key=lambda key: -characters[key])[:2]
    if len(texts) == 2:
        asked, answered = map(json.dumps, sorted(texts, key=list(characters).index))
        return f'columns = {{"prompt": {asked}, "answer": {answered}}} or columns = {{"text": {json.dumps(texts[0])}}}'
    return f'columns = {{"text": {json.dumps(texts[0])}}}' if texts else ""


def described(shapes: Iterable[Mapping[str, Any]], roles: Mapping[str, int], most: int = 3) -> str:
    """What rows of no known shape look like, and what would map them. shapes: {"keys": {name: characters}, "rows": count}."""
    parts = []
    for one in sorted(shapes, key=lambda one: -one["rows"])[:most]:
        advice = suggested_columns(one["keys"])
        named = f"; if these are the right ones, set {advice}" if advice else "; none of them has a text"
        parts.append(f"{one['rows']:,} rows have the keys {', '.join(one['keys'])}{named}")
    if roles:
        parts.append(f"unknown roles of turns: {counted(roles)}; write user, assistant, system or tool for them in the files")
    return ". ".join(parts)


def counted(counts: Mapping[str, int], most: int = 10) -> str:
    """The most frequent names with their counts."""
    names = sorted(counts, key=lambda name: (-counts[name], name))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(f"{name} ({counts[name]:,})" for name in names[:most]) + more
