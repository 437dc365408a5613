"""Rows of JSON as real corpora have it: lines, arrays, objects of several lines, wrappers, and damaged ones.

A line that is not valid JSON is read again: objects glued together are separated if `salvage` is set; a trailing comma, NaN, control
characters and lone surrogates, which strict JSON forbids and real dumps contain, are accepted or replaced. An object of several lines is
joined. The rest becomes a problem with its reason; in an array that is cut off, the elements before it are read.
"""

import io
import json
import re
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Any, BinaryIO

import orjson

from mistral_lib.formats.json_containers import as_chat, is_chat, rows_in
from mistral_lib.formats.rows import LONGEST_TEXT, Reading, Row
from mistral_lib.formats.streams import RefusedError, lines, read_all

BOM = b"\xef\xbb\xbf"
BETWEEN = re.compile(r"(?:\s|\\n|\\r)*")  # between glued objects: white space, or the two characters \ and n
BETWEEN_ELEMENTS = re.compile(r"(?:[\s,]|//[^\n]*|/\*.*?\*/|\#[^\n]*)*", re.S)  # of an array; comments are passed over
OPENED = re.compile(r'\s*(?:\[|\{(?:[^\[\]{}]*,)?\s*"[^"]*"\s*:\s*\[)')  # an array, or the list in a wrapper
PREFIX = re.compile(r"data:\s*(?=[{\[])")  # of server-sent events
COMMENT = re.compile(r"\s*(?://|#|/\*|\*)")
PYTHON = re.compile(r"\s*[\[{]\s*'|[:\[,]\s*(?:None|True|False)\s*[,}\]]")
ELEMENTS = re.compile(r"\}\s*,\s*\{")
BRACKETS = (b"[", b"]", b"],")  # a line with nothing else
PEEKED = 64  # first lines of a .json file, blank ones included, that show whether it has one row a line
LONGEST_BLOCK = 10_000  # lines of one object
_LONGEST_INTEGER = 18  # digits; longer integers do not fit 64 bits and could not be written


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)


# NaN and Infinity are no value; control characters may stand in strings
_lenient = json.JSONDecoder(parse_int=_integer, parse_constant=lambda _: None, strict=False)


class _Lines:
    """Numbered lines that can be put back."""

    def __init__(self, found: Iterable[bytes | None]) -> None:
        self.found, self.ahead, self.number = iter(found), deque(), 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> bytes | None:
        line = self.ahead.popleft() if self.ahead else next(self.found)
        self.number += 1
        return line

    def put_back(self, taken: list[bytes | None]) -> None:
        self.ahead.extendleft(reversed(taken))
        self.number -= len(taken)


def json_lines(stream: BinaryIO, name: str, reading: Reading) -> Iterator[Row]:
    """The rows of a .jsonl file: one a line, an object of several lines, or an array. Errors: RefusedError if an array is too large for memory."""
    found = lines(stream, reading.limits.line_bytes)
    start: list[bytes | None] = []
    filled: list[bytes | None] = []
    while len(filled) < 2 and (line := next(found, b"")) != b"":
        start.append(line)
        filled += [line] if line is None or _filled(line) else []
    alone = len(filled) == 1
    if filled and filled[0] is not None and _is_array(filled[0], alone):
        known = b"".join(line for line in start if line is not None)
        yield from _document(known + read_all(stream, reading.limits.in_memory_bytes), name, reading)
        return
    rows = _numbered(chain(start, found), name, reading)
    yield from _of_one_line(list(rows)) if alone else rows


def _of_one_line(found: list[Row]) -> Iterator[Row]:
    """The rows of a file that has a single line, which may be a wrapper."""
    inner = rows_in(found[0].value) if len(found) == 1 and not found[0].problem else None
    if inner is None:
        yield from found
        return
    yield from (Row(f"{found[0].source}:{number}", value, note=found[0].note) for number, value in enumerate(inner, 1))


