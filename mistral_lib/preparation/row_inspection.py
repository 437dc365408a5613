"""A row becomes a record or a rejection, and a few numbers.

The numbers are all that duplicates and splits need: hashes of text, prompt, answer, document and pattern, the domain and the fate.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mistral_lib.corpus import document_keys, exclusions, sources, unmapped_rows
from mistral_lib.corpus.records import Record, UnmappableError, record_of, tool_use
from mistral_lib.corpus.unmapped_rows import UNKNOWN, key_name, key_names
from mistral_lib.curation import checks, label_domains, minhash
from mistral_lib.curation.repeated_patterns import pattern_hash
from mistral_lib.curation.similarity import symbols
from mistral_lib.curation.splits import LONG_ANSWER
from mistral_lib.preparation.record_store import GrownColumn, StoredColumn, batch_of, prompt_text
from mistral_lib.run.files import hash64
from mistral_lib.run.settings import Settings
from mistral_lib.shapes.cells import as_json

KEPT, REJECTED, DUPLICATE, NEAR_DUPLICATE = 0, 1, 2, 3  # the fate of a row before the splits
ORIGINS = ("corpus", "operatives")
SIDES = ("prompt", "answer")  # the two texts of a record that are compared with those of others
COLUMNS = {"key": "u8", "context": "u8", "prompt": "u8", "prompt_words": "i4", "answer": "u8", "answer_words": "i4", "label": "u8",
           "group": "u8", "document_key": "u1", "skeleton": "u8", "domain": "i4", "origin": "u1", "fate": "u1", "reason": "i4", "lines": "u4"}  # fmt: skip
ON_DISK = ("context", "prompt", "prompt_words", "answer", "answer_words", "label", "group", "document_key", "skeleton",
           "lines")  # fmt: skip  # only some steps read them
LONG_RECORD = 60  # words of prompt and answer, from which on a symbol more or less makes no other record; unless the answer is short
DOCUMENT = 1  # the context of a plain document, which has no prompt
COUNTED = ("redacted", "repairs", "flags", "excluded", "left_out", "unused_keys", "unknown_roles", "tool_use")
Numbers = dict[str, int]  # of names, in the order of their first occurrence
BY_NAME = ("unused_keys", "unknown_roles")  # a part has all names, a report the most frequent ones


@dataclass(frozen=True, slots=True)
class RowColumns:
    """One number of each kind per input row, in the order of reading, and the names that the numbers refer to."""

    key: np.ndarray  # uint64: hash of the canonical text; in hexadecimal, the record_id
    context: StoredColumn  # uint64: hash of the system message and all else that must be the same in a copy; 0 for none; DOCUMENT
    prompt: StoredColumn  # uint64: hash of the prompt's folded words, as minhash.fold returns it
    prompt_words: StoredColumn  # int32
    answer: StoredColumn  # uint64: hash of the answer's folded words
    answer_words: StoredColumn  # int32
    label: StoredColumn  # uint64: hash of the answer as a label, as label_domains.label_hashes returns it
    group: StoredColumn  # uint64: hash of the source document's name
    document_key: StoredColumn  # uint8: number in ("", *document_keys.searched(group_key)) of the key that names the source document
    skeleton: StoredColumn  # uint64: hash of the pattern of prompt and answer, copied names masked
    domain: np.ndarray  # int32: number of the domain, -1 if the row was rejected before its domain was read
    origin: np.ndarray  # uint8: number in ORIGINS
    fate: np.ndarray  # uint8: KEPT, REJECTED, DUPLICATE or NEAR_DUPLICATE; the steps change it
    reason: np.ndarray  # int32: number of the reason, -1 for none; the steps change it
    lines: StoredColumn  # uint32: lines or items of the file; of a refused file or part all that it has, 0 for the second object of a line
    domains: list[str]
    reasons: list[str]
    counts: dict[str, Counter]  # by COUNTED

    @classmethod
    def concatenate(cls, parts: Iterable["InspectedBatch"], folder: Path) -> "RowColumns":
        """The columns of all parts. folder: for those that are on disk."""
        columns: dict[str, GrownColumn | ColumnFile] = {name: GrownColumn(kind) for name, kind in COLUMNS.items()}
        columns |= {name: ColumnFile(folder / f"{name}.part", COLUMNS[name]) for name in ON_DISK}
        domains, reasons, counts = _concatenated(parts, columns, unmapped_rows.count)
        counts.update({name: unmapped_rows.most_frequent(counts[name]) for name in BY_NAME})
        stored = {name: StoredColumn(folder / f"{name}.npy", columns.pop(name).array()) for name in ON_DISK}
        return cls(**stored, **{name: column.array() for name, column in columns.items()}, domains=domains, reasons=reasons, counts=counts)

    def reject(self, numbers: np.ndarray, reason: str) -> None:
        self.fate[numbers] = REJECTED
        if reason not in self.reasons:
            self.reasons.append(reason)
        self.reason[numbers] = self.reasons.index(reason)

    def weights(self) -> np.ndarray:
        """For how many rows each one stands, int64: more than one for a refused file or part of it."""
        return np.maximum(self.lines.read(), 1).astype(np.int64)

    def kept(self) -> np.ndarray:
        """The numbers of the rows that are kept so far, int32, ascending."""
        return np.flatnonzero(self.fate == KEPT).astype(np.int32)


@dataclass(slots=True)
class InspectedBatch:
    """Consecutive rows, inspected."""

    columns: dict[str, np.ndarray]  # as in RowColumns; domains and reasons are numbered by the lists below
    domains: list[str]
    reasons: list[str]
    counts: dict[str, Counter]
    signed: dict[str, minhash.Signatures] | None = (
        None  # of the prompts and the answers, by SIDES; None if near-duplicates are not searched
    )
    stored: Any = None  # the records, pyarrow.RecordBatch

    @classmethod
    def concatenate(cls, batches: Sequence["InspectedBatch"]) -> "InspectedBatch":
        """Several batches as one, without their records."""
        columns = {name: GrownColumn(kind) for name, kind in COLUMNS.items()}
        domains, reasons, counts = _concatenated(batches, columns, Counter.update)
        searched = batches and batches[0].signed
        signed = {side: minhash.together([one.signed[side] for one in batches]) for side in SIDES} if searched else None
        return cls({name: column.array() for name, column in columns.items()}, domains, reasons, counts, signed)


class ColumnFile:
    """Numbers that are appended to a file in stretches; memory holds none of them, and no file stays open."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path, self.kind = path, np.dtype(kind)
        path.write_bytes(b"")

    def append(self, values: np.ndarray) -> None:
        with self.path.open("ab") as file:
            file.write(np.ascontiguousarray(values, self.kind))

    def array(self) -> np.ndarray:
        """All of them; the file is gone then."""
        found = np.fromfile(self.path, self.kind)
        self.path.unlink()
        return found


