"""Exact and near-duplicates among many texts: signatures on disk, candidates by banding, every pair verified on the texts.

Works on positions (the order in which texts were added), texts and pairs; knows nothing of records, files or splits.
Source: Broder 1997; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", ch. 3.4 (banding)

What is missed: at most 1 - RECALL + SKETCH_LOSS (minhash.py) of the pairs exactly at the threshold, far fewer above it; and in a
bucket of more than SMALL_BUCKET texts, the pairs that none of its first LEADERS leaders links.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from mistral_lib.curation import minhash
from mistral_lib.curation.equal_keys import first_occurrence, shared_keys, taken
from mistral_lib.curation.similarity import GRAM
from mistral_lib.curation.verified_pairs import ShinglesOf, TextsOf, VerifiedPairs, shingles_of

SMALL_BUCKET = 8  # texts of a bucket whose pairs are all verified; in a larger one only pairs with leaders, as k members have k² / 2 pairs
CHUNK = 1 << 16  # records whose hashes are computed at once
LEADERS = 8  # rounds of leaders per large bucket and per cluster


class NearDuplicates:
    """Finds texts that share most of their word 5-grams. Texts with fewer than five words match only if they are equal.

    Each text takes about 200 bytes in `folder`; a search reads one band of 8 bytes per text at a time.
    An earlier search in the same folder is overwritten, so an interrupted one leaves no partial data.
    Errors: ValueError for a threshold outside (0.036, 1].
    """

    def __init__(self, folder: Path, threshold: float = 0.8) -> None:
        self.folder, self.threshold = Path(folder), threshold
        self.bands, _ = minhash.bands_and_rows(threshold)
        self.count = 0
        self.folder.mkdir(parents=True, exist_ok=True)
        names = ["exact", "words", "sketch", *(f"band-{band:03d}" for band in range(self.bands))]
        self._files = {name: (self.folder / name).open("wb") for name in names}
        self._found: tuple[VerifiedPairs, np.ndarray] | None = None

    def append(self, batch: minhash.Signatures) -> None:
        """Append the result of `minhash.sign(texts, threshold, seed)`, with the same seed for all batches.

        Errors: ValueError after `pairs` was called.
        """
        if self._found:
            raise ValueError(f"{self.folder}: texts were added after the search; add all texts first, then call pairs()")
        for name in ("exact", "words", "sketch"):
            self._files[name].write(np.ascontiguousarray(getattr(batch, name)))
        for band in range(self.bands):
            self._files[f"band-{band:03d}"].write(np.ascontiguousarray(batch.bands[:, band]))
        self.count += len(batch.exact)

    def forget(self) -> None:
        """Close and remove the files; no search is possible afterwards."""
        for file in self._files.values():
            with suppress(OSError):  # a full disk refuses the last bytes, which nobody needs
                file.close()
        self._found = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def words(self) -> np.ndarray:
        """Number of words of each text, int32 (n,)."""
        return self._read("words", np.int32)

    def exact(self) -> np.ndarray:
        """The hash of each text, uint64 (n,)."""
        return self._read("exact", np.uint64)

    def pairs(self, text_of: TextsOf, shingles_of: ShinglesOf = shingles_of) -> np.ndarray:
        """Verified pairs (i, j), i < j, sorted, int64 (pairs, 2); complete except for what the module's docstring names.

        A text that equals an earlier one is paired with the first such text, and is in no other pair.
        The *components* of the pairs are the same for every order of the texts. text_of: ascending positions → their texts.
        """
        if self._found is None:
            for file in self._files.values():
                file.close()
            first = self.first_equal()
            verified = self._search(first, text_of, shingles_of)
            copies = np.flatnonzero(first != np.arange(len(first), dtype=np.int32))
            equal = np.stack([first[copies], copies], axis=1)
            pairs = np.concatenate([equal, np.stack(verified.accepted(), axis=1)])
            self._found = verified, pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        return self._found[1]

    def component_of(self) -> np.ndarray:
        """After `pairs`: for each text the smallest position of its component, int32 (n,)."""
        return taken(self._found[0].component_of(), self.first_equal())

    def agree(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """After `pairs`: whether the texts at each two positions are equal or near-duplicates, bool (pairs,)."""
        first = self.first_equal()
        u, v, long = first[u].astype(np.int64), first[v].astype(np.int64), self.words() >= GRAM
        agree = u == v
        compared = np.flatnonzero(~agree & long[u] & long[v])
        agree[compared] = self._found[0].check(u[compared], v[compared])
        return agree

    def first_equal(self) -> np.ndarray:
        """For each text the position of the first that equals it (its folded words, or the text itself if they are few), int32 (n,)."""
        return first_occurrence(self.exact())

    def _read(self, name: str, dtype: type) -> np.ndarray:
        if not self._files[name].closed:
            self._files[name].flush()
        return np.fromfile(self.folder / name, dtype)

    def _search(self, first: np.ndarray, text_of: TextsOf, shingles_of: ShinglesOf) -> VerifiedPairs:
        distinct, of_bands = self._compared(first)
        sketch = self._read("sketch", np.uint64).reshape(-1, minhash.PERMUTATIONS // 64)
        verified = VerifiedPairs(text_of, self.words(), sketch, self.threshold, shingles_of)
        for band in range(self.bands):
            at, sizes = shared_keys(taken(self._read(f"band-{band:03d}", np.uint64), of_bands))
            members = distinct[at]
            del at
            for u, v in _all_pairs(members, sizes):
                verified.check(u, v)
            large = np.repeat(sizes > SMALL_BUCKET, sizes)
            _link_to_leaders(members[large], sizes[sizes > SMALL_BUCKET], verified)
        verified.forget_sketches()
        return verified

    def _compared(self, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The texts that have bands, of equal ones the first; and their places in the files of the bands, both int32.

        Content, not position, decides which text leads a bucket: so the links are the same in every order of the texts.
        """
        long = np.flatnonzero(self.words() >= GRAM).astype(np.int32)
        of_bands = np.flatnonzero(taken(first, long) == long).astype(np.int32)
        distinct = long[of_bands]
        del long
        order = np.argsort(taken(self.exact(), distinct))
        return distinct[order], of_bands[order]


