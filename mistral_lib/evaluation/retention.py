"""The retention set: texts of other kinds than the training data, on which the evaluation measures what was forgotten.

Read, mapped and packed as the corpus is. A record that stands in training would show the opposite of forgetting: it is
left out and counted.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mistral_lib.corpus import sources
from mistral_lib.corpus.records import Record, Unmappable, record_of
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import chat_format, long_records, packed_dataset

MOST = 5000  # records that are considered, those with the smallest ids: a fair sample, however large the set is


@dataclass(frozen=True, slots=True)
class RetentionSet:
    blocks: Any  # packed dataset
    documents: dict[str, str]  # record_id → source document
    left_out: dict[str, int]  # why a row is not measured → how many


class NoRetentionSet(ValueError):
    """Nothing of the retention set can be measured; the message says why."""


def build(settings: Settings, tokenizer: Any, trained: set[str]) -> RetentionSet:
    """The retention set in packed blocks, at most max_probe_tokens of it. trained: ids of the training records.

    Errors: NoRetentionSet, SourceError.
    """
    left_out: Counter[str] = Counter()
    records = heapq.nsmallest(MOST, _records(settings, trained, left_out), key=lambda record: record.record_id)
    distinct = {record.record_id: record for record in records}
    windows = [
        (record, record.record_id, window)
        for record in _in_turn(distinct.values())
        for window in _windows(tokenizer, record, settings, left_out)
    ]
    if not windows:
        raise NoRetentionSet(
            f"retention_paths: no record of {settings.retention_paths} can be measured ({dict(left_out)}); give texts that training has "
            "not seen, or set retention_paths: [] to do without a test of forgetting"
        )
    blocks = packed_dataset.packed(tokenizer, windows, settings.max_tokens, settings.max_probe_tokens)
    return RetentionSet(blocks, {key: record.source_group for key, record in distinct.items()}, dict(left_out))


def _records(settings: Settings, trained: set[str], left_out: Counter) -> Iterator[Record]:
    for file in sources.of_retention(settings):
        for row in sources.rows_of(file, settings):
            try:
                record = record_of(row, settings)
            except Unmappable as reason:
                left_out[str(reason)] += 1
                continue
            if record.record_id in trained:
                left_out["stands_in_training"] += 1
            else:
                yield record


def _in_turn(records: Iterable[Record]) -> list[Record]:
    """One record of each domain, then the second of each, ...: every stretch is a fair sample."""
    by_domain = sorted(records, key=lambda record: (record.domain, record.record_id))
    turns = [(turn, record) for _, part in groupby(by_domain, lambda record: record.domain) for turn, record in enumerate(part)]
    return [record for _, record in sorted(turns, key=lambda pair: (pair[0], pair[1].domain))]


def _windows(tokenizer: Any, record: Record, settings: Settings, left_out: Counter) -> list[chat_format.Encoded]:
    encoded = chat_format.encode(tokenizer, [record])[0]
    try:
        fitted = long_records.fit(tokenizer, record, encoded, settings.max_tokens, settings.long_records)
    except chat_format.TemplateProblem:
        left_out["turns_cannot_stand_alone"] += 1
        return []
    left_out.update([fitted.refusal] if fitted.refusal else [])
    return fitted.windows
