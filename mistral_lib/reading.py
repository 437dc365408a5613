"""Every row of every source becomes a record on disk or a rejection, and a few numbers in memory.

The numbers are all that duplicates and splits need: hashes of text, answer, document and pattern, the domain and the fate.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from mistral_lib import exclusions, quality, sources
from mistral_lib.duplicates import NearDuplicates
from mistral_lib.progress import bar
from mistral_lib.record_store import BATCH, RecordWriter
from mistral_lib.records import Record, Unmappable, map_row
from mistral_lib.settings import Settings

KEPT, REJECTED, DUPLICATE, NEAR_DUPLICATE = 0, 1, 2, 3  # what became of a row before the splits
LONGEST_PATTERN = 300  # characters: placeholder texts are short, and masking names takes time
ORIGINS = ("corpus", "operatives")


@dataclass(slots=True)
class Rows:
    """One number of each kind per input row, in the order of reading; arrays once reading has ended."""

    key: Any = field(default_factory=lambda: array("Q"))  # hash of the canonical text; in hexadecimal, the record_id
    answer: Any = field(default_factory=lambda: array("Q"))  # hash of the answer
    group: Any = field(default_factory=lambda: array("Q"))  # hash of the source document's name
    skeleton: Any = field(default_factory=lambda: array("Q"))  # hash of the answer's pattern, names and numbers masked
    domain: Any = field(default_factory=lambda: array("i"))  # number of the domain, -1 if rejected before it was known
    origin: Any = field(default_factory=lambda: array("B"))  # number in ORIGINS
    fate: Any = field(default_factory=lambda: array("B"))
    reason: Any = field(default_factory=lambda: array("i"))  # number of the reason, -1 for none
    domains: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    counts: dict[str, Counter] = field(default_factory=lambda: {name: Counter() for name in ("redacted", "repairs", "flags", "excluded")})

    def add(self, origin: int, record: Record | None, reason: str = "") -> None:
        hashes = _hashes(record) if record else (0, 0, 0, 0)
        for column, value in zip((self.key, self.answer, self.group, self.skeleton), hashes, strict=True):
            column.append(value)
        self.domain.append(_number(self.domains, record.domain) if record else -1)
        self.origin.append(origin)
        self.fate.append(KEPT if record else REJECTED)
        self.reason.append(-1 if record else _number(self.reasons, reason))

    def freeze(self) -> "Rows":
        for name, kind in (("key", "u8"), ("answer", "u8"), ("group", "u8"), ("skeleton", "u8"), ("domain", "i4"), ("origin", "u1"),
                           ("fate", "u1"), ("reason", "i4")):  # fmt: skip
            setattr(self, name, np.frombuffer(getattr(self, name), dtype=kind).copy())
        return self

    def reject(self, numbers: np.ndarray, reason: str) -> None:
        self.fate[numbers] = REJECTED
        self.reason[numbers] = _number(self.reasons, reason)

    def kept(self) -> np.ndarray:
        """The numbers of the rows that are still wanted, int64, ascending."""
        return np.flatnonzero(self.fate == KEPT)


def _number(names: list[str], name: str) -> int:
    try:
        return names.index(name)
    except ValueError:
        names.append(name)
        return len(names) - 1


def _hashes(record: Record) -> tuple[int, int, int, int]:
    key, answer = int(record.record_id, 16), record.answer
    pattern = quality.skeleton_hash(answer) if len(answer) <= LONGEST_PATTERN else key  # a long answer is a pattern of its own
    return key, _hash(answer), _hash(record.source_group), pattern


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def read(source_files: Iterable[sources.SourceFile], settings: Settings, writer: RecordWriter, near: NearDuplicates | None) -> Rows:
    """Read all sources once: records to `writer`, answers to `near`, numbers to the result."""
    rows, checks, answers = Rows(), quality.Checks(settings.check_actions(), settings.check_limits()), []
    excluded = exclusions.load(settings)
    for origin, source, outcome in bar(_outcomes(source_files, settings, checks, excluded, rows), "rows", unit="row"):
        record, reason = outcome
        writer.add(source, record)
        rows.add(origin, record, reason)
        if record is not None and near is not None:
            answers.append(record.answer)
            if len(answers) == BATCH:
                near.add(answers)
                answers = []
    if answers:
        near.add(answers)
    writer.close()
    return rows.freeze()


def _outcomes(
    source_files: Iterable[sources.SourceFile], settings: Settings, checks: quality.Checks, excluded: exclusions.Exclusions, rows: Rows
) -> Iterator[tuple[int, str, tuple[Record | None, str]]]:
    for file in source_files:
        for row in sources.rows(file, salvage=settings.salvage, pdf_characters=settings.pdf_characters):
            yield ORIGINS.index(file.origin), row.source, _record(row, settings, checks, excluded, rows.counts)


def _record(
    row: sources.Row, settings: Settings, checks: quality.Checks, excluded: exclusions.Exclusions, counts: dict[str, Counter]
) -> tuple[Record | None, str]:
    """The record of a row, mapped, cleaned and redacted; or None and the reason."""
    if row.problem:
        return None, row.problem
    try:
        record = map_row(row.value, row.source, settings.domain_key, settings.group_key, settings.columns, row.note or "")
        refuse_unwanted(record, settings)
    except Unmappable as refused:
        return None, str(refused)
    outcome = checks.inspect(record)
    if entry := excluded.entry(record, outcome.record):
        counts["excluded"][entry] += 1
        return None, exclusions.REASON
    counts["redacted"].update(outcome.redacted)
    counts["repairs"].update((*record.repairs, *outcome.repairs))
    counts["flags"].update(outcome.flags)
    return outcome.record, outcome.reason


def refuse_unwanted(record: Record, settings: Settings) -> None:
    """Errors: Unmappable for a record outside the objective."""
    kind = "documents" if record.text is not None else "answers"
    if settings.objective not in ("both", kind):
        raise Unmappable(f"objective_is_{settings.objective}")
