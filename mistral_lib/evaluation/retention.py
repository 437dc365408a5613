"""The retention set: texts of other kinds than the training data, on which the evaluation measures forgetting.

It is read, mapped and packed like the corpus. A record that is also in training would hide forgetting, so it is left out and
counted.
"""

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from mistral_lib.corpus import sources
from mistral_lib.corpus.records import Record, record_or_reason
from mistral_lib.evaluation.generation import round_robin
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import chat_format, long_records, packed_dataset

MOST_RECORDS = 5000  # that are considered: those with the smallest ids, a random sample since ids are hashes


@dataclass(frozen=True, slots=True)
class RetentionSet:
    blocks: Any  # packed dataset
    documents: dict[str, str]  # record_id → source document
    left_out: dict[str, int]  # reason → rows that are not measured
    name: str = "retention"  # of its measurements


class NoRetentionSetError(ValueError):
    """No record of the retention set can be measured; the message says why."""


def build(settings: Settings, tokenizer: Any, trained: set[str]) -> RetentionSet:
    """The retention set in packed blocks of at most max_probe_tokens in total. trained: ids of the training records.

    Errors: NoRetentionSetError, SourceError.
    """
    left_out: Counter[str] = Counter()
    records = heapq.nsmallest(MOST_RECORDS, _records(settings, trained, left_out), key=lambda record: record.record_id)
    distinct = {record.record_id: record for record in records}
    ordered = sorted(distinct.values(), key=lambda record: (record.domain, record.record_id))
    by_domain = (list(same) for _, same in groupby(ordered, lambda record: record.domain))
    windows = [
        (record, record.record_id, window)
        for record in round_robin(*by_domain)
        for window in _windows(tokenizer, record, settings, left_out)
    ]
    if not windows:
        raise NoRetentionSetError(
            f"retention_paths: no record of {settings.retention_paths} can be measured ({dict(left_out)}); give texts that are not in "
            "the training data, or set retention_paths: [] to skip the test of forgetting"
        )
    blocks = packed_dataset.packed(tokenizer, windows, settings.max_tokens, settings.max_probe_tokens)
    return RetentionSet(blocks, {key: record.source_group for key, record in distinct.items()}, dict(left_out))


def _records(settings: Settings, trained: set[str], left_out: Counter) -> Iterator[Record]:
    for file in sources.of_retention(settings):
        for row in sources.rows_of(file, settings):
            record, reason = record_or_reason(row, settings)
            if record is None:
                left_out[reason] += 1
            elif record.record_id in trained:
                left_out["in_training"] += 1
            else:
                yield record


def _windows(tokenizer: Any, record: Record, settings: Settings, left_out: Counter) -> list[chat_format.Encoded]:
    encoded = chat_format.encode(tokenizer, [record])[0]
    try:
        fitted = long_records.fit(tokenizer, record, encoded, settings.max_tokens, settings.long_records)
    except chat_format.TemplateError:
        left_out["turns_cannot_stand_alone"] += 1
        return []
    left_out.update([fitted.refusal] if fitted.refusal else [])
    return fitted.windows
