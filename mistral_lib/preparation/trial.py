"""The data stage on a sample of the rows, in memory: what other parameters would do, before everything is prepared.

The same preparation as in the data stage runs on complete source documents, sampled by hash. Duplicates whose other copy is
outside the sample are not found, so the complete corpus has at least the repeats and leaks that the sample shows.
"""

import contextlib
import io
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from mistral_lib.corpus import exclusions, sources
from mistral_lib.corpus.records import Record, record_of, record_or_reason
from mistral_lib.curation.splits import unit_hash
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.prepare import Preparation
from mistral_lib.run.settings import Settings

ROWS = 1500  # rows of a sample: a trial then takes a second or two
LOOKED_AT = 100_000  # rows of the corpus that are read for it, equally many of each file
UNREADABLE = 2.0
DOCUMENT = "source document"  # in the lines of a sample, the key that names it if the parameter names none
RECORD_ID = re.compile("[0-9a-f]{16}")
STYLE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True, slots=True)
class SampledFile:
    """Rows of one file as JSON lines in memory; reads like a sources.SourceFile."""

    name: str  # the file's name, plus .jsonl
    origin: str
    data: bytes
    sources: tuple[str, ...]  # for each line, the source of its row in the corpus
    remote: None = None
    sections: int = 0  # each line is a section already

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def place(self) -> str:
        return f"sample/{self.origin}/{self.name}"

    def open(self) -> io.BytesIO:
        return io.BytesIO(self.data)


@dataclass(frozen=True, slots=True)
class Sample:
    files: list[SampledFile]
    rows: int
    looked_at: int
    unreadable: int  # rows that could not be read or mapped: rejected with any parameters


def draw(found: Sequence[sources.SourceFile], settings: Settings, rows: int = ROWS, looked_at: int = LOOKED_AT) -> Sample:
    """The source documents with the smallest hashes, in any order of files and rows; only the last one may be incomplete."""
    most = -(-looked_at // len(found))
    hashes = [np.array([_document_hash(row, settings) for row in _rows(file, settings, most)]) for file in found]
    every = np.concatenate(hashes)
    readable = int((every < UNREADABLE).sum())
    chosen = np.zeros(len(every), bool)
    chosen[np.argsort(every, kind="stable")[: min(rows, readable)]] = True
    by_file = np.split(chosen, np.cumsum([len(one) for one in hashes])[:-1])
    sampled = [_sampled(file, _rows(file, settings, most), mask, settings) for file, mask in zip(found, by_file, strict=True) if mask.any()]
    return Sample(sampled, int(chosen.sum()), len(every), len(every) - readable)


def _rows(file: sources.SourceFile, settings: Settings, most: int) -> Iterator[sources.Row]:
    return islice(sources.rows_of(file, settings), most)


def _document_hash(row: sources.Row, settings: Settings) -> float:
    """A number in [0, 1), equal for all rows of a source document; UNREADABLE if the row is no record or cannot be written as a line."""
    record, _ = record_or_reason(row, settings)
    return unit_hash(record.source_group) if record and _line(row, record, settings) else UNREADABLE


def _line(row: sources.Row, record: Record, settings: Settings) -> bytes:
    """The parts of the row that became the record, with domain and source document as keys: they may depend on the row's file."""
    value = row.value if isinstance(row.value, dict) else {"messages": row.value}  # a list of turns
    used = {key: part for key, part in value.items() if key not in record.metadata}
    named = {settings.domain_key: record.domain, settings.group_key or DOCUMENT: record.source_group}
    try:
        return orjson.dumps({**used, **named}, default=str, option=STYLE)
    except TypeError:  # nested too deep, in a part that is not read
        return b""


def _sampled(file: sources.SourceFile, rows: Iterable[sources.Row], mask: np.ndarray, settings: Settings) -> SampledFile:
    """The sampled rows of a file. mask: one bool per row."""
    wanted = [row for row, is_sampled in zip(rows, mask.tolist(), strict=True) if is_sampled]
    lines = [_line(row, record_of(row, settings), settings) for row in wanted]
    return SampledFile(f"{file.name}.jsonl", file.origin, b"".join(lines), tuple(row.source for row in wanted))


def report(sample: Sample, settings: Settings, tokenizer: Any) -> dict[str, Any]:
    """data/report.json of the sample. Errors: ValueError if nothing is left of it, or if a parameter is invalid."""
    places = {source: f"{file.name}:{line}" for file in sample.files for line, source in enumerate(file.sources, 1)}
    entries = exclusions.load(settings).entries
    excluded = {places.get(entry, entry): entry for entry in entries if entry in places or RECORD_ID.fullmatch(entry)}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):  # no progress bars below a slider
        named = Path(folder).resolve() / exclusions.NAME
        exclusions.write(named, excluded)
        changes = {"strict": False, "max_rejected_share": 1.0, "exclude_file": str(named), "group_key": settings.group_key or DOCUMENT}
        tried = settings.model_copy(update=changes)  # losses are reported, and stop nothing
        parts = PartCache(Path(folder) / "work", "a trial is never resumed")
        return Preparation(Path(folder), tried, tokenizer, parts).prepare_all(sources.Found(files=list(sample.files)))