def _concatenated(
    parts: Iterable[InspectedBatch],
    columns: Mapping[str, GrownColumn | ColumnFile],
    add: Callable[[Counter, Mapping[str, int]], None],
) -> tuple[list[str], list[str], dict[str, Counter]]:
    """Domains, reasons and counts of all parts; their columns are appended to these. add: adds the counts of names."""
    domains, reasons, counts = {}, {}, {name: Counter() for name in COUNTED}
    for part in parts:
        for name, values in _renumbered(part, domains, reasons).items():
            columns[name].append(values)
        for name, counter in part.counts.items():
            if name in BY_NAME:
                add(counts[name], counter)
            else:
                counts[name].update(counter)
    return list(domains), list(reasons), counts


def _renumbered(part: InspectedBatch, domains: Numbers, reasons: Numbers) -> dict[str, np.ndarray]:
    """The columns of a part, with its domains and reasons numbered by these, which grow."""
    new = {name: np.array([-1, *(_number(names, one) for one in own)], np.int32)
           for name, names, own in (("domain", domains, part.domains), ("reason", reasons, part.reasons))}  # fmt: skip
    return {**part.columns, **{name: numbers[part.columns[name] + 1] for name, numbers in new.items()}}


def _number(names: Numbers, name: str) -> int:
    return names.setdefault(name, len(names))


