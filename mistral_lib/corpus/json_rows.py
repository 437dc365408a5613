"""Rows of JSON as real corpora have it: lines, arrays, single objects, and damaged ones.

A line that is not valid JSON is read again: objects glued together are separated if `salvage` is set; NaN and lone surrogates, which
strict JSON forbids and real dumps contain, are accepted or replaced. The rest becomes a problem with its reason.
"""

import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, BinaryIO

import orjson

from mistral_lib.corpus.rows import LONGEST_TEXT, Reading, Row
from mistral_lib.corpus.streams import RefusedError, lines, read_all
from mistral_lib.shapes import expansion

BOM = b"\xef\xbb\xbf"
BETWEEN = re.compile(r"(?:\s|\\n|\\r)*")  # between glued objects: white space, or the two characters \ and n
WRAPPERS = ("data", "rows", "records", "examples", "items")  # {"data": [row, row, …]} is a file of rows ...
RECORD_KEYS = {"messages", "conversations", "text", "prompt", "content", "question", "instruction", "chosen"}  # ... unless it is one itself
PEEKED = 64  # first lines of a .json file, blank ones included, that show whether it has one row a line
_LONGEST_INTEGER = 18  # digits; longer integers do not fit 64 bits and could not be written


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)


_lenient = json.JSONDecoder(parse_int=_integer)


def json_lines(stream: BinaryIO, name: str, reading: Reading) -> Iterator[Row]:
    for row in _numbered(lines(stream, reading.limits.line_bytes), name, reading):
        yield from _expanded(row)


def _expanded(row: Row) -> Iterator[Row]:
    """The row, or the rows that its value holds: a value of several rows cannot be one record."""
    found = expansion.rows_in(row.value)
    if found is None:
        yield row
    else:
        yield from (Row(f"{row.source}.{number}", part, note=row.note) for number, part in enumerate(found, 1))


def _numbered(found: Iterable[bytes | None], name: str, reading: Reading) -> Iterator[Row]:
    for number, line in enumerate(found, 1):
        if line is None:
            yield Row(f"{name}:{number}", None, "line_too_long")
        elif _filled(line):
            yield from _parsed(line, f"{name}:{number}", reading, "not_json" if line.endswith(b"\n") else "truncated_line")


def json_document(stream: BinaryIO, name: str, reading: Reading) -> Iterator[Row]:
    """The rows of a .json file: an array of rows, one object, or one object a line. Errors: RefusedError if too large for memory."""
    for row in _document(stream, name, reading):
        yield from _expanded(row)


def _document(stream: BinaryIO, name: str, reading: Reading) -> Iterator[Row]:
    start = _start(stream, reading)
    filled = [line for line in start if _filled(line)]
    if len(filled) > 1 and len(filled[1]) <= reading.limits.line_bytes and _is_object(filled[0]):
        yield from _numbered(chain(start, lines(stream, reading.limits.line_bytes)), name, reading)
        return
    data = b"".join(start) + read_all(stream, reading.limits.in_memory_bytes)
    if not _filled(data):
        return
    found = list(_parsed(data, name, reading, "not_json"))
    if (len(found) > 1 or found[0].problem) and _mostly_lines(data, reading):
        yield from _numbered(lines(io.BytesIO(data), reading.limits.line_bytes), name, reading)
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
    value = row.value
    if isinstance(value, dict) and not value.keys() & RECORD_KEYS:
        wrapped = [value[key] for key in WRAPPERS if isinstance(value.get(key), list)]
        value = wrapped[0] if len(wrapped) == 1 and all(isinstance(part, dict) for part in wrapped[0]) else value
    if isinstance(value, list) and not expansion.is_chat(value):
        yield from (Row(f"{row.source}:{number}", part, note=row.note) for number, part in enumerate(value, 1))
    else:
        yield row


def _parsed(data: bytes, source: str, reading: Reading, otherwise: str) -> Iterator[Row]:
    data = data.removeprefix(BOM)
    try:
        yield Row(source, orjson.loads(data))
    except orjson.JSONDecodeError:
        yield from _damaged(data, source, reading, otherwise)


def _damaged(data: bytes, source: str, reading: Reading, otherwise: str) -> Iterator[Row]:
    """The rows of data that is not valid JSON. otherwise: the reason if it is no JSON at all."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        yield Row(source, None, "not_utf8")
        return
    values, rest = _values(text)
    objects = all(isinstance(value, dict) for value in values)
    if len(values) == 1 and not rest:
        yield _without_surrogates(values[0], source)
    elif len(values) > 1 and objects and reading.salvage:
        yield from (_without_surrogates(value, f"{source}.{number}", "salvaged") for number, value in enumerate(values, 1))
        if rest:
            yield Row(f"{source}.{len(values) + 1}", None, otherwise, text=rest[:LONGEST_TEXT])
    elif len(values) > 1 and objects:
        yield Row(source, None, "glued_json", text=text[:LONGEST_TEXT])
    else:
        yield Row(source, None, "nul_bytes" if "\0" in text else otherwise, text=text[:LONGEST_TEXT])


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
    with suppress(TypeError):
        orjson.dumps(value)
        return Row(source, value, note=note)
    try:
        replaced = orjson.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
        return Row(source, replaced, note=note or "lone_surrogates_replaced")
    except (ValueError, RecursionError):
        return Row(source, None, "not_json")
