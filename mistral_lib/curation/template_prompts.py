"""Which prompts agree: equal or near-duplicates, without the template that many of them fill in.

A long instruction with a short input is a near-duplicate of the same instruction with another input, by its words. So if more than
TEMPLATE different prompts are one connected component of near-duplicates, the 5-grams that stand in more than half of them are their
template; these prompts are compared again by the rest. System messages are no part of a prompt here.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mistral_lib.curation import minhash
from mistral_lib.curation.near_duplicates import NearDuplicates
from mistral_lib.curation.verified_pairs import TextsOf

TEMPLATE = 32  # different prompts of a component; up to so many are copies with small changes
SAMPLE = 256  # prompts of a component of which the template is taken, the ones with the smallest hashes
BATCH = 1024  # prompts that are signed again at once


class Prompts:
    """The prompts of n records, compared."""

    def __init__(self, near: NearDuplicates, text_of: TextsOf, folder: Path, seed: int) -> None:
        """near: holds the signatures of the prompts. folder: for the second search; it is overwritten."""
        self.near, self.pairs = near, near.pairs(text_of)
        self.first, self.component_of = near.first_equal(), near.component_of()
        own = self.first == np.arange(len(self.first), dtype=np.int32)
        large = np.bincount(self.component_of[own], minlength=len(own)) > TEMPLATE
        self.members = np.flatnonzero(own & large[self.component_of])
        self.rest: NearDuplicates | None = None
        if len(self.members):
            self._search_again(text_of, folder, seed)

    def agree(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Whether the prompts at each two positions agree, bool (pairs,); the two have the same `component_of`."""
        again = np.isin(self.first[u], self.members)
        agree = np.zeros(len(u), bool)
        agree[~again] = self.near.agree(u[~again], v[~again])
        if again.any():
            agree[again] = self.rest.agree(*(np.searchsorted(self.members, self.first[one[again]]) for one in (u, v)))
        return agree

    def forget(self) -> None:
        """Remove the files of both searches."""
        self.near.forget()
        if self.rest is not None:
            self.rest.forget()

    def _search_again(self, text_of: TextsOf, folder: Path, seed: int) -> None:
        """Compare the members of large components by what is not in their template: new components and pairs."""
        rest, owner = NearDuplicates(folder, self.near.threshold), self.component_of[self.members]
        left_out = np.sort(np.concatenate(list(self._templates(text_of))))

        def of(places: np.ndarray) -> minhash.LeftOut:
            return minhash.LeftOut(owner[places].astype(np.uint64), left_out)

        def shingles_of(places: Sequence[int], texts: list[str]) -> Iterator[set]:
            return rest_of(texts, of(np.asarray(places)))

        for start in range(0, len(self.members), BATCH):
            places = np.arange(start, min(start + BATCH, len(self.members)))
            rest.append(minhash.sign(text_of(self.members[places].tolist()), rest.threshold, seed, of(places)))
        pairs = rest.pairs(lambda places: text_of(self.members[np.asarray(places)].tolist()), shingles_of)
        before = np.isin(self.pairs, self.members).all(axis=1) & (self.first[self.pairs[:, 0]] != self.first[self.pairs[:, 1]])
        pairs = np.concatenate([self.pairs[~before], self.members[pairs]])
        self.pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        component = self.component_of.copy()
        component[self.members] = self.members[rest.component_of()]
        self.component_of, self.rest = component[self.first], rest

    def _templates(self, text_of: TextsOf) -> Iterator[np.ndarray]:
        """For each large component the hashes of the shingles in more than half of its prompts, with the component as their owner."""
        component = self.component_of[self.members]
        order = np.lexsort((self.near.exact()[self.members], component))  # content, not position, decides which prompts are looked at
        for own in np.split(order, np.flatnonzero(np.diff(component[order])) + 1):
            sample = np.sort(own[:SAMPLE])
            _, words, word = minhash.fold(text_of(self.members[sample].tolist()))
            hashes, text = minhash.shingle_hashes(word, words)
            distinct = np.unique(np.stack([hashes, text.astype(np.uint64)]), axis=1)[0]
            shingles, counts = np.unique(distinct, return_counts=True)
            yield minhash.owned(shingles[counts > len(sample) / 2], np.uint64(component[own[0]]))


def rest_of(texts: list[str], left_out: minhash.LeftOut) -> Iterator[set]:
    """The hashes of the shingles of each text that are not left out."""
    _, words, word = minhash.fold(texts)
    hashes, text = minhash.shingle_hashes(word, words)
    kept = ~left_out.of(hashes, text)
    for own in np.split(hashes[kept], np.cumsum(np.bincount(text[kept], minlength=len(texts)))[:-1]):
        yield set(own.tolist())