class Inspector:
    """Maps, cleans, checks and signs rows; the result depends only on the row and the settings."""

    def __init__(self, settings: Settings, excluded: exclusions.Exclusions | None = None):
        """excluded: those of the run; None: they are loaded."""
        self.settings = settings
        self.checks = checks.Checks(settings)
        self.excluded = exclusions.load(settings) if excluded is None else excluded
        self.keys = ("", *document_keys.searched(settings.group_key))

    def inspect(self, rows: Sequence[tuple[int, sources.Row]]) -> InspectedBatch:
        """rows: (number in ORIGINS, row)."""
        counts = {name: Counter() for name in COUNTED}
        found = [self._record(row, counts) for _, row in rows]
        for _, row in rows:
            if row.left_out:
                counts["left_out"].update(row.left_out)
        domains, reasons = {}, {}
        patterns = self.settings.most_repeated_pattern > 0
        columns = zip(*(_numbers(record, reason, domains, reasons, patterns) for record, reason in found), strict=True)
        named = dict(zip(("key", "context", "group", "skeleton", "domain", "fate", "reason"), columns, strict=True))
        named["origin"] = [origin for origin, _ in rows]
        named["lines"] = [row.lines for _, row in rows]
        named["document_key"] = [self.keys.index(record.document_key) if record else 0 for record, _ in found]
        arrays = {name: np.array(named.get(name, [0] * len(found)), kind) for name, kind in COLUMNS.items()}
        stored = batch_of([(row.source, record) for (_, row), (record, _) in zip(rows, found, strict=True)])
        signed = self._compared([record for record, _ in found], arrays)
        return InspectedBatch(arrays, list(domains), list(reasons), counts, signed, stored)

    def _compared(self, found: Sequence[Record | None], columns: dict[str, np.ndarray]) -> dict[str, minhash.Signatures] | None:
        """Fills in what records are compared by. Returns the signatures of their prompts and answers; None if no search is wanted."""
        mapped = np.array([record is not None for record in found], bool)
        prompts, answers = [prompt_text(one.messages) for one in found if one], [one.answer for one in found if one]
        signed = self._signed(prompts, answers, mapped, columns)
        _with_symbols(prompts, answers, mapped, columns)
        columns["label"][mapped] = label_domains.label_hashes(answers, columns["answer"][mapped], columns["answer_words"][mapped])
        return signed

    def _signed(
        self, prompts: Sequence[str], answers: Sequence[str], mapped: np.ndarray, columns: dict[str, np.ndarray]
    ) -> dict[str, minhash.Signatures] | None:
        """The signatures of the records' prompts and answers. Fills in the columns of their hashes and words. mapped: bool (rows,)."""
        threshold, signed = self.settings.near_duplicate_threshold, {}
        for side, texts in zip(SIDES, (prompts, answers), strict=True):
            if threshold < 1:
                signed[side] = one = minhash.sign(texts, threshold, self.settings.seed)
                columns[side][mapped], columns[f"{side}_words"][mapped] = one.exact, one.words
            else:
                columns[side][mapped], columns[f"{side}_words"][mapped], _ = minhash.fold(texts)
        return signed or None

    def _record(self, row: sources.Row, counts: dict[str, Counter]) -> tuple[Record | None, str]:
        """The record of a row, mapped, cleaned and redacted, and ""; or None and the reason."""
        try:
            record = record_of(row, self.settings)
        except UnmappableError as problem:
            counts["unknown_roles"].update([key_name(problem.role)] if problem.role else [])
            counts["unused_keys"].update(key_names(row.value) if str(problem) == UNKNOWN else [])
            return None, str(problem)
        counts["unused_keys"].update(record.unused)
        counts["tool_use"].update(tool_use(record))
        if self.settings.objective not in ("both", "documents" if record.text is not None else "answers"):
            return None, f"objective_is_{self.settings.objective}"
        outcome = self.checks.inspect(record.texts)
        checked = None if outcome.texts is None else record.with_texts(outcome.texts)
        if entry := self.excluded.entry(record, checked):
            counts["excluded"][entry] += 1
            return None, exclusions.REASON
        for name, found in (("redacted", outcome.redacted), ("repairs", (*record.repairs, *outcome.repairs)), ("flags", outcome.flags)):
            if found:
                counts[name].update(found)
        return checked, outcome.reason


def _with_symbols(prompts: Sequence[str], answers: Sequence[str], mapped: np.ndarray, columns: dict[str, np.ndarray]) -> None:
    """Mix operators, emoji and the like into the context of short records: they may be all that differs between two of them.

    Copies of a long text may differ in a symbol. mapped: bool (rows,).
    """
    answered, asked = columns["answer_words"][mapped], columns["prompt_words"][mapped]
    short = (columns["context"][mapped] != DOCUMENT) & ((answered < LONG_ANSWER) | (answered + asked < LONG_RECORD))
    rows = np.flatnonzero(mapped)
    for place in np.flatnonzero(short).tolist():
        if found := symbols(f"{prompts[place]}\n{answers[place]}"):
            columns["context"][rows[place]] ^= np.uint64(hash64(found))


def _numbers(record: Record | None, reason: str, domains: Numbers, reasons: Numbers, patterns: bool) -> tuple[int, ...]:
    """key, context, group, skeleton, domain, fate, reason."""
    if record is None:
        return 0, 0, 0, 0, -1, REJECTED, _number(reasons, reason)
    key, answer = int(record.record_id, 16), record.answer
    prompt = None if record.text is not None else prompt_text(record.messages)
    pattern = pattern_hash(answer, prompt) if patterns else None
    skeleton = key if pattern is None else pattern
    return key, _context(record), hash64(record.source_group), skeleton, _number(domains, record.domain), KEPT, -1


def _context(record: Record) -> int:
    if record.messages is None:
        return DOCUMENT
    before = [message["content"] for message in record.messages if message["role"] == "system"]
    before += [as_json(record.tools)] if record.tools else []
    return hash64("\x1e".join(before)) if before else 0
