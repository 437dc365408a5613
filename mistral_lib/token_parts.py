"""Token windows of all kept records, made in parts: each part is on disk before the next begins, and is not made again after a kill."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mistral_lib import chat_format, long_records
from mistral_lib.finished_parts import FinishedParts
from mistral_lib.progress import bar, say
from mistral_lib.record_store import PART, RecordStore
from mistral_lib.records import Record
from mistral_lib.settings import Settings
from mistral_lib.token_store import TokenWriter

BATCH = 512  # records tokenised at once
WINDOWS = ("length", "supervised", "record")

Part = tuple[Path, dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]


def parts(tokenizer: Any, store: RecordStore, kept: np.ndarray, settings: Settings, finished: FinishedParts) -> Iterator[Part]:
    """Of every PART of the kept records: the folder of its tokens, the columns of its windows, the tokens lost, int64 (2, records with
    a loss) record numbers and counts, and the numbers of the refused records by reason."""
    starts = range(0, max(len(kept), 1), PART)
    stream: Iterator[tuple[int, long_records.Fitted]] | None = None
    for start in starts:
        done = finished.finished(_name(start)) if stream is None else None  # nothing is finished behind what is not
        if done is None:
            if stream is None:
                if start:
                    say(f"data: {start:,} records were tokenised before, and are used")
                stream = _fitted(tokenizer, store, kept[start:], settings)
            done = _made(finished.begin(_name(start)), islice(stream, PART))
            finished.seal(_name(start), *done)
        facts, arrays = done
        refused = {reason: arrays[f"refused-{place}"] for place, reason in enumerate(facts["refused"])}
        yield finished.folder / _name(start), {column: arrays[column] for column in WINDOWS}, arrays["lost"], refused


def _name(start: int) -> str:
    return f"tokens-{start // PART:05}"


def _made(folder: Path, fitted: Iterator[tuple[int, long_records.Fitted]]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The windows on disk; the facts and the arrays of the part."""
    lost: list[tuple[int, int]] = []
    refused: dict[str, list[int]] = {}
    with TokenWriter(folder) as tokens:
        for number, one in fitted:
            if one.tokens_lost:
                lost.append((number, one.tokens_lost))
            if one.refusal:
                refused.setdefault(one.refusal, []).append(number)
            for window in one.windows:
                tokens.add(number, window)
        columns = tokens.columns()
    arrays = {f"refused-{place}": np.array(numbers, np.int64) for place, numbers in enumerate(refused.values())}
    return {"refused": list(refused)}, {**columns, "lost": np.array(lost, np.int64).reshape(-1, 2).T, **arrays}


def _fitted(tokenizer: Any, store: RecordStore, numbers: np.ndarray, settings: Settings) -> Iterator[tuple[int, long_records.Fitted]]:
    """(number, windows) of each record."""
    batches = (store.records(numbers[start : start + BATCH]) for start in range(0, len(numbers), BATCH))
    encoded = (pair for records, found in chat_format.encode_batches(tokenizer, batches) for pair in zip(records, found, strict=True))
    for number, (record, one) in zip(map(int, numbers), bar(encoded, "tokens", total=len(numbers), unit="record"), strict=True):
        yield number, _fit(tokenizer, record, one, settings)


def _fit(tokenizer: Any, record: Record, one: chat_format.Encoded, settings: Settings) -> long_records.Fitted:
    try:
        return long_records.fit(tokenizer, record, one, settings.max_tokens, settings.long_records)
    except chat_format.TemplateProblem:
        return long_records.Fitted([], len(one.input_ids), one.supervised, "turns_cannot_stand_alone")
