"""Token windows of all kept records, made in parts: each part is on disk before the next begins, and is not made again after a kill."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mistral_lib.preparation import part_cache
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.record_store import PART, RecordStore
from mistral_lib.preparation.token_store import COLUMNS, TokenWriter, Windows
from mistral_lib.run.progress import bar, say
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import long_records
from mistral_lib.tokens.batch_encoding import EncodedBatch, encode_batches
from mistral_lib.tokens.chat_format import TemplateProblem
from mistral_lib.tokens.long_records import Fitted, Tokens

BATCH = 512  # records tokenised at once; a part is a whole number of batches

Made = tuple[dict[str, Any], dict[str, np.ndarray]]

Part = tuple[Path, dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]


def parts(tokenizer: Any, store: RecordStore, kept: np.ndarray, settings: Settings, finished: PartCache, turn: int = 0) -> Iterator[Part]:
    """Of every PART of the kept records: the folder of its tokens, the columns of its windows, the tokens lost, int64 (2, records with
    a loss) record numbers and counts, and the numbers of the refused records by reason. turn: which selection of records
    of the same preparation this is."""
    starts = range(0, max(len(kept), 1), PART)
    stream: Iterator[tuple[np.ndarray, EncodedBatch]] | None = None
    for start in starts:
        done = finished.part(_name(turn, start)) if stream is None else None  # nothing is complete behind what is not
        if done is None:
            if stream is None:
                if start:
                    say(f"data: {start:,} records were tokenised before, and are used")
                stream = _encoded(tokenizer, store, kept, start)
            with finished.new_part(_name(turn, start)) as folder:
                done = _made(folder, islice(stream, PART // BATCH), tokenizer, settings)
                part_cache.write(folder, *done)
        facts, arrays = done
        refused = {reason: arrays[f"refused-{place}"] for place, reason in enumerate(facts["refused"])}
        yield finished.folder / _name(turn, start), {column: arrays[column] for column in COLUMNS}, arrays["lost"], refused


def _name(turn: int, start: int) -> str:
    return f"tokens-{start // PART:05}" if not turn else f"tokens-{turn}-{start // PART:05}"


def _made(folder: Path, batches: Iterator[tuple[np.ndarray, EncodedBatch]], tokenizer: Any, settings: Settings) -> Made:
    """The windows on disk; the facts and the arrays of the part. batches: the numbers of the records, and what they are as tokens."""
    lost: list[tuple[int, int]] = []
    refused: dict[str, list[int]] = {}
    with TokenWriter(folder) as tokens:
        for numbers, batch in batches:
            for number, one in _fitted(tokens, numbers, batch, tokenizer, settings):
                if one.tokens_lost:
                    lost.append((number, one.tokens_lost))
                if one.refusal:
                    refused.setdefault(one.refusal, []).append(number)
        columns = tokens.columns()
    arrays = {f"refused-{place}": np.array(numbers, np.int64) for place, numbers in enumerate(refused.values())}
    return {"refused": list(refused)}, {**columns, "lost": np.array(lost, np.int64).reshape(-1, 2).T, **arrays}


def _fitted(
    tokens: TokenWriter, numbers: np.ndarray, batch: EncodedBatch, tokenizer: Any, settings: Settings
) -> Iterator[tuple[int, Fitted[Tokens]]]:
    """Write the windows of a batch, those records as they are that fit; (number, windows) of each that does not."""
    lengths = np.diff(batch.starts)
    misfits = np.flatnonzero((batch.supervised == 0) | (lengths > settings.max_tokens)).tolist()
    windows = Windows()
    done = 0
    for place in misfits:
        windows.add(numbers[done:place], lengths[done:place], *batch.span(done, place))
        fitted = _fit(tokenizer, batch, place, settings)
        for ids, graded in fitted.windows:
            windows.add(numbers[place : place + 1], [len(ids)], ids, graded)
        done = place + 1
        yield int(numbers[place]), fitted
    windows.add(numbers[done:], lengths[done:], *batch.span(done, len(numbers)))
    tokens.add(windows)


def _encoded(tokenizer: Any, store: RecordStore, kept: np.ndarray, first: int) -> Iterator[tuple[np.ndarray, EncodedBatch]]:
    """(numbers, tokens) of the kept records from the first on, in batches."""
    batches = [kept[start : start + BATCH] for start in range(first, len(kept), BATCH)]
    found = encode_batches(tokenizer, map(store.records, batches))
    return zip(batches, bar(found, "tokens", total=len(batches), unit="batch"), strict=True)


def _fit(tokenizer: Any, batch: EncodedBatch, place: int, settings: Settings) -> Fitted[Tokens]:
    tokens = batch.span(place, place + 1)
    refusal = batch.problems.get(place) or ("" if batch.supervised[place] else "no_supervised_token")
    try:
        return long_records.cut(tokenizer, batch.records[place], tokens, refusal, settings.max_tokens, settings.long_records)
    except TemplateProblem:
        return Fitted([], len(tokens[0]), "turns_cannot_stand_alone")
