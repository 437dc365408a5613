"""Verifies candidate pairs on the texts themselves, each pair once, in bounded memory.

Fetches texts by position in small batches; knows nothing of how candidates are found.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from mistral_lib.curation import minhash, similarity
from mistral_lib.curation.connected_components import components, joined

TextsOf = Callable[[Sequence[int]], list[str]]  # ascending positions → their texts, in that order
ShinglesOf = Callable[[Sequence[int], list[str]], Iterable[set]]  # positions and their texts → their shingles
WORDS_AT_ONCE = 100_000  # of the texts in memory at once for verification; as sets of 5-grams they take about 25 MB
PAIRS_AT_ONCE = 1 << 16  # candidates whose sketches are compared at once
SHIFT = np.uint64(32)


def shingles_of(_: Sequence[int], texts: list[str]) -> Iterable[set]:
    """All shingles of the texts."""
    return map(similarity.shingles, texts)


class VerifiedPairs:
    """Remembers accepted and refused pairs as sorted uint64 (i << 32 | j), i < j: 8 bytes a pair."""

    def __init__(
        self, text_of: TextsOf, words: np.ndarray, sketch: np.ndarray, threshold: float, shingles_of: ShinglesOf = shingles_of
    ) -> None:
        """words, sketch: of all texts, as minhash.Signatures has them."""
        self._text_of, self._words, self._threshold, self._shingles_of = text_of, words, threshold, shingles_of
        self._sketch, self._place = sketch, np.cumsum(words >= similarity.GRAM, dtype=np.int32) - 1  # of each text in the sketches
        self._agreement = minhash.least_agreement(threshold)
        self._accepted = self._refused = np.empty(0, np.uint64)
        self._component_of: np.ndarray | None = None
        self._unlinked = np.empty(0, np.uint64)  # accepted since that was computed

    def accepted(self) -> tuple[np.ndarray, np.ndarray]:
        """The positions i < j of all pairs that reach the threshold, two int64 arrays."""
        return _unpack(self._accepted)

    def component_of(self) -> np.ndarray:
        """For each text the smallest position of its component, linked by accepted pairs, int32 (n,)."""
        if self._component_of is None:
            self._component_of = components(len(self._words), [self.accepted()])
        elif len(self._unlinked):
            self._component_of = joined(self._component_of, *_unpack(self._unlinked))
        self._unlinked = self._unlinked[:0]
        return self._component_of

    def check(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Whether the texts of each pair of distinct positions are near-duplicates, bool (pairs,)."""
        fresh = np.unique(_in_pieces(u, v, lambda pairs: pairs[self._to_verify(pairs)], np.uint64))
        near = np.fromiter(self._verify(fresh), bool, len(fresh))
        if near.any():
            self._accepted, self._unlinked = _merge(self._accepted, fresh[near]), np.concatenate([self._unlinked, fresh[near]])
        self._refused = _merge(self._refused, fresh[~near])
        return _in_pieces(u, v, lambda pairs: _contains(self._accepted, pairs), bool)

    def _to_verify(self, pairs: np.ndarray) -> np.ndarray:
        """Which of these pairs are neither known nor refused by their sketches, bool."""
        return ~_contains(self._accepted, pairs) & ~_contains(self._refused, pairs) & self._promising(*_unpack(pairs))

    def forget_sketches(self) -> None:
        """Free 24 bytes a text; from then on every new pair is verified."""
        self._sketch = self._place = self._component_of = None

    def _promising(self, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """False for pairs whose sketches differ too much: they are cheap to refuse again and need not be remembered."""
        if self._sketch is None:
            return np.ones(len(i), bool)
        differing = np.bitwise_count(self._sketch[self._place[i]] ^ self._sketch[self._place[j]]).sum(axis=1, dtype=np.int32)
        return minhash.PERMUTATIONS - differing >= self._agreement

    def _verify(self, pairs: np.ndarray) -> Iterator[bool]:
        i, j = _unpack(pairs)
        read = np.cumsum(self._words[i].astype(np.int64) + self._words[j])
        cuts = np.flatnonzero(np.diff(read // WORDS_AT_ONCE)) + 1
        for own in np.split(np.arange(len(pairs)), cuts):
            positions = np.unique(np.concatenate([i[own], j[own]])).tolist()
            sets = dict(zip(positions, self._shingles_of(positions, self._text_of(positions)), strict=True))
            for a, b in zip(i[own].tolist(), j[own].tolist(), strict=True):
                yield similarity.are_near(sets[a], sets[b], self._threshold)


def _unpack(pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (pairs >> SHIFT).astype(np.int64), (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)


def _in_pieces(u: np.ndarray, v: np.ndarray, of_pairs: Callable[[np.ndarray], np.ndarray], kind: type) -> np.ndarray:
    """of_pairs(packed pairs), PAIRS_AT_ONCE at a time: there may be more candidates than texts."""
    pieces = [np.empty(0, kind)]
    for start in range(0, len(u), PAIRS_AT_ONCE):
        some, others = u[start : start + PAIRS_AT_ONCE], v[start : start + PAIRS_AT_ONCE]
        pieces.append(of_pairs(np.minimum(some, others).astype(np.uint64) << SHIFT | np.maximum(some, others).astype(np.uint64)))
    return np.concatenate(pieces)


def _contains(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which values are in a sorted array."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    return ordered[at] == values


def _merge(ordered: np.ndarray, fresh: np.ndarray) -> np.ndarray:
    """Two arrays as one sorted array."""
    return np.sort(np.concatenate([ordered, fresh]), kind="stable") if len(fresh) else ordered
