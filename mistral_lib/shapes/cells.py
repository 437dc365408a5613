"""The filled cells of a row by plain key, and which of them were used: what was not used is counted by name in the report.

Upper case, blanks and hyphens of keys do not matter. A cell with null, NaN, an empty text, list or object is not filled.
"""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import orjson

Content = dict[str, Any]  # messages or text; repairs, tools and unused turn keys if there are any
# What pandas and instruction data sets write into an optional cell that has nothing
NOTHING = frozenset({"nan", "none", "null", "<noinput>", "<no input>", "n/a"})


class UnmappableError(ValueError):
    """A row that cannot become a record; the message is a reason code without any content of the row. role: the unknown role, if any."""

    def __init__(self, reason: str, role: str = "") -> None:
        super().__init__(reason)
        self.role = role


class NoFitError(Exception):
    """The keys of a row fit a shape, and its values do not: the next shape is tried."""


class Cells:
    """The filled cells of a row. `take` and `optional` note what they return as used."""

    __slots__ = ("left_in_turns", "spelled", "used", "values")

    def __init__(self, row: Mapping[Any, Any], every: bool = False) -> None:
        """every: also the empty cells, except null."""
        self.spelled = _plain_keys(tuple(row))  # key of the row → plain key
        names = self.spelled
        self.values = {names[key]: part for key, part in row.items() if (part is not None if every else not is_empty(part))}
        self.used: set[str] = set()
        self.left_in_turns: set[str] = set()  # keys of turns and of inner objects that were not used, as `messages.name`

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def has_any(self, keys: frozenset[str]) -> bool:
        return not keys.isdisjoint(self.values)

    def take(self, *keys: str) -> Any:
        """The first of the cells that is filled, else None."""
        for key in keys:
            if key in self.values:
                self.used.add(key)
                return self.values[key]
        return None

    def optional(self, *keys: str) -> Any:
        """The same; a text such as `nan` or `<noinput>` counts as nothing."""
        for key in keys:
            value = self.values.get(key)
            if value is not None:
                self.used.add(key)
                if not (isinstance(value, str) and value.strip().lower() in NOTHING):
                    return value
        return None

    def use(self, *keys: str) -> None:
        """Note cells as used that are left out on purpose."""
        self.used.update(key for key in keys if key in self.values)

    def unused(self) -> list[Any]:
        """The row's own spelling of the filled cells that were not used."""
        return [key for key, plain in self.spelled.items() if plain in self.values and plain not in self.used]


def says_nothing(value: Any) -> bool:
    """Whether a text stands for nothing: `nan`, `<noinput>`, or an empty list or object in JSON."""
    return isinstance(value, str) and (value.strip().lower() in NOTHING or parsed_json(value) in ([], {}))


def is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, list | dict | tuple) and not value) or (isinstance(value, float) and value != value)


@lru_cache(maxsize=2048)
def _plain_keys(keys: tuple[Any, ...]) -> dict[Any, str]:
    """`{key: plain key}`. Of two keys that differ only in their spelling, the second keeps its own."""
    taken: set[str] = {key for key in keys if isinstance(key, str) and key == plain(key)}
    found: dict[Any, str] = {}
    for key in keys:
        name = plain(str(key))
        found[key] = str(key) if name in taken and key != name else name
        taken.add(name)
    return found


def plain(key: str) -> str:
    return key.strip().lower().replace(" ", "_").replace("-", "_")


def as_json(value: Any) -> str:
    """A value that is not text as one line of JSON. Errors: UnmappableError if it is nested too deep to be written (254 levels)."""
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        raise UnmappableError("nested_too_deep") from None


def parsed_json(text: str) -> Any:
    """The list or object that a text is in JSON; None if it is none."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def without_nulls(value: Any, levels: int = 60) -> Any:
    """An object without the keys that have null, at every level: Arrow gives all rows the keys of all other rows."""
    if levels and isinstance(value, dict):
        return {key: without_nulls(part, levels - 1) for key, part in value.items() if part is not None}
    if levels and isinstance(value, list):
        return [without_nulls(part, levels - 1) for part in value]
    return value


def first_of(row: Mapping[str, Any], keys: Iterable[str]) -> Any:
    """The value of the first of the keys that has one, else None."""
    return next((row[key] for key in keys if row.get(key) is not None), None)


def trimmed(text: str) -> str:
    """The text without empty lines at the start and white space at the end. The first line keeps its indentation: it may be code."""
    return text.rstrip().lstrip("\n")
