"""The data stage tried on a sample of the rows, in memory: what other parameters would do, before the whole is prepared.

The very preparation that the data stage runs works on whole source documents drawn by a hash. Duplicates whose other copy
stands outside the sample are not seen, so repeats and leaks of the whole corpus are at least what the sample shows.
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
from mistral_lib.corpus.records import Record, Unmappable, record_of
from mistral_lib.curation.splits import unit_hash
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.prepare import Preparation
from mistral_lib.run.settings import Settings

ROWS = 1500  # rows of a sample: a trial then takes a second or two
LOOKED_AT = 100_000  # rows of the corpus that are read for it, as many of each file
UNREADABLE = 2.0
RECORD_ID = re.compile("[0-9a-f]{16}")
STYLE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS


@dataclass(frozen=True, slots=True)
class SampledFile:
    """Rows of one file as JSON lines in memory; reads like a sources.SourceFile."""

    name: str  # the file's name with .jsonl behind it
    origin: str
    data: bytes
    sources: tuple[str, ...]  # of each line, where its row stands in the corpus
    remote: None = None

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
    unreadable: int  # rows that could not be read or mapped: they are rejected whatever the parameters of this stage


def draw(found: Sequence[sources.SourceFile], settings: Settings, rows: int = ROWS, looked_at: int = LOOKED_AT) -> Sample:
    """The source documents with the smallest hashes, whole but perhaps for the last: whatever order files and rows have."""
    most = -(-looked_at // len(found))
    hashes = [np.array([_document_hash(row, settings) for row in _rows(file, settings, most)]) for file in found]
    every = np.concatenate(hashes)
    readable = int((every < UNREADABLE).sum())
    chosen = np.zeros(len(every), bool)
    chosen[np.argsort(every, kind="stable")[: min(rows, readable)]] = True
    by_file = np.split(chosen, np.cumsum([len(one) for one in hashes])[:-1])
    drawn = [_drawn(file, _rows(file, settings, most), mask, settings) for file, mask in zip(found, by_file, strict=True) if mask.any()]
    return Sample(drawn, int(chosen.sum()), len(every), len(every) - readable)


def _rows(file: sources.SourceFile, settings: Settings, most: int) -> Iterator[sources.Row]:
    return islice(sources.rows_of(file, settings), most)


def _record(row: sources.Row, settings: Settings) -> Record | None:
    try:
        return record_of(row, settings)
    except Unmappable:
        return None


def _document_hash(row: sources.Row, settings: Settings) -> float:
    """A number in [0, 1) that all rows of a source document share; UNREADABLE for what is no record, or cannot be written as a line."""
    record = _record(row, settings)
    return unit_hash(record.source_group) if record and _line(row, record, settings) else UNREADABLE


def _line(row: sources.Row, record: Record, settings: Settings) -> bytes:
    """What the record was made of, its domain and its source document named: its place in the file may have told them."""
    used = {key: part for key, part in row.value.items() if key not in record.metadata}
    named = {settings.domain_key: record.domain, settings.group_key: record.source_group}
    try:
        return orjson.dumps({**used, **named}, default=str, option=STYLE)
    except TypeError:  # nested too deep, in a place that nothing is read from
        return b""


def _drawn(file: sources.SourceFile, rows: Iterable[sources.Row], mask: np.ndarray, settings: Settings) -> SampledFile:
    """The wanted rows of a file."""
    wanted = [row for row, drawn in zip(rows, mask.tolist(), strict=True) if drawn]
    lines = [_line(row, _record(row, settings), settings) for row in wanted]
    return SampledFile(f"{file.name}.jsonl", file.origin, b"".join(lines), tuple(row.source for row in wanted))


def _exclusions(sample: Sample, settings: Settings) -> dict[str, str]:
    """What is excluded from the run, its sources as they are in the sample: rows have other places there."""
    places = {source: f"{file.name}:{line}" for file in sample.files for line, source in enumerate(file.sources, 1)}
    entries = exclusions.load(settings).entries
    return {places.get(entry, entry): entry for entry in entries if entry in places or RECORD_ID.fullmatch(entry)}


def report(sample: Sample, settings: Settings, tokenizer: Any) -> dict[str, Any]:
    """What data/report.json would say of the sample. Errors: ValueError where nothing is left of it, or a parameter cannot be."""
    excluded = _exclusions(sample, settings)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):  # no bars beneath a slider
        named = Path(folder).resolve() / exclusions.NAME
        exclusions.write(named, excluded)
        changes = {"strict": False, "max_rejected_share": 1.0, "exclude_file": str(named)}  # to be told what is lost, not to stop at it
        tried = settings.model_copy(update=changes)
        parts = PartCache(Path(folder) / "work", "a trial is never taken up again")
        return Preparation(Path(folder), tried, tokenizer, parts).prepare_all(sources.Found(files=list(sample.files)))
