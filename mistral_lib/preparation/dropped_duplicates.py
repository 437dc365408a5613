"""Drops the rows that repeat others: exact copies, near-duplicates, and patterns that repeat without end.

A record repeats another if its prompt *and* its answer agree with that one's (equal or near-duplicates) and its system message is the
same. The same answer to another prompt is no repetition: it is a label, a canned reply, or a second question with that answer. A short
answer says nothing of its own, so then the prompts must be equal: several questions about one long text are near-duplicates by their words.
The search is a finished part: after a kill near-duplicates are not searched again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from mistral_lib.curation import near_duplicates
from mistral_lib.curation.equal_keys import first_occurrence, taken
from mistral_lib.curation.near_duplicates import NearDuplicates
from mistral_lib.curation.repeated_patterns import repeated
from mistral_lib.curation.splits import LONG_ANSWER
from mistral_lib.curation.template_prompts import Prompts
from mistral_lib.preparation import part_cache
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.record_store import RecordStore, StoredColumn
from mistral_lib.preparation.row_inspection import DOCUMENT, DUPLICATE, KEPT, NEAR_DUPLICATE, SIDES, InspectedBatch, RowColumns
from mistral_lib.run.allocator import release_free_memory

NAME = "near-pairs"


@dataclass(frozen=True, slots=True)
class Similar:
    """Which records have similar texts; positions are places in Duplicates.mapped."""

    leader: np.ndarray  # int32 (n,): the first of each record's cluster of near-duplicates
    component: dict[
        str, np.ndarray
    ]  # by SIDES, int32 (n,): the first of the records whose prompts (or answers) are linked as near-duplicates
    pairs: dict[str, np.ndarray]  # by SIDES, int64 (pairs, 2): verified near-duplicates

    def on_disk(self, folder: Path) -> "SimilarOnDisk":
        stored = {
            f"{kind}-{side}": StoredColumn(folder / f"{kind}-{side}.npy", getattr(self, kind)[side])
            for kind in ("component", "pairs") for side in SIDES
        }  # fmt: skip
        both = ({side: stored[f"{kind}-{side}"] for side in SIDES} for kind in ("component", "pairs"))
        return SimilarOnDisk(StoredColumn(folder / "leader.npy", self.leader), *both)


@dataclass(frozen=True, slots=True)
class SimilarOnDisk:
    """The same, read when it is needed."""

    leader: StoredColumn
    component: dict[str, StoredColumn]
    pairs: dict[str, StoredColumn]


@dataclass(frozen=True, slots=True)
class Duplicates:
    mapped: np.ndarray  # int32: the rows that are records, ascending
    repeats: StoredColumn  # int32 (rows,): for each dropped copy the row that it repeats, else -1
    similar: SimilarOnDisk


class Search:
    """The search for near-duplicates among all records: their prompts, and their answers."""

    def __init__(self, folder: Path, threshold: float, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.near = {side: NearDuplicates(folder / side, threshold) for side in SIDES}

    def append(self, part: InspectedBatch) -> None:
        """Add the signatures of a part; its batch forgets them."""
        for side, signed in (part.signed or {}).items():
            self.near[side].append(signed)
        part.signed = None

    def forget(self) -> None:
        """Close and remove the files."""
        for near in self.near.values():
            near.forget()

    def similar(self, rows: RowColumns, store: RecordStore, mapped: np.ndarray) -> Similar:
        """Compare the records at `mapped`."""
        answers = self.near["answer"]
        answer_pairs = answers.pairs(lambda places: store.answers(mapped[np.asarray(places)]))
        prompts = Prompts(self.near["prompt"], lambda places: store.prompts(mapped[np.asarray(places)]), self.folder / "rest", self.seed)
        component = {"prompt": prompts.component_of, "answer": answers.component_of()}
        short = ((rows.answer_words.read() < LONG_ANSWER) & (rows.context.read() != DOCUMENT))[mapped]

        def agree(u: np.ndarray, v: np.ndarray) -> np.ndarray:
            found = ~short[u] | (prompts.first[u] == prompts.first[v])
            for one in (prompts, answers):
                found[found] = one.agree(u[found], v[found])
            return found

        def columns(*names: str) -> Iterator[np.ndarray]:
            return (taken(getattr(rows, name).read(), mapped) for name in names)

        leader = near_duplicates.clusters(chain(columns("context"), component.values()), columns("context", *SIDES), agree)
        prompts.forget()
        return Similar(leader, component, {"prompt": prompts.pairs, "answer": answer_pairs})

    @classmethod
    def unsearched(cls, rows: RowColumns, mapped: np.ndarray) -> Similar:
        """What is known without a search: equal texts."""
        first = {side: first_occurrence(taken(getattr(rows, side).read(), mapped)) for side in SIDES}
        return Similar(np.arange(len(mapped), dtype=np.int32), first, dict.fromkeys(SIDES, np.empty((0, 2), np.int64)))


def drop_duplicates(
    rows: RowColumns, store: RecordStore, search: Search | None, most_repeated_pattern: int, cache: PartCache
) -> Duplicates:
    """Keep the first of each canonical text and of each cluster of near-duplicates; reject patterns that repeat without end.

    search: holds the signatures of the records; None if near-duplicates are not searched. Changes the fates in `rows`.
    """
    mapped = rows.kept()
    similar = Search.unsearched(rows, mapped) if search is None else searched(search, rows, store, mapped, cache)
    similar = similar.on_disk(cache.folder)
    release_free_memory(0)
    repeats = np.full(len(rows.fate), -1, np.int32)
    _drop(rows, mapped, repeats, similar.leader.read(), NEAR_DUPLICATE)
    _drop(rows, mapped, repeats, first_occurrence(taken(rows.key, mapped)), DUPLICATE)
    repeated_rows = StoredColumn(cache.folder / "repeats.npy", repeats)
    del repeats
    if most_repeated_pattern:
        _reject_patterns(rows, mapped, most_repeated_pattern)
    return Duplicates(mapped, repeated_rows, similar)


def searched(search: Search, rows: RowColumns, store: RecordStore, mapped: np.ndarray, cache: PartCache) -> Similar:
    """The result of the search, from the cache if it is there."""
    done = cache.part(NAME)
    if done is None:
        similar = search.similar(rows, store, mapped)
        arrays = {f"{kind}-{side}": getattr(similar, kind)[side] for kind in ("component", "pairs") for side in SIDES}
        with cache.new_part(NAME) as folder:
            part_cache.write(folder, {}, {"leader": similar.leader, **arrays})
    else:
        similar = Similar(done[1]["leader"], *({side: done[1][f"{kind}-{side}"] for side in SIDES} for kind in ("component", "pairs")))
    search.forget()
    return similar


def _drop(rows: RowColumns, mapped: np.ndarray, repeats: np.ndarray, first: np.ndarray, fate: int) -> None:
    """Mark the mapped rows that repeat another one. first: for each the place of the one that it repeats, or its own."""
    later = np.flatnonzero(first != np.arange(len(first), dtype=np.int32))
    rows.fate[mapped[later]] = fate
    repeats[mapped[later]] = mapped[first[later]]


def _reject_patterns(rows: RowColumns, mapped: np.ndarray, most: int) -> None:
    """Reject the records whose pattern occurs in more than `most` different texts."""
    distinct = mapped[rows.fate[mapped] != DUPLICATE]  # a text that is in many files is no pattern
    skeleton = rows.skeleton.read()[distinct]
    often = np.isin(skeleton, repeated(skeleton, most))
    rows.reject(distinct[often & (rows.fate[distinct] == KEPT)], "placeholder_text")


def replacements(rows: RowColumns, repeats: np.ndarray, refused: np.ndarray) -> np.ndarray:
    """For each refused record the first near-duplicate that was dropped for it, ascending: it is kept instead.

    The other copies of its cluster repeat the replacement from now on. Changes the fates in `rows`, and `repeats`.
    """
    near = np.flatnonzero(rows.fate == NEAR_DUPLICATE)
    near = near[np.isin(repeats[near], refused)]
    first = near[first_occurrence(repeats[near])]
    chosen = near[first == near]
    repeats[near] = first
    repeats[chosen] = -1
    rows.fate[chosen] = KEPT
    return chosen
