"""The values in a piece of JSON: strict, or as real dumps have it.

Accepted or replaced are a trailing comma, NaN and Infinity (no value), control characters, lone surrogates, a prefix `data:`, an object that
was encoded twice, and with `salvage` objects glued together. The rest is a problem with its reason. Of an array that is cut off or damaged,
the elements before that place are read.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import orjson

from mistral_lib.formats.json_containers import as_chat
from mistral_lib.formats.rows import LONGEST_TEXT, Reading, Row

BOM = b"\xef\xbb\xbf"
BETWEEN = re.compile(r"(?:\s|\\n|\\r)*")  # between glued objects: white space, or the two characters \ and n
BETWEEN_ELEMENTS = re.compile(r"(?:[\s,]|//[^\n]*|/\*.*?\*/|\#[^\n]*)*", re.S)  # of an array; comments are passed over
OPENED = re.compile(r'\s*(?:\[|\{(?:[^\[\]{}]*,)?\s*"[^"]*"\s*:\s*\[)')  # an array, or the list in a wrapper
PREFIX = re.compile(r"data:\s*(?=[{\[])")  # of server-sent events
COMMENT = re.compile(r"\s*(?://|#|/\*|\*)")
PYTHON = re.compile(r"\s*[\[{]\s*'|[:\[,]\s*(?:None|True|False)\s*[,}\]]")
ELEMENTS = re.compile(r"\}\s*,\s*\{")
DEEPEST = 250  # levels of JSON that is not valid as it is: how deep Python itself can read depends on the process
_LONGEST_INTEGER = 18  # digits; longer integers do not fit 64 bits and could not be written


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)


# NaN and Infinity are no value; control characters may stand in strings
_lenient = json.JSONDecoder(parse_int=_integer, parse_constant=lambda _: None, strict=False)


def parsed(data: bytes, source: str, reading: Reading, otherwise: str) -> Iterator[Row]:
    data = data.removeprefix(BOM)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        yield from _damaged(data, source, reading, otherwise)
        return
    yield _decoded_again(value, source) if isinstance(value, str) else Row(source, as_chat(value))


def _decoded_again(value: str, source: str) -> Row:
    """A row that is a JSON string whose text is the JSON of an object."""
    with suppress(orjson.JSONDecodeError):
        inner = orjson.loads(value)
        if isinstance(inner, dict):
            return Row(source, inner, note="double_encoded")
    return Row(source, value)


def _damaged(data: bytes, source: str, reading: Reading, otherwise: str) -> Iterator[Row]:
    """The rows of data that is not valid JSON. otherwise: the reason if it is no JSON at all."""
    try:
        text = PREFIX.sub("", data.decode(), count=1)
    except UnicodeDecodeError:
        yield Row(source, None, "not_utf8")
        return
    if "\0" in text:
        yield Row(source, None, "nul_bytes", text=text[:LONGEST_TEXT])
        return
    values, rest = values_in(text)
    objects = all(isinstance(value, dict) for value in values)
    if len(values) == 1 and rest.strip() in ("", ","):
        yield without_surrogates(as_chat(values[0]), source)
    elif len(values) > 1 and objects and reading.salvage:
        yield from (without_surrogates(value, f"{source}.{number}", "salvaged") for number, value in enumerate(values, 1))
        if rest:
            yield Row(f"{source}.{len(values) + 1}", None, otherwise, text=rest[:LONGEST_TEXT], lines=0)
    elif len(values) > 1 and objects:
        yield Row(source, None, "glued_json", text=text[:LONGEST_TEXT])
    else:
        yield Row(source, None, _reason(text, otherwise), text=text[:LONGEST_TEXT])


def _reason(text: str, otherwise: str) -> str:
    if COMMENT.match(text):
        return "json_comment"
    if PYTHON.search(text[:LONGEST_TEXT]):
        return "python_literal"
    return "html_instead_of_rows" if text.lstrip()[:1] == "<" else otherwise


def _decoded(text: str, place: int) -> tuple[Any, int]:
    """The value that begins at this place, and where it ends. Errors: ValueError; RecursionError if it is nested too deep."""
    value, end = _lenient.raw_decode(text, place)
    if text.count("[", place, end) + text.count("{", place, end) > DEEPEST and _levels(value) > DEEPEST:
        raise RecursionError
    return value, end


def _levels(value: Any) -> int:
    """How deep lists and objects are nested, without recursion."""
    levels, inside = 0, [value]
    while inside := [
        one for outer in inside if isinstance(outer, dict | list) for one in (outer.values() if isinstance(outer, dict) else outer)
    ]:
        levels += 1
    return levels


def values_in(text: str) -> tuple[list[Any], str]:
    """The JSON values one after another from the start, and the text after the last one."""
    values, place = [], BETWEEN.match(text).end()
    try:
        while place < len(text):
            value, place = _decoded(text, place)
            values.append(value)
            place = BETWEEN.match(text, place).end()
    except (ValueError, RecursionError):  # no further value, or one that is nested too deep
        pass
    return values, text[place:]


def without_surrogates(value: Any, source: str, note: str = "") -> Row:
    """Replaces lone surrogates (half an emoji), which cannot be written as UTF-8, by `?` and notes it."""
    count = 0 if note == "salvaged" and not source.endswith(".1") else 1
    with suppress(TypeError):
        orjson.dumps(value)
        return Row(source, value, note=note, lines=count)
    try:
        replaced = orjson.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
        return Row(source, replaced, note=note or "lone_surrogates_replaced", lines=count)
    except (ValueError, RecursionError):
        return Row(source, None, "not_json")


def elements(data: bytes, problem: Row) -> Iterator[Row]:
    """The elements of an array that is not valid JSON as a whole, up to the place where it is damaged; after it, those that begin on a
    line of their own like the first one."""
    text = data.removeprefix(BOM).decode()
    opened, found, name = OPENED.match(text), 0, problem.source
    first = place = BETWEEN_ELEMENTS.match(text, opened.end()).end() if opened else 0
    while opened and place < len(text) and text[place] != "]":
        try:
            value, place = _decoded(text, place)
            if not isinstance(value, dict | list) and not found:
                break  # no array of rows
        except (ValueError, RecursionError):
            following = _next_element(text, first, place) if found else 0
            lost = 1 if following else _estimated(text, first, place, found)
            text_of_it = text[place : following or None][:LONGEST_TEXT]
            yield replace(problem, source=f"{name}:{found + 1}" if found else name, text=text_of_it, lines=lost)
            if not following:
                return
            found, place = found + 1, following
            continue
        found += 1
        yield without_surrogates(as_chat(value), f"{name}:{found}")
        place = BETWEEN_ELEMENTS.match(text, place).end()
    if not found:
        yield problem
    elif place < len(text) and (rest := text[place + 1 :].lstrip("} \t\r\n"))[:1] in ("[", "{"):  # files that were joined
        yield from elements(rest.encode(), replace(problem, source=f"{name}+"))
    elif place >= len(text):
        yield Row(f"{name}:{found + 1}", None, "truncated_json")


def _next_element(text: str, first: int, damaged: int) -> int:
    """Where the next element begins that stands on a line of its own with the indentation of the first one; 0 for none."""
    begin = text.rfind("\n", 0, first) + 1
    indent = text[begin:first]
    if begin == 0 or indent.strip():
        return 0
    following = re.compile(rf"^{indent}\{{", re.M).search(text, damaged + 1)
    return following.end() - 1 if following else 0


def _estimated(text: str, first: int, place: int, found: int) -> int:
    """About how many elements the rest of an array has, by the length of those before it or by the brackets between them."""
    if found:
        return max(1, round((len(text) - place) * found / (place - first)))
    return len(ELEMENTS.findall(text)) + 1
