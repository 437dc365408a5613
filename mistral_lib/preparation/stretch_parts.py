"""All rows of the corpus, worked on in parts of at most PART rows: each part is on disk before the next one is read.

A worker reads a stretch of the corpus and writes its parts; the parts are taken together in the order of the corpus. After a kill, or
with another engine, finished parts are reused: a stretch is read again up to its last finished row, but no row is worked on again.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mistral_lib.corpus import stretches
from mistral_lib.corpus.sources import Row, SourceError, SourceFile
from mistral_lib.corpus.stretches import Plan, Stretch
from mistral_lib.engine.job import Engine, Finished, Job
from mistral_lib.preparation import part_cache
from mistral_lib.preparation.part_cache import PartCache, Parts
from mistral_lib.preparation.record_store import BATCH, PART
from mistral_lib.run.progress import bar, say
from mistral_lib.run.settings import Settings

PLAN = "plan"
ATTEMPTS = 3  # to read back what was written
MODULE = "mistral_lib.preparation.stretch_parts"

Batch = list[tuple[SourceFile, Row]]
Made = tuple[dict[str, Any], dict[str, np.ndarray]]  # the facts and the arrays of a part
Make = Callable[["PartRows", Path], Made]  # writes the other files of a part into its folder
Begin = Callable[[Any], Make]  # called for each stretch with what the driver knew when it gave it out


def name_of(stretch: int, part: int) -> str:
    return f"rows-{stretch:05}-{part:03}"


class PartRows:
    """The rows of one part, in batches of BATCH; after them, how many they were, and whether they were the last ones of the stretch."""

    def __init__(self, batches: Iterator[tuple[Batch, bool]]) -> None:
        self.batches, self.rows, self.ended = batches, 0, True

    def __iter__(self) -> Iterator[Batch]:
        for batch, is_last in islice(self.batches, PART // BATCH):
            self.rows, self.ended = self.rows + len(batch), is_last
            yield batch


@dataclass(frozen=True, slots=True)
class Reading:
    """What a stage does with the rows. begin: the Job that makes a Begin. known: returns what the driver knows now."""

    stage: str
    files: Sequence[SourceFile]
    settings: Settings
    begin: Job
    known: Callable[[], Any] = lambda: None

    def parts(self, cache: PartCache, engine: Engine) -> Iterator[tuple[str, dict[str, Any], dict[str, np.ndarray]]]:
        """(name, facts, arrays) of every part, in order; parts that are not finished are made. Errors: SourceError."""
        plan = self.planned(cache, engine)
        finished, rows = _finished(cache, len(plan.stretches))
        if rows:
            say(f"{self.stage}: {rows:,} rows were read before and are reused")
        job = Job(f"{MODULE}:reader", (self.files, self.settings, self.begin, cache.seen_by_workers(), not engine.workers))
        missing = [number for number, is_there in enumerate(finished) if not is_there]
        made = engine.map(job, (self._item(plan, number) for number in missing))
        numbers = range(len(finished))
        for number in bar(numbers, "stretches", len(finished), "stretch", engine.described) if engine.workers else numbers:
            if not finished[number]:
                next(made)
            yield from _taken(cache, number, lambda number=number: list(engine.map(job, [self._item(plan, number)])))
        if missing and engine.workers:
            say(f"{self.stage}: rows read by {engine.described()}")

    def _item(self, plan: Plan, number: int) -> tuple[str, Any]:
        return f"stretch {number}", (number, plan.stretches[number], self.known())

    def planned(self, cache: PartCache, engine: Engine) -> Plan:
        """The stretches of the corpus. They are decided once: a stage that resumes has the same."""
        facts = cache.facts(PLAN)
        if facts is None:
            look = Job(f"{MODULE}:looking")
            plan = stretches.plan(self.files, self.settings, lambda wanted: engine.map(look, ((one[0].name, one) for one in wanted)))
            with cache.new_part(PLAN) as folder:
                part_cache.write(folder, plan.facts(), {})
        else:
            plan = Plan.of_facts(facts)
        for sentence in plan.uncut if engine.workers else ():
            say(f"{self.stage}: {sentence}")
        return plan


def looking() -> Callable[[stretches.LookedAt], Any]:
    """The work of looking at windows of large files."""
    return stretches.look


def _finished(cache: PartCache, count: int) -> tuple[list[bool], int]:
    """Of each stretch whether all its parts are there, and the rows of all parts that are. What is altered is found when it is read."""
    there, finished, rows = cache.names(), [], 0
    for number in range(count):
        ended, part = False, 0
        while not ended and name_of(number, part) in there and isinstance((facts := cache.claimed(name_of(number, part))).get("rows"), int):
            ended, part, rows = facts.get("ended") is True, part + 1, rows + facts["rows"]
        finished.append(ended)
    return finished, rows


def _taken(cache: PartCache, stretch: int, again: Callable[[], Any]) -> Iterator[tuple[str, dict[str, Any], dict[str, np.ndarray]]]:
    """The parts of a stretch, one at a time in memory. again: makes those that were altered since they were finished."""
    part, ended = 0, False
    while not ended:
        facts, arrays = _part(cache, name_of(stretch, part), again)
        yield name_of(stretch, part), facts, arrays
        part, ended = part + 1, facts["ended"]


def _part(cache: PartCache, name: str, again: Callable[[], Any]) -> Made:
    """The facts and arrays of a part. Errors: OSError if it is altered whenever it is made."""
    for _ in range(ATTEMPTS):
        if (found := cache.part(name)) is not None:
            return found
        again()
    raise OSError(f"{cache.folder}: what is written there is altered when it is read again: the disk may be failing")


# -- the work on one stretch ---------------------------------------------------------------------------------------------------


def reader(
    files: Sequence[SourceFile], settings: Settings, begin: Job, shared: Parts, shows_rows: bool
) -> Callable[[tuple[int, Stretch, Any]], Finished]:
    """The work of reading stretches. shows_rows: whether rows are counted on a progress bar."""
    begun: Begin = begin.work()

    def read(item: tuple[int, Stretch, Any]) -> Finished:
        number, stretch, known = item
        with shared.at_hand() as own, _seen_by_this_node(stretch, files, settings):
            made, make = 0, begun(known)
            part, taken, ended = _resumed(own, number)
            rows = stretch.rows(files, settings, taken)
            batches = _batches(bar(rows, "rows", unit="row") if shows_rows else rows)
            while not ended:
                rows_made, ended = _write(PartRows(batches), make, own, name_of(number, part))
                made, part = made + rows_made, part + 1
            return Finished(None, made)

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


def _batches(rows: Iterator[tuple[SourceFile, Row]]) -> Iterator[tuple[Batch, bool]]:
    """(BATCH rows, whether they are the last)."""
    following = next(rows, None)
    while following is not None:
        batch = [following, *islice(rows, BATCH - 1)]
        following = next(rows, None)
        yield batch, following is None


def _write(rows: PartRows, make: Make, own: Parts, name: str) -> tuple[int, bool]:
    """Put the next part on disk: its rows, and whether it is the last of its stretch."""
    with own.new_part(name) as folder:
        facts, arrays = make(rows, folder)
        part_cache.write(folder, {**facts, "rows": rows.rows, "ended": rows.ended}, arrays)
    return rows.rows, rows.ended
