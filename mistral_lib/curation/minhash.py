"""MinHash signatures: short sketches of texts, by which pairs of a high Jaccard similarity are proposed as candidates.

Works on texts and hashes; knows nothing of files, records or splits. The exact similarity is that of similarity.py.
Source: Broder 1997, "On the resemblance and containment of documents"; Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", ch. 3
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from rensa import RMinHash

from mistral_lib.curation.similarity import GRAM, folded_words
from mistral_lib.run.files import hash64

PERMUTATIONS = 128  # values in a MinHash signature
RECALL = 0.99  # of the pairs exactly at the threshold, the least share that banding proposes
SKETCH_LOSS = 1e-4  # of the same pairs, the largest share that the sketch rejects
ROWS_AT_ONCE = 1024  # signatures that are Python integers at once, about 5 MB
PIECE = 1 << 16  # bytes of text whose words are hashed at once: their arrays stay in the processor's cache
FOLD = bytes(ord(chr(code).lower()) if chr(code).isalnum() or chr(code) == "_" else 32 for code in range(128)) + bytes(range(128, 256))
BASE = 0x2545F4914F6CDD1D  # of the polynomial hashes; odd, so that it has an inverse modulo 2**64
BYTE = np.random.default_rng(0).integers(0, 2**64, 256, np.uint64)  # each byte as a random number


@dataclass(frozen=True, slots=True)
class Signatures:
    """The signatures of a batch of n texts; a text with fewer than GRAM words has no shingle, so it has no band and no sketch."""

    exact: np.ndarray  # uint64 (n,)  hash of the folded words, or of the text as it is if it has no shingle: equal for equal texts
    words: np.ndarray  # int32  (n,)  number of words
    bands: np.ndarray  # uint64 (texts with a shingle, bands)  texts that share one are candidates
    sketch: np.ndarray  # uint64 (texts with a shingle, PERMUTATIONS / 64)  the lowest bit of each MinHash value


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Shingles that are not compared, each in the texts of one owner only."""

    owner: np.ndarray  # uint64 (n,)  of each text
    hashes: np.ndarray  # uint64, sorted: `owned` of the shingles and their owners

    def of(self, shingles: np.ndarray, text: np.ndarray) -> np.ndarray:
        """Whether each shingle is left out, bool. text: the number of its text."""
        return np.isin(owned(shingles, self.owner[text]), self.hashes)


def owned(shingles: np.ndarray, owner: np.ndarray | np.uint64) -> np.ndarray:
    """The hash of each shingle together with its owner, uint64."""
    return mix(shingles ^ owner)


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


