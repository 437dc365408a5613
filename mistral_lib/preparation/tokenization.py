"""Token windows of all kept records, made in parts: each part is on disk before the next begins, and is reused after a kill."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mistral_lib.preparation import part_cache, token_store
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.record_store import PART, RecordStore
from mistral_lib.preparation.token_store import COLUMNS, Windows
from mistral_lib.run.progress import bar, say
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import long_records
from mistral_lib.tokens.batch_encoding import EncodedBatch, encode_batches
from mistral_lib.tokens.chat_format import TemplateError
from mistral_lib.tokens.long_records import Fitted, Tokens

BATCH = 512  # records tokenized at once; a multiple of it is a part

Made = tuple[dict[str, Any], dict[str, np.ndarray]]
Part = tuple[Path, dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]


def parts(tokenizer: Any, store: RecordStore, kept: np.ndarray, settings: Settings, cache: PartCache, selection: int = 0) -> Iterator[Part]:
    """For every PART of the kept records: the folder of its tokens; the columns of its windows; the tokens lost, int64 (2, records with
    a loss), record numbers and counts; the numbers of the refused records by reason.

    selection: 0 for the records kept first, 1 for their replacements, and so on.
    """
    stream: Iterator[tuple[np.ndarray, EncodedBatch]] | None = None
    for start in range(0, max(len(kept), 1), PART):
        name = f"tokens-{selection}-{start // PART:05}"
        done = cache.part(name) if stream is None else None  # parts after an incomplete one are not complete
        if done is None:
            if stream is None:
                if start:
                    say(f"data: {start:,} records were tokenized before and are reused")
                stream = _encoded(tokenizer, store, kept, start)
            with cache.new_part(name) as folder:
                done = _made(folder, islice(stream, PART // BATCH), tokenizer, settings)
                part_cache.write(folder, *done)
        facts, arrays = done
        refused = {reason: arrays[f"refused-{place}"] for place, reason in enumerate(facts["refused"])}
        yield cache.folder / name, {column: arrays[column] for column in COLUMNS}, arrays["lost"], refused


def _made(folder: Path, batches: Iterator[tuple[np.ndarray, EncodedBatch]], tokenizer: Any, settings: Settings) -> Made:
    """Write the windows; the facts and the arrays of the part. batches: the numbers of the records, and their tokens."""
    lost: list[tuple[int, int]] = []
    refused: dict[str, list[int]] = {}
    columns = token_store.write(folder, (_windows(numbers, batch, tokenizer, settings, lost, refused) for numbers, batch in batches))
    arrays = {f"refused-{place}": np.array(numbers, np.int64) for place, numbers in enumerate(refused.values())}
    return {"refused": list(refused)}, {**columns, "lost": np.array(lost, np.int64).reshape(-1, 2).T, **arrays}


def _windows(
    numbers: np.ndarray, batch: EncodedBatch, tokenizer: Any, settings: Settings, lost: list[tuple[int, int]], refused: dict[str, list[int]]
) -> list[Windows]:
    """The windows of a batch. Adds to `lost` (number, tokens) of each record that loses some, to `refused` the numbers by reason."""
    lengths, windows, done = np.diff(batch.starts), [], 0
    for place in np.flatnonzero((batch.supervised == 0) | (lengths > settings.max_tokens)).tolist():
        windows.append((numbers[done:place], lengths[done:place], *batch.span(done, place)))
        fitted, done = _fit(tokenizer, batch, place, settings), place + 1
        windows += ((numbers[place:done], [len(ids)], ids, graded) for ids, graded in fitted.windows)
        if fitted.tokens_lost:
            lost.append((int(numbers[place]), fitted.tokens_lost))
        if fitted.refusal:
            refused.setdefault(fitted.refusal, []).append(int(numbers[place]))
    return [*windows, (numbers[done:], lengths[done:], *batch.span(done, len(numbers)))]


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
    except TemplateError:
        return Fitted([], len(tokens[0]), "turns_cannot_stand_alone")
