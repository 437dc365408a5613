"""All sources read once, in parts of at most PART rows: each part's records and numbers are on disk before the next one is read.

A worker reads a stretch of the corpus and writes its parts; the parts are taken together in the order of the corpus. After a kill, or
with another engine, finished parts are reused: a stretch is read again up to its last finished row, but no row is inspected again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

from mistral_lib.corpus import stretches
from mistral_lib.corpus.exclusions import Exclusions
from mistral_lib.corpus.sources import Row, SourceError, SourceFile
from mistral_lib.corpus.stretches import Plan, Stretch
from mistral_lib.curation.minhash import Signatures
from mistral_lib.engine.job import Engine, Finished, Job
from mistral_lib.preparation import part_cache
from mistral_lib.preparation.part_cache import PartCache, Parts
from mistral_lib.preparation.record_store import BATCH, PART, new_file
from mistral_lib.preparation.row_inspection import COLUMNS, ORIGINS, SIDES, InspectedBatch, Inspector
from mistral_lib.run.progress import bar, say
from mistral_lib.run.settings import Settings

SIGNED = ("exact", "words", "bands", "sketch")
PLAN = "plan"
MODULE = "mistral_lib.preparation.row_parts"

Rows = Iterator[tuple[SourceFile, Row]]


def name_of(stretch: int, part: int) -> str:
    return f"rows-{stretch:05}-{part:03}"


def parts(
    files: Sequence[SourceFile], settings: Settings, excluded: Exclusions, cache: PartCache, engine: Engine
) -> Iterator[tuple[str, InspectedBatch]]:
    """(name, everything but the records) of every part, in order; parts that are not finished are made. Errors: SourceError."""
    plan = planned(files, settings, cache, engine)
    finished, rows = _finished(cache, len(plan.stretches))
    if rows:
        say(f"data: {rows:,} rows were read and checked before and are reused")
    missing = [number for number, is_there in enumerate(finished) if not is_there]
    job = Job(f"{MODULE}:reader", (files, settings, excluded, cache.seen_by_workers(), not engine.workers))
    made = engine.map(job, [(f"stretch {number}", (number, plan.stretches[number])) for number in missing])
    numbers = range(len(finished))
    for number in bar(numbers, "stretches", len(finished), "stretch", engine.described) if engine.workers else numbers:
        if not finished[number]:
            next(made)
        while (found := _loaded(cache, number)) is None:  # altered since it was finished
            list(engine.map(job, [(f"stretch {number}", (number, plan.stretches[number]))]))
        yield from found
    if missing and engine.workers:
        say(f"data: rows read by {engine.described()}")


def planned(files: Sequence[SourceFile], settings: Settings, cache: PartCache, engine: Engine) -> Plan:
    """The stretches of the corpus. They are decided once: a stage that resumes has the same."""
    facts = cache.facts(PLAN)
    if facts is None:
        look = Job(f"{MODULE}:looking")
        plan = stretches.plan(files, settings, lambda wanted: engine.map(look, ((one[0].name, one) for one in wanted)))
        with cache.new_part(PLAN) as folder:
            part_cache.write(folder, plan.facts(), {})
    else:
        plan = Plan.of_facts(facts)
    for sentence in plan.uncut if engine.workers else ():
        say(f"data: {sentence}")
    return plan


def looking() -> Callable[[stretches.LookedAt], Any]:
    """The work of looking at windows of large files."""
    return stretches.look


def _finished(cache: PartCache, count: int) -> tuple[list[bool], int]:
    """Of each stretch whether all its parts are there, and the rows of all parts that are. What is altered is found when it is loaded."""
    there, finished, rows = cache.names(), [], 0
    for number in range(count):
        ended, part = False, 0
        while not ended and name_of(number, part) in there and (facts := cache.claimed(name_of(number, part))):
            ended, part, rows = facts["ended"], part + 1, rows + facts["rows"]
        finished.append(ended)
    return finished, rows


def _loaded(cache: PartCache, stretch: int) -> list[tuple[str, InspectedBatch]] | None:
    """The parts of a stretch; None if they are not complete."""
    found, ended = [], False
    while not ended:
        name = name_of(stretch, len(found))
        done = cache.part(name)
        if done is None:
            return None
        found.append((name, _restored(*done)))
        ended = done[0]["ended"]
    return found


# -- the work on one stretch ---------------------------------------------------------------------------------------------------


def reader(
    files: Sequence[SourceFile], settings: Settings, excluded: Exclusions, shared: Parts, shows_rows: bool
) -> Callable[[tuple[int, Stretch]], Finished]:
    """The work of reading stretches. shows_rows: whether rows are counted on a progress bar."""
    inspector = Inspector(settings, excluded)

    def read(item: tuple[int, Stretch]) -> Finished:
        number, stretch = item
        with shared.at_hand() as own, _seen_by_this_node(stretch, files, settings):
            made = Finished(None, 0)
            part, taken, ended = _resumed(own, number)
            rows = stretch.rows(files, settings, taken)
            batches = _batches(bar(rows, "rows", unit="row") if shows_rows else rows)
            while not ended:
                rows_made, ended = _make(batches, inspector, own, name_of(number, part))
                made, part = Finished(None, made.rows + rows_made), part + 1
            return made

    return read


@contextmanager
def _seen_by_this_node(stretch: Stretch, files: Sequence[SourceFile], settings: Settings) -> Iterator[None]:
    """Errors: SourceError that says what a cluster needs if a file is not on this node."""
    try:
        yield
    except SourceError as error:
        missing = [file for number, _ in stretch.pieces if (file := files[number]).path is not None and not file.path.exists()]
        if settings.engine != "ray" or not missing:
            raise
        raise SourceError(
            f"{error}. Every node of the cluster must see the corpus under this path: put it on storage that all share, or give s3://"
        ) from None


def _resumed(own: Parts, stretch: int) -> tuple[int, int, bool]:
    """(number of finished parts of a stretch, their rows, whether they are all)."""
    part = taken = 0
    while (facts := own.facts(name_of(stretch, part))) is not None:
        part, taken = part + 1, taken + facts["rows"]
        if facts["ended"]:
            return part, taken, True
    return part, taken, False


def _batches(rows: Rows) -> Iterator[tuple[list[tuple[int, Row]], bool]]:
    """(BATCH rows with their numbers in ORIGINS, whether they are the last)."""
    following = next(rows, None)
    while following is not None:
        batch = [following, *islice(rows, BATCH - 1)]
        following = next(rows, None)
        yield [(ORIGINS.index(file.origin), row) for file, row in batch], following is None


def _make(batches: Iterator[tuple[list[tuple[int, Row]], bool]], inspector: Inspector, own: Parts, name: str) -> tuple[int, bool]:
    """The next part, on disk: its rows, and whether it is the last of its stretch."""
    found: list[InspectedBatch] = []
    ended = True
    with own.new_part(name) as folder:
        with new_file(folder) as writer:
            for batch, ended in islice(batches, PART // BATCH):  # noqa: B007
                inspected = inspector.inspect(batch)
                writer.write_batch(inspected.stored)
                inspected.stored = None
                found.append(inspected)
        part = InspectedBatch.concatenate(found)
        rows = len(part.columns["key"])
        signed = {f"signed-{side}-{name}": getattr(one, name) for side, one in (part.signed or {}).items() for name in SIGNED}
        facts = {"rows": rows, "ended": ended, "domains": part.domains, "reasons": part.reasons, "counts": part.counts}
        part_cache.write(folder, facts, {**part.columns, **signed})
    return rows, ended


def _restored(facts: dict[str, Any], arrays: dict[str, Any]) -> InspectedBatch:
    sides = [side for side in SIDES if f"signed-{side}-exact" in arrays]
    signed = {side: Signatures(**{name: arrays[f"signed-{side}-{name}"] for name in SIGNED}) for side in sides} or None
    return InspectedBatch({name: arrays[name] for name in COLUMNS}, facts["domains"], facts["reasons"], facts["counts"], signed)
