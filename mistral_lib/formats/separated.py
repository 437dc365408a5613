"""Rows of CSV and TSV in every dialect. A cell is always text; a row with wrong quotes costs itself, not those after it."""

import csv
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

from mistral_lib.formats.csv_dialect import QUOTING, Dialect, applies, find_dialect, is_comment
from mistral_lib.formats.rows import LONGEST_TEXT, Reading, Row
from mistral_lib.formats.streams import RefusedError, lines

SAMPLE = 60  # lines in which the dialect is found
LONGEST_ROW = 10_000  # lines of a row with line breaks in its cells
WASTED = 1_000_000  # lines that may be read again because of wrong quotes; above it a row is a line


class _Text:
    """The lines of a stream as text, numbered; those taken since `begin` can be put back. Bytes that are not UTF-8 become surrogates."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self.found, self.number, self.ahead, self.taken = lines(stream, most), 0, deque(), []
        self.wasted = 0

    def __iter__(self) -> "_Text":
        return self

    def __next__(self) -> str:
        if self.ahead:
            line = self.ahead.popleft()
        else:
            found = next(self.found)
            line = None if found is None else found.decode("utf-8-sig" if self.number == 0 else "utf-8", "surrogateescape")
        self.number += 1
        if line is None:
            self.taken.append("")
            raise RefusedError("line_too_long")
        self.taken.append(line)
        if len(self.taken) > (LONGEST_ROW if self.wasted < WASTED else 2):
            raise csv.Error("too many lines")
        return line

    def begin(self) -> int:
        """The number of the next line; lines before it cannot be put back any more."""
        self.taken = []
        return self.number + 1

    def put_back(self, count: int) -> None:
        """The last `count` lines are read again."""
        if count:
            self.ahead.extendleft(reversed(self.taken[-count:]))
            self.number -= count
            self.wasted += count
            del self.taken[-count:]

    def peek(self, count: int) -> list[str]:
        """The next lines, without taking them; up to one that is too long."""
        found: list[str] = []
        self.begin()
        try:
            found.extend(islice(self, count))
        except RefusedError:
            self.ahead.appendleft(None)
            self.number -= 1
            del self.taken[-1:]
        self.put_back(len(self.taken))
        return found


def separated(stream: BinaryIO, name: str, reading: Reading, delimiters: str) -> Iterator[Row]:
    """A row per row of a table. delimiters: the most likely ones, best first."""
    csv.field_size_limit(reading.limits.line_bytes)  # Python's own limit of 128 KiB is less than a long document
    text = _Text(stream, reading.limits.line_bytes)
    sample = text.peek(SAMPLE)
    if not any(line.strip() for line in sample):
        yield from _too_long(text, name)
        return
    dialect = find_dialect(sample, delimiters)
    if dialect is None:
        yield Row(name, None, "csv_header_unreadable", text="".join(sample)[:LONGEST_TEXT], lines=0)
        return
    for _ in range(dialect.before):
        next(text)
    yield from _rows(text, dialect, name)


def _too_long(text: _Text, name: str) -> Iterator[Row]:
    while True:
        try:
            next(text)
        except StopIteration:
            return
        except RefusedError as refused:
            yield Row(f"{name}:{text.number}", None, refused.code)


def _rows(text: _Text, dialect: Dialect, name: str) -> Iterator[Row]:
    reader = dialect.read(text)
    while True:
        source, cells, problem = f"{name}:{text.begin()}", None, ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except RefusedError as refused:
            problem = refused.code
        except csv.Error:
            problem = "csv_damaged"
        if cells is not None and not any(cells) and len(cells) < 2:
            continue  # a blank line
        if dialect.comments and text.taken and is_comment(text.taken[0]) and len(text.taken) == 1:
            continue
        if problem == "line_too_long":
            reader = dialect.read(text)
            yield Row(source, None, problem, lines=len(text.taken))
        elif cells is not None and dialect.fits(cells):
            yield _row(source, cells, dialect)
        elif not (dialect.comments and text.taken[0].startswith("#")):
            reader = dialect.read(text)
            yield _repaired(text, source, cells, problem, dialect)


def _row(source: str, cells: list[str], dialect: Dialect, note: str = "") -> Row:
    problem = _cell_problem(cells)
    if problem:
        return Row(source, None, problem, text=" | ".join(cells)[:LONGEST_TEXT])
    return Row(source, dialect.named(cells), note=note)


def _repaired(text: _Text, source: str, cells: list[str] | None, problem: str, dialect: Dialect) -> Row:
    """The row that begins with the first line taken, read with other quotes; a problem of that line alone if nothing fits."""
    if found := _with_other_quotes(text.taken, dialect):
        return _row(source, found, dialect, "csv_quotes_repaired")
    if cells is not None and len(text.taken) == 1:
        problem = _cell_problem(cells) or "csv_column_count"
    first = text.taken[0]
    text.put_back(len(text.taken) - 1)
    if len(text.taken) == 1 and (found := _with_other_quotes([first], dialect)):
        return _row(source, found, dialect, "csv_quotes_repaired")
    seen = next(csv.reader([first], delimiter=dialect.delimiter), [])
    note = f"{len(seen)} cells, {len(dialect.columns)} columns" if problem == "csv_column_count" else ""
    return Row(source, None, problem or "csv_damaged", note, first[:LONGEST_TEXT])


def _with_other_quotes(taken: list[str], dialect: Dialect) -> list[str] | None:
    for quoting in QUOTING:
        if quoting != dialect.quoting and applies(quoting, dialect.delimiter, taken):
            try:
                found = list(dialect.read(taken, **(quoting or {"quotechar": '"'})))
            except csv.Error:
                continue
            if len(found) == 1 and dialect.fits(found[0]):
                return found[0]
    return _by_borders(taken, dialect) if len(taken) == 1 else None


def _by_borders(taken: list[str], dialect: Dialect) -> list[str] | None:
    """The cells of a line in which all are quoted, and quotes inside them are not doubled."""
    line = taken[0].rstrip("\r\n")
    if len(line) < 2 or line[0] != '"' or line[-1] != '"':
        return None
    cells = [cell.replace('""', '"') for cell in line[1:-1].split(f'"{dialect.delimiter}"')]
    return cells if len(cells) > 1 and dialect.fits(cells) else None


def _cell_problem(cells: list[str]) -> str | None:
    text = "".join(cells)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return "not_utf8"
    return "nul_bytes" if "\0" in text else None
