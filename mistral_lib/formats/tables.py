"""Rows of CSV, TSV and Parquet. A cell of CSV is always text; a problem names the lines or rows that are lost with it."""

import csv
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from mistral_lib.formats.rows import LONGEST_TEXT, Reading, Row
from mistral_lib.formats.streams import Budget, RefusedError, lines, seekable

BATCH = 500  # rows of a Parquet file in memory at once
_FAULTS = (OSError, ValueError, OverflowError, pa.ArrowException)  # what pyarrow raises on damaged bytes


class _Text:
    """The lines of a stream as text, counted. Bytes that are not UTF-8 become surrogates, which are found in the cells."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self.found, self.number = lines(stream, most), 0

    def __iter__(self) -> "_Text":
        return self

    def __next__(self) -> str:
        line = next(self.found)
        self.number += 1
        if line is None:
            raise RefusedError("line_too_long")
        return line.decode("utf-8-sig" if self.number == 1 else "utf-8", "surrogateescape")


def separated(stream: BinaryIO, name: str, reading: Reading, delimiters: str) -> Iterator[Row]:
    """A row per line of a table with a header. Of several `delimiters`, the most frequent one in the header is used.

    Strict: a quote that is not closed is a problem, not one enormous cell.
    """
    csv.field_size_limit(reading.limits.line_bytes)  # Python's own limit of 128 KiB is less than a long document
    text = _Text(stream, reading.limits.line_bytes)
    first = next(text, "")
    # a chain goes past a refused line; a generator would end there
    reader = csv.reader(chain([first], text), delimiter=max(delimiters, key=first.count), strict=True)
    header = None
    for source, cells, problem, note in _cells(reader, text, name):
        if header is None and problem:
            yield Row(source, None, "csv_header_unreadable", problem)
            return
        if header is None:
            header = _named(cells)
        elif problem or len(cells) != len(header):
            note = note or f"{len(cells)} cells, {len(header)} columns"
            yield Row(source, None, problem or "csv_column_count", note, " | ".join(cells)[:LONGEST_TEXT])
        else:
            yield Row(source, dict(zip(header, cells, strict=True)))


def _cells(reader: Any, text: _Text, name: str) -> Iterator[tuple[str, list[str], str | None, str]]:
    """(source, cells, problem, note) of each line that is not blank."""
    start = 1
    while True:
        cells = []
        try:
            cells = next(reader)
            problem = _cell_problem(cells)
        except StopIteration:
            return
        except csv.Error:
            problem = "csv_damaged"
        except RefusedError as refused:
            problem = refused.code
        if cells or problem:
            yield f"{name}:{start}", cells, problem, f"lines {start}-{text.number}" if problem and text.number > start else ""
        start = text.number + 1


def _cell_problem(cells: list[str]) -> str | None:
    text = "".join(cells)
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return "not_utf8"
    return "nul_bytes" if "\0" in text else None


def _named(cells: list[str]) -> list[str]:
    """Column names without repetition: an empty one gets its column number, a repeated one its count."""
    seen: Counter = Counter()
    names = []
    for number, cell in enumerate(cells, 1):
        name = cell.strip() or f"column_{number}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return names


def parquet(stream: BinaryIO, name: str, reading: Reading, budget: Budget) -> Iterator[Row]:
    """A row per row of the file, a batch in memory at a time. The note of a problem names the rows that are lost with it."""
    table = pq.ParquetFile(seekable(stream, reading.limits.in_memory_bytes))
    batches, number, total = table.iter_batches(batch_size=BATCH), 0, table.metadata.num_rows
    while True:
        try:
            batch = next(batches, None)
        except _FAULTS:
            yield Row(f"{name}:{number + 1}", None, "unreadable", f"rows {number + 1}-{total}")
            return
        if batch is None:
            break
        budget.charge(max(batch.nbytes, batch.num_rows))  # run lengths can claim billions of rows in a few bytes
        for value in _values(batch):
            number += 1
            yield Row(f"{name}:{number}", value, None if value is not None else "damaged_row")
    if number < total:
        yield Row(f"{name}:{number + 1}", None, "unreadable", f"rows {number + 1}-{total}")


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | None]:
    """The rows of a batch; None for one whose cells are damaged (not UTF-8, a date beyond the calendar)."""
    try:
        yield from batch.to_pylist()
    except _FAULTS:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except _FAULTS:
                yield None
