"""Rows of Parquet and Arrow files: a batch in memory at a time. A problem names the rows that are lost with it.

The row groups of a Parquet file are read one after another: one that is damaged costs its own rows, and none of the next.
"""

import datetime
import decimal
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mistral_lib.formats.rows import Reading, Row
from mistral_lib.formats.streams import Budget, seekable

BATCH = 500  # rows in memory at once
ROW_BYTES = 500  # of a usual row, to estimate how many are lost with a file that cannot be read
_FAULTS = (OSError, ValueError, OverflowError, pa.ArrowException)  # what pyarrow raises on damaged bytes
PLAIN = (str, int, float, bool, type(None))


def parquet(stream: BinaryIO, name: str, reading: Reading, budget: Budget, first: int = 0, last: int | None = None) -> Iterator[Row]:
    """A row per row of the file, or of its row groups [first, last)."""
    table = pq.ParquetFile(seekable(stream, reading.limits.in_memory_bytes))
    ends = np.cumsum([0, *group_rows(table)]).tolist()
    for group, (begin, end) in enumerate(pairwise(ends)):
        if first <= group < (len(ends) if last is None else last):
            yield from _rows(table.iter_batches(batch_size=BATCH, row_groups=[group]), name, budget, end, begin)


def group_rows(table: pq.ParquetFile) -> list[int]:
    """The rows of each row group."""
    return [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]


def arrow(stream: BinaryIO, name: str, reading: Reading, budget: Budget) -> Iterator[Row]:
    """A row per row of an Arrow or Feather file, or of a stream of batches as `datasets` stores it."""
    if stream.peek(8)[:6] == b"ARROW1":  # type: ignore[attr-defined]
        file = pa.ipc.open_file(seekable(stream, reading.limits.in_memory_bytes))
        batches = (file.get_batch(number) for number in range(file.num_record_batches))
    else:
        batches = iter(pa.ipc.open_stream(stream))
    yield from _rows((part for batch in batches for part in _parts(batch)), name, budget, None)


def _parts(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    yield from (batch.slice(start, BATCH) for start in range(0, batch.num_rows, BATCH))


def _rows(batches: Iterator[pa.RecordBatch], name: str, budget: Budget, total: int | None, number: int = 0) -> Iterator[Row]:
    """number: rows of the file before the first batch; total: rows up to the end of the last one, None if unknown."""
    while True:
        try:
            batch = next(batches, None)
        except _FAULTS:
            yield _lost(name, number, total)
            return
        if batch is None:
            break
        budget.charge(max(batch.nbytes, batch.num_rows))  # run lengths can claim billions of rows in a few bytes
        for value in _values(batch):
            number += 1
            yield Row(f"{name}:{number}", value, None if value is not None else "damaged_row")
    if total is not None and number < total:
        yield _lost(name, number, total)


def _lost(name: str, number: int, total: int | None) -> Row:
    note = f"rows {number + 1}-{total}" if total else f"rows from {number + 1} on"
    return Row(f"{name}:{number + 1}", None, "unreadable", note, lines=total - number if total else 1)


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | None]:
    """The rows of a batch; None for one whose cells are damaged (not UTF-8, a date beyond the calendar)."""
    as_they_are = all(_is_plain(field.type) for field in batch.schema)
    convert: Callable[[Any], Any] = (lambda row: row) if as_they_are else plain
    try:
        yield from map(convert, batch.to_pylist())
    except _FAULTS:
        for index in range(batch.num_rows):
            try:
                yield convert(batch.slice(index, 1).to_pylist()[0])
            except _FAULTS:
                yield None


def _is_plain(kind: pa.DataType) -> bool:
    """Whether a type's values are those of JSON."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_plain(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_is_plain(field.type) for field in kind)
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return text or pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)


def plain(value: Any) -> Any:
    """A value as JSON has it: maps are objects, dates and numbers of other kinds are texts, bytes are a text if they are UTF-8."""
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list):
        pairs = bool(value) and all(isinstance(part, tuple) and len(part) == 2 for part in value)  # a map
        return {str(key): plain(part) for key, part in value} if pairs else [plain(part) for part in value]
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() and abs(value) < 2**53 else str(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)  # a duration, a UUID