def clusters(same: Iterable[np.ndarray], exact: Iterable[np.ndarray], agree: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    """For each record the smallest position of its cluster, int32 (n,): its own, an equal record's, or that of one that it agrees with.

    same: for each part of a record (its prompt, its answer) numbers that are equal if the part may agree: its component of near-duplicates.
    exact: the hash of each part. agree(u, v): whether the records at these positions agree in every part.
    Among the records that are the same in every part, the first one leads a cluster of all that agree with it, then the first of the
    rest leads the next, LEADERS times. So in A ~ B ~ C with A and C below the threshold, C stays alone.
    """
    first = first_occurrence(_combined(exact))
    key, leader = _combined(same), np.arange(len(first), dtype=np.int32)
    open_ = np.flatnonzero(first == leader)  # of equal records the first
    members = np.sort(shared_keys(key[open_])[0])
    open_ = open_[members]
    key = key[open_]
    for _ in range(LEADERS):
        lead = open_[first_occurrence(key)]
        own = open_ != lead
        lead, open_, key = lead[own], open_[own], key[own]
        near = agree(lead, open_)
        leader[open_[near]] = lead[near]
        open_, key = open_[~near], key[~near]
    return leader[first]


def _combined(parts: Iterable[np.ndarray]) -> np.ndarray:
    """One hash for each position of several columns of numbers, uint64 (n,). One column is in memory at a time if they are read so."""
    key = None
    for part in parts:
        key = np.zeros(len(part), np.uint64) if key is None else key
        for start in range(0, len(part), CHUNK):
            own = slice(start, start + CHUNK)
            key[own] = minhash.mix(key[own] ^ part[own].astype(np.uint64))
    return key


def _all_pairs(members: np.ndarray, sizes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The pairs within all small buckets, one distance within the bucket at a time."""
    ends = np.where(sizes <= SMALL_BUCKET, np.cumsum(sizes), 0).astype(np.int32)
    left = np.repeat(ends, sizes) - np.arange(len(members), dtype=np.int32)  # members from here to the end
    for distance in range(1, SMALL_BUCKET):
        at = np.flatnonzero(left > distance).astype(np.int32)
        yield members[at], members[at + distance]


def _link_to_leaders(members: np.ndarray, sizes: np.ndarray, verified: VerifiedPairs) -> None:
    """In each large bucket: verify all members against one leader, then against one that is not yet linked to a leader, LEADERS times.

    Members that are linked to the leader already, even through others, need no verification: k members cost at most LEADERS * k.
    """
    bucket = np.repeat(np.arange(len(sizes)), sizes)
    waiting = np.arange(len(members))
    for _ in range(LEADERS):
        if not len(waiting):
            return
        lead = np.full(len(sizes), -1, np.int64)
        here, at = np.unique(bucket[waiting], return_index=True)
        lead[here] = waiting[at]
        candidates = np.flatnonzero(lead[bucket] >= 0)
        leaders = members[lead[bucket[candidates]]]
        component = verified.component_of()
        apart = component[leaders] != component[members[candidates]]
        verified.check(leaders[apart], members[candidates[apart]])
        component = verified.component_of()
        linked = np.zeros(len(members), bool)
        linked[candidates] = component[leaders] == component[members[candidates]]
        waiting = waiting[~linked[waiting]]
