"""MinHash signatures: short sketches of texts, by which pairs of a high Jaccard similarity are proposed as candidates.

Works on texts and hashes; knows nothing of files, records or splits. The exact similarity is that of similarity.py.
Source: Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", ch. 3
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from rensa import RMinHash

from mistral_lib.curation.similarity import GRAM, folded_words
from mistral_lib.run.files import hash64

PERMUTATIONS = 128  # values in a MinHash signature
RECALL = 0.99  # of the pairs exactly at the threshold, the least share that banding proposes
SKETCH_LOSS = 1e-4  # of the same pairs, the largest share that the sketch rejects
ROWS_AT_ONCE = 1024  # signatures that are Python integers at once, about 5 MB


@dataclass(frozen=True, slots=True)
class Signatures:
    """The signatures of a batch of n texts."""

    exact: np.ndarray  # uint64 (n,)  hash of the folded words: equal for equal words
    words: np.ndarray  # int32  (n,)  number of words; a text with fewer than GRAM matches only an equal one
    bands: np.ndarray  # uint64 (n, bands)  texts that share one are candidates
    sketch: np.ndarray  # uint64 (n, PERMUTATIONS / 64)  the lowest bit of each MinHash value


def together(parts: Sequence[Signatures]) -> Signatures:
    """The signatures of one or more batches as those of one."""
    return Signatures(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("exact", "words", "bands", "sketch")))


def bands_and_rows(threshold: float) -> tuple[int, int]:
    """The (bands, rows) that propose a pair at the threshold with a probability of at least RECALL, and dissimilar pairs most rarely.

    A pair of similarity s agrees in some band of r rows with the probability 1 - (1 - s^r)^bands (Mining of Massive Datasets, 3.4.2).
    Errors: ValueError for a threshold for which PERMUTATIONS values do not suffice.
    """
    for rows in range(PERMUTATIONS, 0, -1):
        bands = PERMUTATIONS // rows
        if 0 < threshold <= 1 and 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    raise ValueError(f"near-duplicate threshold {threshold}: expected a Jaccard similarity above 0.036 and up to 1; 0.8 is usual")


def least_agreement(threshold: float) -> int:
    """The least number of sketch bits that two texts at the threshold share, except with a probability of SKETCH_LOSS.

    The lowest bits agree with the probability (1 + s) / 2.   Source: Li & König 2010, "b-Bit Minwise Hashing"
    """
    from scipy.special import bdtr  # imported here: worker processes import this module and stay small

    at_most = bdtr(np.arange(PERMUTATIONS + 1), PERMUTATIONS, (1 + threshold) / 2)  # the probability of at most so many bits
    return int(np.argmax(at_most > SKETCH_LOSS))


def sign(texts: Sequence[str], threshold: float, seed: int) -> Signatures:
    """The signatures of n texts. Each depends only on its text, so batches may have any size and be signed by other processes."""
    words = [folded_words(text) for text in texts]
    counts = np.fromiter(map(len, words), np.int64, len(words))
    values = _minhash(words, counts, seed)
    return Signatures(
        # a text without words ("…", an emoji) counts as one word, so that different ones are not equal
        exact=np.array([hash64(" ".join(own) or f"\n{text.strip()}") for own, text in zip(words, texts, strict=True)], np.uint64),
        words=counts.astype(np.int32),
        bands=_band_keys(values, *bands_and_rows(threshold)),
        sketch=np.packbits((values & 1).astype(np.uint8), axis=1).view(np.uint64),
    )


def _minhash(words: list[list[str]], counts: np.ndarray, seed: int) -> np.ndarray:
    """MinHash values, uint32 (texts, PERMUTATIONS); a text without a shingle has those of the empty set."""
    hashes, offsets = _shingle_hashes(words, counts)
    values = np.empty((len(words), PERMUTATIONS), np.uint32)
    for start in range(0, len(words), ROWS_AT_ONCE):
        own = offsets[start : start + ROWS_AT_ONCE + 1]
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes[own[0] : own[-1]], own - own[0], PERMUTATIONS, seed)
        values[start : start + ROWS_AT_ONCE] = matrix.to_rows()
    return values


def _shingle_hashes(words: list[list[str]], counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of all shingles, text after text, uint64; and the offset at which each text's begin, uint64 (texts + 1,)."""
    word = np.array(RMinHash.hash_token_sets([list(chain.from_iterable(words))])[0], np.uint64)
    offsets = np.zeros(len(words) + 1, np.uint64)
    np.cumsum(np.maximum(counts - (GRAM - 1), 0), out=offsets[1:])
    if len(word) < GRAM:
        return np.empty(0, np.uint64), offsets
    last = len(word) - (GRAM - 1)
    gram = word[:last].copy()
    for k in range(1, GRAM):
        gram = mix(gram) + word[k : last + k]  # mixed in between, so that the order of the words counts
    text = np.repeat(np.arange(len(words)), counts)
    return mix(gram[text[:last] == text[GRAM - 1 :]]), offsets


def _band_keys(values: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """uint64 (texts, bands): one hash of the `rows` values of each band."""
    keys = np.zeros((len(values), bands), np.uint64)
    for row in range(rows):
        keys = mix(keys + values[:, row : bands * rows : rows].astype(np.uint64))
    return keys


def mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 in which every output bit depends on every input bit.   Source: Steele et al. 2014, SplitMix64"""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