def sign(texts: Sequence[str], threshold: float, seed: int, left_out: LeftOut | None = None) -> Signatures:
    """The signatures of n texts. Each depends only on its text, so batches may have any size and be signed by other processes."""
    exact, words, word = fold(texts)
    hashes, text = shingle_hashes(word, words)
    if left_out is not None:
        kept = ~left_out.of(hashes, text)
        hashes, text = hashes[kept], text[kept]
        words = np.bincount(text, minlength=len(words)) + (GRAM - 1)  # a text of which nothing is left has no shingle
    counts = np.maximum(words - (GRAM - 1), 0)
    values = _minhash(hashes, counts[counts > 0], seed)
    return Signatures(
        exact=exact,
        words=words.astype(np.int32),
        bands=_band_keys(values, *bands_and_rows(threshold)),
        sketch=np.packbits((values & 1).astype(np.uint8), axis=1).view(np.uint64).reshape(-1, PERMUTATIONS // 64),
    )


def fold(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hash of each text's words, uint64; their number, int64; hash of every word, text after text, uint64).

    The words are those of similarity.folded_words. A text with fewer than GRAM of them is hashed as it is: "-5" is not "5".
    """
    folded = [_folded(text) for text in texts]
    ends = np.cumsum(np.fromiter(map(len, folded), np.int64, len(folded)) + 1)
    starts, word = _words(b" ".join(folded))
    until = np.searchsorted(starts, ends)
    counts = np.diff(until, prepend=0)
    exact = _polynomial(mix(word), until - counts, until)
    for short in np.flatnonzero(counts < GRAM).tolist():
        exact[short] = hash64(f"\n{texts[short].strip()}")
    return exact, counts, word


def _folded(text: str) -> bytes:
    """The folded words of a text with blanks between them, as UTF-8."""
    return text.encode().translate(FOLD) if text.isascii() else " ".join(folded_words(text)).encode("utf-8", "surrogatepass")


def _words(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The first place and the hash of every word; blanks divide words."""
    starts, hashes, at = [np.empty(0, np.int64)], [np.empty(0, np.uint64)], 0
    while at < len(text):
        end = len(text) if len(text) - at <= PIECE else text.rfind(b" ", at, at + PIECE)
        if end < 0:  # a word longer than a piece
            end = text.find(b" ", at + PIECE)
            end = len(text) if end < 0 else end
        letters = np.frombuffer(text, np.uint8, end - at, at)
        edges = np.flatnonzero(np.diff((letters != 32).view(np.int8), prepend=0, append=0))  # where words begin and end, in turn
        starts.append(edges[::2] + at)
        hashes.append(_polynomial(BYTE[letters], edges[::2], edges[1::2]))
        at = end + 1
    return np.concatenate(starts), np.concatenate(hashes)


def _polynomial(values: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """For each stretch of the values one hash that depends on them and their order, uint64.   Source: Karp & Rabin 1987"""
    power, inverse = _powers(max(len(values), 1).bit_length())
    sums = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * power[: len(values)], out=sums[1:])
    return mix((sums[end] - sums[start]) * inverse[start])


@lru_cache(maxsize=20)
def _powers(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """BASE and its inverse modulo 2**64, to the powers 0 to 2**bits."""
    powers = np.ones((2, (1 << bits) + 1), np.uint64)
    powers[:, 1:] = np.array([[BASE], [pow(BASE, -1, 2**64)]], np.uint64)
    return tuple(np.cumprod(powers, axis=1))


def shingle_hashes(word: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hashes of all shingles, text after text, uint64; and the number of each one's text. word, counts: as `fold` returns them."""
    if len(word) < GRAM:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    last = len(word) - (GRAM - 1)
    gram = word[:last].copy()
    for k in range(1, GRAM):
        gram = mix(gram) + word[k : last + k]  # mixed in between, so that the order of the words counts
    text = np.repeat(np.arange(len(counts)), counts)
    within = text[:last] == text[GRAM - 1 :]
    return mix(gram[within]), text[:last][within]


def _minhash(hashes: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """MinHash values, uint32 (texts, PERMUTATIONS). hashes: of the shingles of all texts; counts: how many each has."""
    offsets = np.zeros(len(counts) + 1, np.uint64)
    np.cumsum(counts, out=offsets[1:])
    values = np.empty((len(counts), PERMUTATIONS), np.uint32)
    for start in range(0, len(counts), ROWS_AT_ONCE):
        own = offsets[start : start + ROWS_AT_ONCE + 1]
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes[own[0] : own[-1]], own - own[0], PERMUTATIONS, seed)
        values[start : start + ROWS_AT_ONCE] = matrix.to_rows()
    return values


def _band_keys(values: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """uint64 (texts, bands): one hash of the `rows` values of each band."""
    keys = np.zeros((len(values), bands), np.uint64)
    for row in range(rows):
        keys = mix(keys + values[:, row : bands * rows : rows].astype(np.uint64))
    return keys


def mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 in which every output bit depends on every input bit.   Source: Steele et al. 2014, SplitMix64"""
    x = x + np.uint64(0x9E3779B97F4A7C15)  # a new array, which the rest changes in place
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x
