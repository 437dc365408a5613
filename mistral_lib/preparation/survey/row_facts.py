"""The work on the rows of a part: what is counted of each file, an entry of the index for each row, the lengths of some records.

No secret of the corpus is stored: of its texts there are names of keys, domains, and answers that may be labels, all of them redacted.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mistral_lib.corpus.records import Record, UnmappableError, record_of
from mistral_lib.corpus.unmapped_rows import UNKNOWN, count, key_name, widths
from mistral_lib.formats.rows import Row
from mistral_lib.preparation.stretch_parts import Begin, Made, Make, PartRows
from mistral_lib.preparation.survey.corpus_index import SCHEMA
from mistral_lib.preparation.survey.length_sample import Counted, Tokenizers
from mistral_lib.run.settings import Settings

INDEX, LENGTHS = "index.arrow", "lengths.arrow"
MOST_SHAPES = 20  # unknown shapes of a file that are kept


@dataclass(slots=True)
class FileFacts:
    """What is counted of a file, or of the rows of it that are in one part."""

    name: str
    rows: int = 0
    records: int = 0
    shapes: Counter = field(default_factory=Counter)
    domains: Counter = field(default_factory=Counter)
    problems: Counter = field(default_factory=Counter)  # rows without a record, by the reason
    encodings: Counter = field(default_factory=Counter)
    left_out: Counter = field(default_factory=Counter)
    unused_keys: Counter = field(default_factory=Counter)
    unknown_roles: Counter = field(default_factory=Counter)
    unknown_shapes: dict[str, dict[str, Any]] = field(default_factory=dict)  # "a, b" → {"keys": {"a": characters, …}, "rows": 1}

    def add_row(self, row: Row) -> None:
        """Whatever is in the row."""
        self.rows += row.records
        self.encodings.update([row.encoding] if row.encoding else [])
        self.left_out.update(row.left_out)

    def add_record(self, record: Record) -> None:
        self.records += 1
        self.shapes[record.shape] += 1
        self.domains[record.domain] += 1
        self.unused_keys.update(record.unused)

    def add_problem(self, row: Row, problem: UnmappableError) -> None:
        self.problems[str(problem)] += row.records
        self.unknown_roles.update([key_name(problem.role)] if problem.role else [])
        if str(problem) == UNKNOWN and isinstance(row.value, dict):
            keys = widths(row.value)
            self.unknown_shapes.setdefault(", ".join(keys), {"keys": keys, "rows": 0})["rows"] += 1

    def add(self, part: Mapping[str, Any]) -> None:
        """The facts of the part that follows, as they are stored. Of the unknown shapes the first ones are kept."""
        self.rows, self.records = self.rows + part["rows"], self.records + part["records"]
        for name in ("shapes", "domains", "problems", "encodings", "left_out"):
            getattr(self, name).update(part[name])
        for name in ("unused_keys", "unknown_roles"):
            count(getattr(self, name), part[name])
        for keys, found in part["unknown_shapes"].items():
            if keys in self.unknown_shapes:
                self.unknown_shapes[keys]["rows"] += found["rows"]
            elif len(self.unknown_shapes) < MOST_SHAPES:
                self.unknown_shapes[keys] = dict(found)


def survey(settings: Settings, tokenizer: Any) -> Begin:
    """The work of surveying: the facts, the index and the sampled lengths of a part. tokenizer: the base model's."""
    tokenizers = Tokenizers(tokenizer)

    def begin(bound: float) -> Make:
        return partial(_surveyed, settings, Counted(tokenizers, bound))

    return begin


def _surveyed(settings: Settings, lengths: Counted, rows: PartRows, folder: Path) -> Made:
    found: list[FileFacts] = []
    index: list[tuple[Any, ...]] = []
    keys: list[int] = []
    for file, row in (one for batch in rows for one in batch):
        if not found or found[-1].name != file.name:
            found.append(FileFacts(file.name))
        found[-1].add_row(row)
        try:
            record = record_of(row, settings)
        except UnmappableError as problem:
            found[-1].add_problem(row, problem)
            index.append((row.source, "", 0, file.name, "", "", str(problem)))
            continue
        found[-1].add_record(record)
        record_id = record.record_id
        keys.append(int(record_id, 16))
        index.append((row.source, record_id, len(record.canonical), file.name, record.domain, record.shape, ""))
        lengths.offer(record)
    columns = map(list, zip(*index, strict=True)) if index else [[] for _ in SCHEMA.names]
    write_table(folder / INDEX, pa.table(list(columns), schema=SCHEMA))
    write_table(folder / LENGTHS, lengths.taken())
    return {"files": found}, {"key": np.array(keys, np.uint64)}


def write_table(path: Path, table: pa.Table) -> None:
    """As an Arrow file, closed also on a full disk."""
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)


def read_table(path: Path) -> pa.Table:
    """Plain reads, no memory map: mapped pages would count as memory of the process."""
    with pa.OSFile(str(path), "rb") as file:
        return pa.ipc.open_file(file).read_all()
