"""Records and columns of numbers on disk while they are prepared: written once, in batches, and read in order or by number.

Metadata is not stored: nothing trains on it, and it was not searched for secrets. Memory holds one batch, however many
records there are. The format is Arrow files of at most PART rows each: a batch can be read without those before it. Plain reads, no
memory map: mapped pages would count as memory of the process.

A column is appended to without a small object for each part: a small object that stays alive among many short-lived ones keeps a
megabyte of Python's memory from being released; a few hundred parts leave a few thousand of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from mistral_lib.corpus.records import Record
from mistral_lib.shapes.conversation import Message, words_of

BATCH = 1024  # rows of a batch; the last one may be shorter
PART = 4 * BATCH  # rows of a part, at most
NAME = "records.arrow"
OPEN = 32  # files open at once, 60 KiB each
SCHEMA = pa.schema([("source", pa.string()), ("domain", pa.string()), ("source_group", pa.string()), ("shape", pa.string()),
                    ("messages", pa.binary()), ("text", pa.string()), ("tools", pa.binary())])  # fmt: skip


AS_JSON = ("messages", "tools")


def batch_of(rows: Sequence[tuple[str, Record | None]]) -> pa.RecordBatch:
    """Sources and records as they are stored; of a rejected row (None) only its place and its source."""
    columns = {name: [getattr(record, name, None) for _, record in rows] for name in SCHEMA.names}
    columns["source"] = [source for source, _ in rows]
    for name in AS_JSON:
        columns[name] = [
            None if value is None else orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS) for value in columns[name]
        ]
    return pa.record_batch(columns, schema=SCHEMA)


def prompt_text(messages: Sequence[Message] | None) -> str:
    """All turns before the last answer as one text, without system messages; "" for a plain document."""
    return "\n".join(words_of(message) for message in messages[:-1] if message["role"] != "system") if messages else ""


@contextmanager
def new_file(folder: Path) -> Iterator[pa.RecordBatchFileWriter]:
    """Yields the writer of one part's batches; the file is closed also on a full disk: only then is its space free after it is deleted."""
    with pa.OSFile(str(folder / NAME), "wb") as file:
        writer = pa.ipc.new_file(file, SCHEMA)
        yield writer
        writer.close()  # its footer; of a part that fails nothing more is written


class RecordStore:
    """Reads the finished parts, each of batches of BATCH rows; the last batch of a part may be shorter.

    path: the folder of a part by its name. names, rows: of all parts, in order.
    """

    def __init__(self, path: Callable[[str], Path], names: Sequence[str], rows: Sequence[int]):
        self.names, self.rows = names, rows
        self.starts = np.cumsum([0, *rows], dtype=np.int64)  # number of each part's first row
        self.reader = lru_cache(maxsize=OPEN)(lambda part: pa.ipc.open_file(pa.OSFile(str(path(names[part]) / NAME), "rb")))
        self.batch = lru_cache(maxsize=4)(lambda part, number: self.reader(part).get_batch(number))

    def close(self) -> None:
        """Close the files: nothing more is read."""
        self.batch.cache_clear()
        self.reader.cache_clear()

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(number of the first row, batch of BATCH rows), in order, wherever the parts end; the last batch may be shorter."""
        start, held = 0, []
        for part in range(len(self.names)):
            for number in range(self.reader(part).num_record_batches):
                held.append(self.reader(part).get_batch(number))
                while sum(map(len, held)) >= BATCH:
                    batch, held = _divided(held)
                    yield start, batch
                    start += BATCH
        if held:
            yield start, _together(held)

    def records(self, numbers: np.ndarray) -> list[Record]:
        """The records with these numbers, ascending; none of them may be rejected."""
        return [
            Record(domain, source, group, shape, _parsed(messages), text, _parsed(tools))
            for source, domain, group, shape, messages, text, tools in self._rows(numbers, SCHEMA.names)
        ]

    def answers(self, numbers: np.ndarray) -> list[str]:
        """What a model learns to write from each record; numbers ascending."""
        rows = self._rows(numbers, ("messages", "text"))
        return [words_of(orjson.loads(messages)[-1]) if messages is not None else text for messages, text in rows]

    def prompts(self, numbers: np.ndarray) -> list[str]:
        """What is compared of each record's prompt, as `prompt_text` returns it; numbers ascending."""
        return [prompt_text(messages and orjson.loads(messages)) for (messages,) in self._rows(numbers, ("messages",))]

    def sources(self, numbers: np.ndarray) -> list[str]:
        return [source for (source,) in self._rows(numbers, ("source",))]

    def _rows(self, numbers: np.ndarray, names: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        numbers = np.asarray(numbers, np.int64)
        part = np.searchsorted(self.starts, numbers, side="right") - 1
        batch, place = np.divmod(numbers - self.starts[part], BATCH)
        cuts = np.flatnonzero((np.diff(part) != 0) | (np.diff(batch) != 0)) + 1
        for own in np.split(np.arange(len(numbers)), cuts) if len(numbers) else ():
            taken = self.batch(int(part[own[0]]), int(batch[own[0]])).select(names).take(pa.array(place[own]))
            yield from zip(*(column.to_pylist() for column in taken.columns), strict=True)


def _divided(held: list[pa.RecordBatch]) -> tuple[pa.RecordBatch, list[pa.RecordBatch]]:
    """The first BATCH rows, and what is left."""
    if len(held) == 1 and len(held[0]) == BATCH:
        return held[0], []
    joined = _together(held)
    return joined.slice(0, BATCH), [joined.slice(BATCH)] if len(joined) > BATCH else []


def _together(held: list[pa.RecordBatch]) -> pa.RecordBatch:
    return held[0] if len(held) == 1 else pa.concat_batches(held)


def _parsed(value: bytes | None) -> Any:
    return None if value is None else orjson.loads(value)


class GrownColumn:
    """Numbers that are appended in stretches; memory holds them once, and at most an eighth more."""

    def __init__(self, kind: str | type) -> None:
        self.kind, self.bytes = np.dtype(kind), bytearray()

    def append(self, values: np.ndarray) -> None:
        self.bytes += np.ascontiguousarray(values, self.kind).data.cast("B")

    def array(self) -> np.ndarray:
        """All of them, as one writable array; nothing can be appended while it is in use."""
        return np.frombuffer(self.bytes, self.kind)


class StoredColumn:
    """Numbers on disk. Plain reads, no memory map: mapped pages would count as memory of the process."""

    def __init__(self, path: Path, values: np.ndarray) -> None:
        """path: ends with .npy."""
        self.path = path
        self.overwrite(values)

    def read(self) -> np.ndarray:
        return np.load(self.path)

    def overwrite(self, values: np.ndarray) -> None:
        np.save(self.path, values)
