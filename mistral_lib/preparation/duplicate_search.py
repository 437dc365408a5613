"""The search of near-duplicates among the rows; what it found is not searched again after a kill."""

from collections.abc import Sequence

import numpy as np

from mistral_lib.curation.minhash import GRAM
from mistral_lib.curation.near_duplicates import NearDuplicates
from mistral_lib.preparation import part_cache
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.record_store import RecordStore

NAME = "near-pairs"


def found(near: NearDuplicates, store: RecordStore, rows: np.ndarray, finished: PartCache) -> tuple[np.ndarray, np.ndarray]:
    """Places in `rows` (the numbers of the rows that were signed): verified pairs, int64 (pairs, 2); and for each row the one that leads
    its cluster, int32 (rows,). Equal answers of a word or two are pairs, but lead no one."""

    def texts(places: Sequence[int]) -> list[str]:
        return store.answers(rows[np.asarray(places)])

    known = finished.part(NAME)
    if known is None:
        pairs = near.pairs(texts)
        leader = np.where(near.words() >= GRAM, near.clusters(texts), np.arange(len(rows), dtype=np.int32))
        with finished.new_part(NAME) as folder:
            part_cache.write(folder, {}, {"pairs": pairs, "leader": leader})
    else:
        pairs, leader = known[1]["pairs"], known[1]["leader"]
    near.forget()
    return pairs, leader
