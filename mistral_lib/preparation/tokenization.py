"""Token windows of all kept records, made in parts: by this process one after another, or by the workers of a cluster.

A part that is on disk is reused after a kill.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mistral_lib.engine.job import Engine, Finished, Job
from mistral_lib.engine.ray_workers import RayEngine
from mistral_lib.preparation import part_cache, token_store
from mistral_lib.preparation.part_cache import PartCache, Parts
from mistral_lib.preparation.record_store import PART, RecordStore
from mistral_lib.preparation.token_store import COLUMNS, Windows
from mistral_lib.run.progress import bar, say
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import long_records
from mistral_lib.tokens.batch_encoding import EncodedBatch, encode_batches
from mistral_lib.tokens.chat_format import TemplateError
from mistral_lib.tokens.long_records import Fitted, Tokens

BATCH = 512  # records tokenized at once; a multiple of it is a part

MODULE = "mistral_lib.preparation.tokenization"

Made = tuple[dict[str, Any], dict[str, np.ndarray]]
Part = tuple[Path, dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]


def parts(
    tokenizer: Any, store: RecordStore, kept: np.ndarray, settings: Settings, cache: PartCache, engine: Engine, selection: int = 0
) -> Iterator[Part]:
    """For every PART of the kept records: the folder of its tokens; the columns of its windows; the tokens lost, int64 (2, records with
    a loss), record numbers and counts; the numbers of the refused records by reason.

    selection: 0 for the records kept first, 1 for their replacements, and so on.
    """
    made = _distributed if isinstance(engine, RayEngine) else _one_after_another
    for name, (facts, arrays) in made(tokenizer, store, kept, settings, cache, engine, selection):
        refused = {reason: arrays[f"refused-{place}"] for place, reason in enumerate(facts["refused"])}
        yield cache.folder / name, {column: arrays[column] for column in COLUMNS}, arrays["lost"], refused


def _name(selection: int, start: int) -> str:
    return f"tokens-{selection}-{start // PART:05}"


def _reused(count: int) -> None:
    if count:
        say(f"data: {count:,} records were tokenized before and are reused")


def _one_after_another(
    tokenizer: Any, store: RecordStore, kept: np.ndarray, settings: Settings, cache: PartCache, engine: Engine, selection: int
) -> Iterator[tuple[str, Made]]:
    """In this process: the threads of the tokenizer have the next part while this one is written."""
    starts = range(0, max(len(kept), 1), PART)
    there = cache.names()
    done = [_name(selection, start) in there and cache.facts(_name(selection, start)) is not None for start in starts]
    _reused(sum(len(kept[start : start + PART]) for start, is_done in zip(starts, done, strict=True) if is_done))
    batches = [batch for start, is_done in zip(starts, done, strict=True) if not is_done for batch in _batches(kept[start : start + PART])]
    stream = _encoded(tokenizer, store, batches)
    for start, is_done in zip(starts, done, strict=True):
        name = _name(selection, start)
        if is_done:
            yield name, cache.part(name)
            continue
        with cache.new_part(name) as folder:
            found = _made(folder, islice(stream, len(_batches(kept[start : start + PART]))), tokenizer, settings)
            part_cache.write(folder, *found)
        yield name, found


def _distributed(
    tokenizer: Any, store: RecordStore, kept: np.ndarray, settings: Settings, cache: PartCache, engine: Engine, selection: int
) -> Iterator[tuple[str, Made]]:
    """By workers, a part each."""
    items = [(_name(selection, start), kept[start : start + PART]) for start in range(0, max(len(kept), 1), PART)]
    there = cache.names()
    missing = [(name, (name, numbers)) for name, numbers in items if name not in there or cache.facts(name) is None]
    _reused(len(kept) - sum(len(numbers) for _, (_, numbers) in missing))
    job = Job(f"{MODULE}:worker", (tokenizer, store.names, store.rows, settings, cache.seen_by_workers()))
    made, wanted = engine.map(job, missing), {name for name, _ in missing}
    for name, _ in bar(items, "tokens", len(items), "part", engine.described):
        if name in wanted:
            next(made)
        yield name, cache.part(name)


def worker(
    tokenizer: Any, names: Sequence[str], rows: Sequence[int], settings: Settings, shared: Parts
) -> Callable[[tuple[str, np.ndarray]], Finished]:
    """The work of tokenizing the records of a part."""

    def tokenize(item: tuple[str, np.ndarray]) -> Finished:
        name, numbers = item
        with shared.at_hand() as own, closing(RecordStore(own.path, names, rows)) as store, own.new_part(name) as folder:
            found = _made(folder, _encoded(tokenizer, store, _batches(numbers)), tokenizer, settings)
            part_cache.write(folder, *found)
        return Finished(None, len(numbers))

    return tokenize


def _batches(numbers: np.ndarray) -> list[np.ndarray]:
    return [numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)]


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


def _encoded(tokenizer: Any, store: RecordStore, batches: Sequence[np.ndarray]) -> Iterator[tuple[np.ndarray, EncodedBatch]]:
    """(numbers, tokens) of the records with these numbers, in batches."""
    found = encode_batches(tokenizer, map(store.records, batches))
    return zip(batches, bar(found, "tokens", total=len(batches), unit="batch"), strict=True)


def _fit(tokenizer: Any, batch: EncodedBatch, place: int, settings: Settings) -> Fitted[Tokens]:
    tokens = batch.span(place, place + 1)
    refusal = batch.problems.get(place) or ("" if batch.supervised[place] else "no_supervised_token")
    try:
        return long_records.cut(tokenizer, batch.records[place], tokens, refusal, settings.max_tokens, settings.long_records)
    except TemplateError:
        return Fitted([], len(tokens[0]), "turns_cannot_stand_alone")