def _is_array(line: bytes, alone: bool) -> bool:
    """Whether a file that begins with this line is one array: the line opens it and does not close it, or nothing follows."""
    text = line.removeprefix(BOM).strip()
    if not text.startswith(b"["):
        return False
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return True
    return alone and not is_chat(value)


def _numbered(found: Iterable[bytes | None], name: str, reading: Reading) -> Iterator[Row]:
    ahead = _Lines(found)
    for line in ahead:
        source = f"{name}:{ahead.number}"
        if line is None:
            yield Row(source, None, "line_too_long")
        elif _filled(line) and line.strip() not in BRACKETS:
            otherwise = "not_json" if line.endswith(b"\n") else "truncated_line"
            first, *more = _parsed(line, source, reading, otherwise)
            if first.problem in ("not_json", "truncated_line") and line.removeprefix(BOM).lstrip()[:1] in (b"{", b"["):
                first = _joined(ahead, line, first, reading)
            yield first
            yield from more


def _joined(ahead: _Lines, line: bytes, problem: Row, reading: Reading) -> Row:
    """The object that begins with this line and ends with a later one; the line's problem if there is none."""
    first, block, size = ahead.number, [line], len(line)
    indent = len(line) - len(line.lstrip())
    for following in ahead:
        new = following is None or (_filled(following) and following.lstrip()[:1] in (b"{", b"[") and _indent(following) <= indent)
        if new or len(block) == LONGEST_BLOCK or size > reading.limits.line_bytes:
            ahead.put_back([following])
            break
        block.append(following)
        size += len(following)
        if following.rstrip()[-1:] in (b"}", b"]", b",") and _indent(following) <= indent and (row := _whole(block, problem.source)):
            return row
    if len(block) > 1 and all(_continues(part) for part in block[1:]):
        return replace(problem, note=f"lines {first}-{ahead.number}", text=b"".join(block).decode("utf-8", "replace")[:LONGEST_TEXT])
    ahead.put_back(block[1:])
    return problem


def _indent(line: bytes) -> int:
    return len(line) - len(line.lstrip())


def _continues(line: bytes) -> bool:
    """Whether a line looks like a part of an object that is written on several lines."""
    return not _filled(line) or line[:1] in (b" ", b"\t") or line.lstrip()[:1] in (b'"', b"}", b"]")


def _whole(block: list[bytes], source: str) -> Row | None:
    """The object that the lines are together."""
    with suppress(UnicodeDecodeError):
        values, rest = _values(b"".join(block).removeprefix(BOM).decode())
        if len(values) == 1 and isinstance(values[0], dict | list) and rest.strip() in ("", ","):
            return _without_surrogates(values[0], source)
    return None


def json_document(stream: BinaryIO, name: str, reading: Reading) -> Iterator[Row]:
    """The rows of a .json file: an array of rows, one object, or one object a line. Errors: RefusedError if too large for memory."""
    start = _start(stream, reading)
    filled = [line for line in start if _filled(line)]
    if len(filled) > 1 and len(filled[1]) <= reading.limits.line_bytes and _is_object(filled[0]):
        yield from _numbered(chain(start, lines(stream, reading.limits.line_bytes)), name, reading)
        return
    yield from _document(b"".join(start) + read_all(stream, reading.limits.in_memory_bytes), name, reading)


def _document(data: bytes, name: str, reading: Reading) -> Iterator[Row]:
    if not _filled(data):
        return
    found = list(_parsed(data, name, reading, "not_json"))
    if (len(found) > 1 or found[0].problem) and _mostly_lines(data, reading):
        yield from _numbered(lines(io.BytesIO(data), reading.limits.line_bytes), name, reading)
        return
    if len(found) == 1 and found[0].problem in ("not_json", "json_comment", "python_literal"):
        yield from _elements(data, found[0])
        return
    for row in found:
        yield from _unwrapped(row)


