"""Which rows a JSON value contains: an array, a wrapper such as {"train": [...]}, a table as pandas writes it, or parallel lists.

A value that is one row itself, such as a chat with its list of turns, stays whole.
"""

from collections.abc import Mapping
from typing import Any

from mistral_lib.shapes.cells import plain
from mistral_lib.shapes.turns import ROLES

# a value that has two of these keys, or a list of turns, is one row
RECORD_KEYS = {"messages", "conversations", "conversation", "text", "prompt", "completion", "response", "content", "question", "answer",
               "instruction", "input", "output", "chosen", "rejected"}  # fmt: skip
WRAPPERS = {"data", "rows", "records", "examples", "items", "dataset", "datasets", "samples", "entries", "results", "instances", "documents",
            "train", "training", "test", "validation", "valid", "val", "dev", "eval", "evaluation"}  # fmt: skip
SHARED = {"system": "system", "system_prompt": "system", "tools": "tools", "functions": "tools", "instruction": "instruction",
          "definition": "instruction"}  # fmt: skip
ROLE_KEYS, SAID = ("role", "from"), {"content", "value", "parts", "tool_calls"}
DEEPEST = 3  # wrappers inside each other


def rows_in(value: Any, depth: int = 0) -> list[Any] | None:
    """The rows that a value contains; None if it is one row itself."""
    if isinstance(value, list):
        return None if is_chat(value) else [_as_row(part) for part in value]
    if not isinstance(value, dict) or not value or depth > DEEPEST or is_record(value):
        return None
    for found in (_split_table(value), _wrapped(value, depth), _oriented(value), _parallel(value)):
        if found is not None:
            return found
    return None


def is_chat(value: Any) -> bool:
    """Whether it is a list of turns, which have a role and what was said. Mails have a `from` too, and lists of people a `role`."""
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) and SAID & turn.keys() for turn in value):
        return False
    roles = [next((turn[key] for key in ROLE_KEYS if key in turn), None) for turn in value]
    return None not in roles and any(isinstance(role, str) and plain(role) in ROLES for role in roles)


def is_record(value: Mapping[str, Any]) -> bool:
    keys = {str(key).strip().casefold() for key, part in value.items() if part is not None and not _is_table_column(part)}
    chats = [part for key, part in value.items() if str(key).strip().casefold() in RECORD_KEYS and is_chat(part)]
    return len(keys & RECORD_KEYS) > 1 or bool(chats)


def as_chat(value: Any) -> Any:
    """A list of turns as a row of its own."""
    return {"messages": value} if is_chat(value) else value


def _as_row(part: Any) -> Any:
    if isinstance(part, dict) and isinstance(part.get("row"), dict) and "row_idx" in part:  # an answer of the hub's dataset viewer
        return part["row"]
    return as_chat(part)


def _is_table_column(part: Any) -> bool:
    return isinstance(part, dict) or (isinstance(part, list) and len(part) > 1 and not is_chat(part))


def _split_table(value: Mapping[str, Any]) -> list[Any] | None:
    """{"columns": [...], "data": [[...], ...]}, as pandas writes orient="split"."""
    columns, data = value.get("columns"), value.get("data")
    if not isinstance(columns, list) or not isinstance(data, list) or not data or not all(isinstance(row, list) for row in data):
        return None
    names = [str(column) for column in columns]
    return [dict(zip(names, row, strict=True)) if len(row) == len(names) else row for row in data]


def _wrapped(value: Mapping[str, Any], depth: int) -> list[Any] | None:
    """The lists of rows under known names, or the only list of records; all splits of a data set one after another. What stands beside
    them for all rows is given to each. The records of another list follow under its name: they fit no shape, and so are counted."""
    shared = {SHARED[plain(str(key))]: _joined(part) for key, part in value.items() if plain(str(key)) in SHARED}
    lists = {key: part for key, part in value.items() if isinstance(part, list) and _mostly_objects(part) and not is_chat(part)}
    lists = {key: part for key, part in lists.items() if plain(str(key)) not in SHARED}
    known = [key for key in lists if str(key).casefold() in WRAPPERS]
    records = [key for key in lists if any(is_record(row) or "text" in row for row in lists[key] if isinstance(row, dict))]
    if known or len(records) == 1:
        rows = [_shared(shared, _as_row(row)) for key in known or records for row in lists[key]]
        return [*rows, *({key: row} for key in records if known and key not in known for row in lists[key])]
    inner = [part for part in value.values() if isinstance(part, dict)]
    if len(inner) == 1 and not lists:
        return rows_in(inner[0], depth + 1)
    return None


def _joined(part: Any) -> Any:
    return "\n".join(part) if isinstance(part, list) and all(isinstance(one, str) for one in part) else part


def _shared(shared: Mapping[str, Any], row: Any) -> Any:
    """A row with the cells that all rows share, as far as it has none of its own. An instruction is the question of a row that has only an
    input, otherwise a system text."""
    if not shared or not isinstance(row, dict):
        return row
    own = {SHARED.get(name, name) for name in (plain(str(key)) for key in row)}
    given = dict(shared)
    if "instruction" in given and ("input" not in own or "instruction" in own):
        texts = (given.get("system"), given.pop("instruction"))
        given["system"] = "\n\n".join(text for text in texts if isinstance(text, str))
    return {**{key: part for key, part in given.items() if key not in own}, **row}


def _mostly_objects(part: list[Any]) -> bool:
    objects = sum(isinstance(row, dict) for row in part)
    return objects > len(part) / 2 or (bool(part) and all(is_chat(row) for row in part))


def _oriented(value: Mapping[str, Any]) -> list[Any] | None:
    """{"0": {"prompt": ...}, ...} or {"prompt": {"0": ...}, ...}, as pandas writes orient="index" and "columns"."""
    inner = list(value.values())
    if not all(isinstance(part, dict) and part for part in inner):
        return None
    if not all(part.keys() == inner[0].keys() for part in inner):  # some have optional keys
        return inner if all(map(is_record, inner)) and RECORD_KEYS.isdisjoint(map(str, value)) else None
    if all(str(key).lstrip("-").isdecimal() for key in value):
        return inner
    if all(str(key).lstrip("-").isdecimal() for key in inner[0]):
        return [{column: cells[row] for column, cells in value.items()} for row in inner[0]]
    return inner if len(inner) > 1 and is_record(inner[0]) and RECORD_KEYS.isdisjoint(map(str, value)) else None


def _parallel(value: Mapping[str, Any]) -> list[Any] | None:
    """{"prompt": ["a", "b"], "completion": ["c", "d"]}: lists of equal length, a column each."""
    columns = list(value.values())
    if not all(isinstance(column, list) for column in columns) or len({len(column) for column in columns}) != 1:
        return None
    named = RECORD_KEYS & {str(key).strip().casefold() for key in value}
    if not named or len(columns[0]) < 2 or any(is_chat(column) for column in columns) or (len(columns) == 1 and named != {"text"}):
        return None
    return [dict(zip(value, row, strict=True)) for row in zip(*columns, strict=True)]
