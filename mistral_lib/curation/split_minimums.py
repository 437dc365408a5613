"""Fills a split that the hashes leave empty, in the whole corpus or among the records of one domain.

Assignment by hash scatters: of 12 documents at a share of 8 %, none falls into the test split in 37 of 100 corpora. A rule without
memory cannot fill such a split and be stable too: the document that fills it would return to training once an added file is assigned
to the split by its own hash. So the run folder remembers which groups were reassigned and they stay where they are, and records that
an earlier preparation in this folder kept are not reassigned.

A domain lacks a split if its components times the share make one or more and none of them is in it. The component whose hash is
nearest to the split is reassigned, but never a domain's last one in training and never a large one. In a label domain each label is
filled as a domain is, already from LABEL_COMPONENTS components on. The whole corpus lacks a split if no record is in it. Then large components (the smallest first) and records seen before may be reassigned too, as long as something is
left to train on.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mistral_lib.run import files

TEST, VALIDATION = 2, 1  # their numbers in splits.SPLITS, the more protected one first
NAMES = {TEST: "test", VALIDATION: "validation"}
LABEL_COMPONENTS = 5  # of a label, from which on it is in every split: at most two of them are reassigned
NO_KEYS = np.empty(0, np.uint64)


@dataclass(frozen=True)
class Earlier:
    """What an earlier preparation of the same run left."""

    reassigned: Mapping[int, int] = field(default_factory=dict)  # hash of a group that was reassigned → its split
    read_keys: Callable[[], np.ndarray] = lambda: NO_KEYS  # reads the keys of the records that it kept, uint64

    @classmethod
    def load(cls, folder: Path, seed: int) -> "Earlier":
        """folder: the run's data folder. Empty if the folder is not there or was made with another seed."""
        try:
            reported = files.read_json(folder / "report.json")["reassigned"]
        except (OSError, ValueError, KeyError):
            return cls()
        usable = reported["seed"] == seed and (folder / "records.parquet").is_file()
        return cls.from_report(reported, partial(_keys, folder / "records.parquet")) if usable else cls()

    @classmethod
    def from_report(cls, reported: Mapping[str, Any], read_keys: Callable[[], np.ndarray]) -> "Earlier":
        """reported: what `report` returned."""
        return cls({int(group, 16): split for split, name in NAMES.items() for group in reported[name]}, read_keys)

    @cached_property
    def keys(self) -> np.ndarray:
        return self.read_keys()

    def split_of(self, group: np.ndarray) -> np.ndarray:
        """The split that each group was reassigned to, 0 for none, uint8 (n,)."""
        found = np.zeros(len(group), np.uint8)
        for split in NAMES:
            found[np.isin(group, np.array([g for g, s in self.reassigned.items() if s == split], np.uint64))] = split
        return found


def _keys(records: Path) -> np.ndarray:
    """The keys of the records in a records.parquet, uint64."""
    batches = pq.ParquetFile(records).iter_batches(columns=["record_id"])
    digits = (bytes.fromhex("".join(batch["record_id"].to_pylist())) for batch in batches)
    return np.concatenate([NO_KEYS, *(np.frombuffer(some, ">u8").astype(np.uint64) for some in digits)])


@dataclass(frozen=True, slots=True)
class Kept:
    """The kept records as columns, and the size of each component, by its smallest position in the corpus."""

    component: np.ndarray  # int32 (n,)
    stratum: np.ndarray  # int32 (n,)  the domain, or the label of a label domain; -1: the record counts for its component alone
    of_label: np.ndarray  # bool (strata,)  whether each stratum is a label
    hash: np.ndarray  # uint64 (n,)  of the record's group: the smaller, the nearer to the test split
    key: np.ndarray  # uint64 (n,)
    sizes: np.ndarray  # int64 (positions,)


def fill_empty_splits(
    split: np.ndarray, kept: Kept, large: np.ndarray, shares: Mapping[int, float], earlier: Earlier, filled: Collection[int] = ()
) -> np.ndarray:
    """Change `split` for the components that are reassigned; return the smallest group hash of each, uint64.

    split, large: (positions,), by the smallest position of a component; shares: of TEST and VALIDATION; filled: the splits that the
    corpus has. If it has both, `kept` need not hold the components without a record of a stratum that lacks one.
    """
    before = split.copy()
    nearest = np.full(len(split), np.iinfo(np.uint64).max)  # the smallest hash of the groups of each component
    np.minimum.at(nearest, kept.component, kept.hash)
    for wanted in NAMES:
        _fill_in_strata(split, kept, large, wanted, shares[wanted], nearest, earlier)
    for wanted in (number for number in NAMES if number not in filled):
        _fill_in_corpus(split, kept, large, wanted, nearest, earlier)
    return nearest[split != before]


def _fill_in_strata(
    split: np.ndarray, kept: Kept, large: np.ndarray, wanted: int, share: float, nearest: np.ndarray, earlier: Earlier
) -> None:
    there = np.bincount(kept.stratum[(split[kept.component] == wanted) & (kept.stratum >= 0)], minlength=len(kept.of_label))
    rows = np.flatnonzero((kept.stratum >= 0) & (there[kept.stratum] == 0))
    pieces = np.unique(kept.stratum[rows].astype(np.int64) << 32 | kept.component[rows])  # (stratum, component), each once
    stratum, component = pieces >> 32, pieces & 0xFFFFFFFF
    count = np.bincount(stratum, minlength=len(there))
    enough = (count * share >= 1) | kept.of_label & (count >= LABEL_COMPONENTS)
    left = np.bincount(stratum[split[component] == 0], minlength=len(there)) >= 2
    able = (split[component] == 0) & ~large[component] & (enough & left)[stratum]
    stratum, component = stratum[able], component[able]
    if len(component):
        fresh = ~_seen_before(kept, component, earlier)
        stratum, component = stratum[fresh], component[fresh]
        order = np.lexsort((nearest[component], stratum))
        split[component[order[np.diff(stratum[order], prepend=-1) > 0]]] = wanted


def _fill_in_corpus(split: np.ndarray, kept: Kept, large: np.ndarray, wanted: int, nearest: np.ndarray, earlier: Earlier) -> None:
    components = np.unique(kept.component)
    train = components[split[components] == 0]
    if len(train) < 2 or (split[components] == wanted).any():
        return
    size = np.where(large[train], kept.sizes[train], 0)
    split[train[np.lexsort((nearest[train], size, _seen_before(kept, train, earlier)))[0]]] = wanted


def _seen_before(kept: Kept, components: np.ndarray, earlier: Earlier) -> np.ndarray:
    """Which of these components have a record that an earlier preparation kept."""
    return np.isin(components, kept.component[np.isin(kept.key, earlier.keys)])


def report(group: np.ndarray, split: np.ndarray, seed: int) -> dict[str, Any]:
    """What Earlier.load reads again. group, split: the hash and the split of each reassigned group."""
    return {"seed": seed, **{name: [f"{one:016x}" for one in np.unique(group[split == number]).tolist()] for number, name in NAMES.items()}}