def _start(stream: BinaryIO, reading: Reading) -> list[bytes]:
    """The lines up to the second one that is not blank, or PEEKED lines. Errors: RefusedError if the first line is too large for memory."""
    start: list[bytes] = []
    most, filled = reading.limits.in_memory_bytes, 0
    while filled < 2 and len(start) < PEEKED and (line := stream.readline(most + 1)):
        if not filled and len(line) > most:
            raise RefusedError("too_large_to_hold")
        start.append(line)
        if _filled(line):
            most, filled = reading.limits.line_bytes, filled + 1
    return start


def _filled(line: bytes) -> bool:
    return line.strip() not in (b"", BOM)


def _mostly_lines(data: bytes, reading: Reading) -> bool:
    """Whether at least two lines, and more than half of those that are not blank, are objects by themselves. In a truncated array they
    are not, since its lines end with a comma."""
    objects = [_is_object(line) for line in lines(io.BytesIO(data), reading.limits.line_bytes) if line is None or _filled(line)]
    return sum(objects) > max(1, len(objects) // 2)


def _is_object(line: bytes | None) -> bool:
    if line is None:  # too long to be read
        return False
    try:
        return isinstance(orjson.loads(line.removeprefix(BOM)), dict)
    except orjson.JSONDecodeError:
        return False


def _unwrapped(row: Row) -> Iterator[Row]:
    inner = None if row.problem else rows_in(row.value)
    if inner is None:
        yield replace(row, value=as_chat(row.value))
        return
    yield from (Row(f"{row.source}:{number}", value, note=row.note) for number, value in enumerate(inner, 1))


def _elements(data: bytes, problem: Row) -> Iterator[Row]:
    """The elements of an array that is not valid JSON as a whole, up to the place where it is damaged; after it, those that begin on a
    line of their own like the first one."""
    text = data.removeprefix(BOM).decode()
    opened, found, name = OPENED.match(text), 0, problem.source
    first = place = BETWEEN_ELEMENTS.match(text, opened.end()).end() if opened else 0
    while opened and place < len(text) and text[place] != "]":
        try:
            value, place = _lenient.raw_decode(text, place)
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
        yield _without_surrogates(as_chat(value), f"{name}:{found}")
        place = BETWEEN_ELEMENTS.match(text, place).end()
    if not found:
        yield problem
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


def _parsed(data: bytes, source: str, reading: Reading, otherwise: str) -> Iterator[Row]:
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
    values, rest = _values(text)
    objects = all(isinstance(value, dict) for value in values)
    if len(values) == 1 and rest.strip() in ("", ","):
        yield _without_surrogates(as_chat(values[0]), source)
    elif len(values) > 1 and objects and reading.salvage:
        yield from (_without_surrogates(value, f"{source}.{number}", "salvaged") for number, value in enumerate(values, 1))
        if rest:
            yield Row(f"{source}.{len(values) + 1}", None, otherwise, text=rest[:LONGEST_TEXT], lines=0)
    elif len(values) > 1 and objects:
        yield Row(source, None, "glued_json", text=text[:LONGEST_TEXT])
    else:
        yield Row(source, None, _reason(text, otherwise), text=text[:LONGEST_TEXT])


def _reason(text: str, otherwise: str) -> str:
    if "\0" in text:
        return "nul_bytes"
    if COMMENT.match(text):
        return "json_comment"
    if PYTHON.search(text[:LONGEST_TEXT]):
        return "python_literal"
    return "html_instead_of_rows" if text.lstrip()[:1] == "<" else otherwise


def _values(text: str) -> tuple[list[Any], str]:
    """The JSON values one after another from the start, and the text after the last one."""
    values, place = [], BETWEEN.match(text).end()
    try:
        while place < len(text):
            value, place = _lenient.raw_decode(text, place)
            values.append(value)
            place = BETWEEN.match(text, place).end()
    except (ValueError, RecursionError):  # no further value, or one that is nested too deep
        pass
    return values, text[place:]


def _without_surrogates(value: Any, source: str, note: str = "") -> Row:
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
