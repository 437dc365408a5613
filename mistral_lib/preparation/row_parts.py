"""All sources read once, in parts of equal size: each part's records and numbers are on disk before the next begins.

After a kill, finished parts are reused; the file in which they end is read again up to that row, but no row is inspected
again.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mistral_lib.corpus import sources
from mistral_lib.curation.minhash import Signatures
from mistral_lib.preparation import part_cache, worker_processes
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.record_store import BATCH, PART, new_file
from mistral_lib.preparation.row_inspection import COLUMNS, ORIGINS, SIDES, InspectedBatch
from mistral_lib.run.progress import bar, say
from mistral_lib.run.settings import Settings

SIGNED = ("exact", "words", "bands", "sketch")
Place = tuple[int, int]  # number of a file, and how many of its rows were read
Batches = Iterator[tuple[Place, InspectedBatch]]


def name_of(part: int) -> str:
    return f"rows-{part:05}"


def parts(source_files: Sequence[sources.SourceFile], settings: Settings, cache: PartCache) -> Iterator[tuple[Path, InspectedBatch]]:
    """(folder of the records, everything else) of every part, in order; parts that are not finished are made. Errors: SourceError."""
    number, count, place, ended = 0, 0, (0, 0), False
    while not ended and (done := cache.part(name_of(number))) is not None:
        place, ended = done[0]["place"], done[0]["ended"]
        count += len(done[1]["key"])
        yield cache.folder / name_of(number), _restored(*done)
        number += 1
    if number:
        say(f"data: {count:,} rows were read and checked before and are reused")
    if ended:
        return
    workers = worker_processes.worker_count(sum(file.size for file in source_files))
    with worker_processes.inspecting(settings, workers) as inspect:
        batches = inspect(_batches(source_files, settings, *place))
        while not ended:
            part, ended = _make(batches, cache, number)
            yield cache.folder / name_of(number), part
            number += 1


def _batches(source_files: Sequence[sources.SourceFile], settings: Settings, first: int, taken: int) -> worker_processes.Batches:
    """(place after the batch, (number in ORIGINS, row) of BATCH rows), from row `taken` of file `first` on."""
    rows = bar(_rows(source_files, settings, first, taken), "rows", unit="row")
    while batch := list(islice(rows, BATCH)):
        yield batch[-1][0], [(origin, row) for _, origin, row in batch]


def _rows(
    source_files: Sequence[sources.SourceFile], settings: Settings, first: int, taken: int
) -> Iterator[tuple[Place, int, sources.Row]]:
    for number, file in enumerate(source_files[first:], first):
        origin = ORIGINS.index(file.origin)
        rows = enumerate(sources.rows_of(file, settings), 1)
        for count, row in islice(rows, taken if number == first else 0, None):
            yield (number, count), origin, row


def _make(batches: Batches, cache: PartCache, number: int) -> tuple[InspectedBatch, bool]:
    """The next part, on disk, and whether it was the last."""
    found: list[InspectedBatch] = []
    place: Place = (0, 0)
    with cache.new_part(name_of(number)) as folder:
        with new_file(folder) as writer:
            for after, batch in islice(batches, PART // BATCH):
                writer.write_batch(batch.stored)
                batch.stored, place = None, after
                found.append(batch)
        part = InspectedBatch.concatenate(found)
        ended = len(part.columns["key"]) < PART
        signed = {f"signed-{side}-{name}": getattr(one, name) for side, one in (part.signed or {}).items() for name in SIGNED}
        facts = {"place": place, "ended": ended, "domains": part.domains, "reasons": part.reasons, "counts": part.counts}
        part_cache.write(folder, facts, {**part.columns, **signed})
    return part, ended


def _restored(facts: dict[str, Any], arrays: dict[str, Any]) -> InspectedBatch:
    sides = [side for side in SIDES if f"signed-{side}-exact" in arrays]
    signed = {side: Signatures(**{name: arrays[f"signed-{side}-{name}"] for name in SIGNED}) for side in sides} or None
    return InspectedBatch({name: arrays[name] for name in COLUMNS}, facts["domains"], facts["reasons"], facts["counts"], signed)
