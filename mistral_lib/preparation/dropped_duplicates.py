"""Drops the rows that repeat others: exact copies, near-duplicates, and patterns that repeat without end.

The verified near-duplicates are a finished part: after a kill they are not searched again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mistral_lib.curation.near_duplicates import NearDuplicates, first_occurrence
from mistral_lib.curation.repeated_patterns import repeated
from mistral_lib.curation.similarity import GRAM
from mistral_lib.preparation import part_cache
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.record_store import RecordStore
from mistral_lib.preparation.row_inspection import DUPLICATE, KEPT, NEAR_DUPLICATE, RowColumns

NAME = "near-pairs"


@dataclass(frozen=True, slots=True)
class Duplicates:
    mapped: np.ndarray  # int32: the rows that are records, ascending
    repeats: np.ndarray  # int32 (rows,): for each dropped copy the row that it repeats, else -1
    pairs: np.ndarray  # int64 (pairs, 2): verified near-duplicates, as places in `mapped`


def drop_duplicates(
    rows: RowColumns, store: RecordStore, near: NearDuplicates | None, most_repeated_pattern: int, cache: PartCache
) -> Duplicates:
    """Keep the first of each canonical text and of each cluster of near-duplicates; reject patterns that repeat without end.

    near: holds the signatures of the records; None if near-duplicates are not searched. Changes the fates in `rows`.
    """
    mapped, pairs = rows.kept(), np.empty((0, 2), np.int64)
    repeats = np.full(len(rows.fate), -1, np.int32)
    if near is not None:
        pairs, leader = near_pairs(near, store, mapped, cache)
        _drop(rows, mapped, repeats, leader, NEAR_DUPLICATE)
    _drop(rows, mapped, repeats, first_occurrence(rows.key[mapped]), DUPLICATE)
    if most_repeated_pattern:
        _reject_patterns(rows, mapped, most_repeated_pattern)
    return Duplicates(mapped, repeats, pairs)


def near_pairs(near: NearDuplicates, store: RecordStore, mapped: np.ndarray, cache: PartCache) -> tuple[np.ndarray, np.ndarray]:
    """Verified pairs as places in `mapped`, int64 (pairs, 2), and for each of its rows the place of its cluster's leader, int32 (rows,).

    Equal answers of less than five words are pairs, but form no cluster.
    """

    def texts(places: Sequence[int]) -> list[str]:
        return store.answers(mapped[np.asarray(places)])

    done = cache.part(NAME)
    if done is None:
        pairs = near.pairs(texts)
        leader = np.where(near.words() >= GRAM, near.clusters(texts), np.arange(len(mapped), dtype=np.int32))
        with cache.new_part(NAME) as folder:
            part_cache.write(folder, {}, {"pairs": pairs, "leader": leader})
    else:
        pairs, leader = done[1]["pairs"], done[1]["leader"]
    near.forget()
    return pairs, leader


def _drop(rows: RowColumns, mapped: np.ndarray, repeats: np.ndarray, first: np.ndarray, fate: int) -> None:
    """Mark the mapped rows that repeat another one. first: for each the place of the one that it repeats, or its own."""
    later = np.flatnonzero(first != np.arange(len(first)))
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
