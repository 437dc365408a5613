"""Records on disk while they are prepared: written once, in batches, and read again in order or by number.

Metadata is not kept: nothing trains on it, and nothing
searched it for secrets. Memory holds one batch, however many records there are. The form is an Arrow file: a batch can be read without those
before it. Plain reads, no memory map: mapped pages would count as memory of the process.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from mistral_lib.records import Record

BATCH = 1024  # rows of a batch; the last one may be shorter
SCHEMA = pa.schema([("source", pa.string()), ("domain", pa.string()), ("source_group", pa.string()), ("shape", pa.string()),
                    ("messages", pa.binary()), ("text", pa.string())])  # fmt: skip


class RecordWriter:
    """Appends rows; a rejected row keeps its number and its source, nothing of its content."""

    def __init__(self, path: Path):
        self.file = pa.OSFile(str(path), "wb")
        self.writer = pa.ipc.new_file(self.file, SCHEMA)
        self.rows: list[tuple[Any, ...]] = []

    def add(self, source: str, record: Record | None) -> None:
        if record is None:
            self.rows.append((source, None, None, None, None, None))
        else:
            messages = orjson.dumps(record.messages) if record.messages is not None else None
            self.rows.append((source, record.domain, record.source_group, record.shape, messages, record.text))
        if len(self.rows) == BATCH:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            columns = [pa.array(column, type=field.type) for column, field in zip(zip(*self.rows, strict=True), SCHEMA, strict=True)]
            self.writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
            self.rows = []

    def close(self) -> None:
        self.flush()
        self.writer.close()
        self.file.close()


class RecordStore:
    """Reads what a RecordWriter wrote."""

    def __init__(self, path: Path):
        self.reader = pa.ipc.open_file(pa.OSFile(str(path), "rb"))
        self.batch = lru_cache(maxsize=4)(self.reader.get_batch)

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(number of the first row, batch), in order."""
        for number in range(self.reader.num_record_batches):
            yield number * BATCH, self.reader.get_batch(number)

    def records(self, numbers: Sequence[int]) -> list[Record]:
        """The records with these numbers, which must not be rejected ones. Ascending numbers are read fastest."""
        return [self._record(int(number)) for number in numbers]

    def answers(self, numbers: Sequence[int]) -> list[str]:
        """What the model would learn to write, of each record."""
        return [record.answer for record in self.records(numbers)]

    def source(self, number: int) -> str:
        return self.batch(number // BATCH).column("source")[number % BATCH].as_py()

    def _record(self, number: int) -> Record:
        batch, row = self.batch(number // BATCH), number % BATCH
        source, domain, group, shape, messages, text = (column[row].as_py() for column in batch.columns)
        return Record(
            domain=domain,
            source=source,
            source_group=group,
            shape=shape,
            messages=orjson.loads(messages) if messages is not None else None,
            text=text,
        )
