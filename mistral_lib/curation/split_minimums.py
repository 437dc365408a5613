"""Knots held out by need: where the draws by hash leave a split, or a domain's part of it, empty.

Draws by hash scatter: of 12 documents at a share of 8 % none falls into the test split in 37 of 100 corpora. No rule without memory can
mend that and be stable, for whoever stood in would return to training once an added file drew the place itself. So who was appointed
is remembered in the run folder and stays appointed, and what an earlier preparation in it knew is left where it is.

A domain lacks a split if its knots times the share make one or more and none of them is there. The knot nearest to being drawn
is appointed, never a domain's last in training, never a large one. The whole corpus lacks a split if nothing at all is there; then large
knots (the smallest first) and known ones may have to go as well, as long as something is left to train on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mistral_lib.run import files

TEST, VALIDATION = 2, 1  # their numbers in splits.SPLITS, the more protected one first
NAMES = {TEST: "test", VALIDATION: "validation"}


def _no_keys() -> np.ndarray:
    return np.empty(0, np.uint64)


@dataclass(frozen=True)
class Earlier:
    """What an earlier preparation of the same run left."""

    appointed: Mapping[int, int] = field(default_factory=dict)  # hash of a group that it appointed → the split
    known: Callable[[], np.ndarray] = _no_keys  # reads the keys of the records that it kept, uint64

    @classmethod
    def of(cls, folder: Path, seed: int) -> "Earlier":
        """folder: the run's data folder. Nothing, if it is not there or was drawn with another seed."""
        try:
            said = files.read_json(folder / "report.json")["appointed"]
        except (OSError, ValueError, KeyError):
            return cls()
        there = said["seed"] == seed and (folder / "records.parquet").is_file()
        return cls.said(said, partial(_keys, folder / "records.parquet")) if there else cls()

    @classmethod
    def said(cls, said: Mapping[str, Any], known: Callable[[], np.ndarray]) -> "Earlier":
        """said: what `report` made."""
        return cls({int(group, 16): split for split, name in NAMES.items() for group in said[name]}, known)

    @cached_property
    def keys(self) -> np.ndarray:
        return self.known()

    def held(self, group: np.ndarray) -> np.ndarray:
        """The split that each group is appointed to, 0 for none, uint8 (n,)."""
        held = np.zeros(len(group), np.uint8)
        for split in NAMES:
            held[np.isin(group, np.array([g for g, s in self.appointed.items() if s == split], np.uint64))] = split
        return held


def _keys(records: Path) -> np.ndarray:
    """The keys of the records in a records.parquet, uint64."""
    batches = pq.ParquetFile(records).iter_batches(columns=["record_id"])
    digits = (bytes.fromhex("".join(batch["record_id"].to_pylist())) for batch in batches)
    return np.concatenate([_no_keys(), *(np.frombuffer(some, ">u8").astype(np.uint64) for some in digits)])


@dataclass(frozen=True, slots=True)
class Kept:
    """The kept records as columns, and of each position of the corpus the size of the knot that it leads."""

    knot: np.ndarray  # int32 (n,)
    domain: np.ndarray  # int32 (n,)
    place: np.ndarray  # uint64 (n,)  of the record's group among all hashes: the smaller, the nearer to being drawn
    key: np.ndarray  # uint64 (n,)
    sizes: np.ndarray  # int64 (positions,)


def appoint(split: np.ndarray, kept: Kept, large: np.ndarray, shares: Mapping[int, float], earlier: Earlier) -> np.ndarray:
    """Change the split of those knots that are appointed; the places of the groups for whose sake they are, uint64.

    split, large: (positions,), by the position that leads a knot; shares: of TEST and VALIDATION.
    """
    before, nearest = split.copy(), _nearest(kept, len(split))
    for wanted in NAMES:
        _in_domains(split, kept, large, wanted, shares[wanted], nearest, earlier)
    for wanted in NAMES:
        _in_all(split, kept, large, wanted, nearest, earlier)
    return nearest[split != before]


def _in_domains(split: np.ndarray, kept: Kept, large: np.ndarray, wanted: int, share: float, nearest: np.ndarray, earlier: Earlier) -> None:
    there = np.bincount(kept.domain[split[kept.knot] == wanted], minlength=int(kept.domain.max(initial=-1)) + 1)
    rows = np.flatnonzero(there[kept.domain] == 0)
    pieces = np.unique(kept.domain[rows].astype(np.int64) << 32 | kept.knot[rows])  # (domain, knot), each once
    domain, knot = pieces >> 32, pieces & 0xFFFFFFFF
    enough = np.bincount(domain, minlength=len(there)) * share >= 1
    left = np.bincount(domain[split[knot] == 0], minlength=len(there)) >= 2
    able = (split[knot] == 0) & ~large[knot] & (enough & left)[domain]
    domain, knot = domain[able], knot[able]
    if len(knot):
        fresh = ~_known(kept, knot, earlier)
        domain, knot = domain[fresh], knot[fresh]
        order = np.lexsort((nearest[knot], domain))
        split[knot[order[np.diff(domain[order], prepend=-1) > 0]]] = wanted


def _in_all(split: np.ndarray, kept: Kept, large: np.ndarray, wanted: int, nearest: np.ndarray, earlier: Earlier) -> None:
    knots = np.unique(kept.knot)
    train = knots[split[knots] == 0]
    if len(train) < 2 or (split[knots] == wanted).any():
        return
    size = np.where(large[train], kept.sizes[train], 0)
    split[train[np.lexsort((nearest[train], size, _known(kept, train, earlier)))[0]]] = wanted


def _known(kept: Kept, knots: np.ndarray, earlier: Earlier) -> np.ndarray:
    """Which of these knots hold a record that an earlier preparation knew."""
    return np.isin(knots, kept.knot[np.isin(kept.key, earlier.keys)]) if len(earlier.keys) else np.zeros(len(knots), bool)


def _nearest(kept: Kept, positions: int) -> np.ndarray:
    """For each knot the smallest place of its groups, uint64 (positions,), by the position that leads it."""
    place = np.full(positions, np.iinfo(np.uint64).max)
    np.minimum.at(place, kept.knot, kept.place)
    return place


def report(group: np.ndarray, split: np.ndarray, seed: int) -> dict[str, Any]:
    """What Earlier.of reads again. group, split: of each appointed group its hash and its split."""
    return {"seed": seed, **{name: [f"{one:016x}" for one in np.unique(group[split == number]).tolist()] for number, name in NAMES.items()}}
