"""Rows of JSON: lines, arrays, objects of several lines, and wrappers. json_values.py reads the single pieces and repairs damaged ones."""

import io
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from typing import BinaryIO

import orjson

from mistral_lib.formats.json_containers import as_chat, is_chat, rows_in
from mistral_lib.formats.json_values import BOM, elements, parsed, values_in, without_surrogates
from mistral_lib.formats.rows import LONGEST_TEXT, Reading, Row
from mistral_lib.formats.streams import RefusedError, lines, read_all
from mistral_lib.shapes import expansion

BRACKETS = (b"[", b"]", b"],")  # a line with nothing else
PEEKED = 64  # first lines of a .json file, blank ones included, that show whether it has one row a line
LONGEST_BLOCK = 10_000  # lines of one object


class _Lines:
    """Numbered lines that can be put back."""

    def __init__(self, found: Iterable[bytes | None], before: int = 0) -> None:
        """before: lines of the file before the first one."""
        self.found, self.ahead, self.number = iter(found), deque(), before

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
    for row in _of_one_line(list(rows)) if alone else rows:
        yield from _expanded(row)


def _expanded(row: Row) -> Iterator[Row]:
    """The row, or the rows that its value holds: a value of several rows cannot be one record."""
    found = None if row.problem else expansion.rows_in(row.value)
    if found is None:
        yield row
    else:
        yield from (Row(f"{row.source}.{number}", part, note=row.note) for number, part in enumerate(found, 1))


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


def is_read_by_lines(stream: BinaryIO, kind: str, reading: Reading) -> bool:
    """Whether a file of the kind "lines" or "json" is read one line after another, from its first lines on. Errors: RefusedError."""
    if kind == "json":
        filled = [line for line in _start(stream, reading) if _filled(line)]
        return len(filled) > 1 and len(filled[1]) <= reading.limits.line_bytes and _is_object(filled[0])
    filled = list(islice((line for line in lines(stream, reading.limits.line_bytes) if line is None or _filled(line)), 2))
    return len(filled) == 2 and (filled[0] is None or not _is_array(filled[0], alone=False))


def rows_from(stream: BinaryIO, name: str, reading: Reading, before: int) -> Iterator[Row]:
    """The rows of a file that is read by lines, from a place where a row begins. before: lines before that place."""
    for row in _numbered(lines(stream, reading.limits.line_bytes), name, reading, before):
        yield from _expanded(row)


def _numbered(found: Iterable[bytes | None], name: str, reading: Reading, before: int = 0) -> Iterator[Row]:
    ahead = _Lines(found, before)
    for line in ahead:
        source = f"{name}:{ahead.number}"
        if line is None:
            yield Row(source, None, "line_too_long")
        elif _filled(line) and line.strip() not in BRACKETS:
            otherwise = "not_json" if line.endswith(b"\n") else "truncated_line"
            first, *more = parsed(line, source, reading, otherwise)
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
        values, rest = values_in(b"".join(block).removeprefix(BOM).decode())
        if len(values) == 1 and isinstance(values[0], dict | list) and rest.strip() in ("", ","):
            return without_surrogates(values[0], source)
    return None


def json_document(stream: BinaryIO, name: str, reading: Reading) -> Iterator[Row]:
    """The rows of a .json file: an array of rows, one object, or one object a line. Errors: RefusedError if too large for memory."""
    start = _start(stream, reading)
    filled = [line for line in start if _filled(line)]
    if len(filled) > 1 and len(filled[1]) <= reading.limits.line_bytes and _is_object(filled[0]):
        for row in _numbered(chain(start, lines(stream, reading.limits.line_bytes)), name, reading):
            yield from _expanded(row)
        return
    yield from _document(b"".join(start) + read_all(stream, reading.limits.in_memory_bytes), name, reading)


def _document(data: bytes, name: str, reading: Reading) -> Iterator[Row]:
    for row in _rows_of_document(data, name, reading):
        yield from _expanded(row)


def _rows_of_document(data: bytes, name: str, reading: Reading) -> Iterator[Row]:
    if not _filled(data):
        return
    found = list(parsed(data, name, reading, "not_json"))
    if (len(found) > 1 or found[0].problem) and _mostly_lines(data, reading):
        yield from _numbered(lines(io.BytesIO(data), reading.limits.line_bytes), name, reading)
        return
    if len(found) == 1 and found[0].problem in ("not_json", "json_comment", "python_literal"):
        yield from elements(data, found[0])
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
