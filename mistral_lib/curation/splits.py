"""Leakage-free splits: whatever belongs together falls on one side, chosen by a hash and not by the order of files.

Knows numbers that stand for records; knows nothing of texts or files.

Records are tied by an equal source document (group), answer or text (key), and by near-duplicate pairs; each knot of ties goes to
one split as a whole. Every *group* draws its split from a hash of itself alone, and the knot goes to the most protected split that
one of its groups drew: test before validation before train. So adding records never moves a record out of a held-out split, and
moves one out of training only where a new record ties its knot to a held-out group: training gives way, which is counted.
(A rule that also fixed each domain's share exactly could not be stable: each new group would shift the border between two others.
The same share is drawn in every domain instead, and what each domain got is counted.)

Of a domain with n groups (n × share ≥ 1) a split gets at least one, and else the share, give or take four standard deviations
√(share (1 − share) / n): where the draws leave a domain or the whole corpus without a split, the group nearest to it is appointed
(appointments.py). Appointed groups keep their place in the run folder that remembers them, not in another one: preparing a grown corpus
in a new run folder may put them back to training. Draws are the same everywhere.

Two exceptions. A knot above `large_share` of the records goes to training even if it holds held-out draws; one giant knot would
unbalance every split. So a knot that grows beyond the limit (or a corpus that outgrows it) changes sides unseen by ties; the records
concerned are counted as `large`, and the limit moves only when the corpus doubles. And where new ties leave the whole corpus with
nothing at all in a split, somebody of training is appointed to it, if need be one who was there before.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from mistral_lib.curation import split_minimums
from mistral_lib.curation.connected_components import components
from mistral_lib.curation.minhash import mix
from mistral_lib.curation.near_duplicates import first_occurrence
from mistral_lib.curation.split_minimums import Earlier

SPLITS = ("train", "validation", "test")  # in this order of protection; their numbers in every array are 0, 1, 2
CHUNK = 1 << 16  # values looked up at once
LARGE_SHARE = 0.02  # of all records, rounded down to a power of two
LARGE_LEAST = 10  # records: a knot of up to so many may be held out even from a small corpus


@dataclass(frozen=True, slots=True)
class Assignment:
    """Where each of n records goes, and what the rules had to do for it."""

    split: np.ndarray  # uint8 (n,)
    gave_way: int  # records held out (or in test) because of a tie, although their own group drew less protection
    large: int  # records in training because their knot is large, although it holds a held-out draw
    large_knots: int
    by_domain: np.ndarray  # int64 (domains, 3)  records of each domain in each split
    appointed: dict[str, Any]  # the groups held out by need, now or earlier, as Earlier.of reads them again


def assign(
    group: np.ndarray,
    answer: np.ndarray,
    pairs: np.ndarray,
    key: np.ndarray,
    domain: np.ndarray,
    validation_share: float,
    test_share: float,
    seed: int,
    kept: np.ndarray | None = None,
    large_share: float = LARGE_SHARE,
    earlier: Earlier | None = None,
) -> Assignment:
    """The split of each record; the same for every order of the records.

    group, answer, key: uint64 (n,) hashes; pairs: int64 (m, 2) positions of near-duplicates; domain: int32 (n,) from 0;
    shares between 0 and 1. Pass duplicates too, and name in kept, bool (n,), who is not one: only the kept are counted, but all
    tie. If duplicates were left out, a new copy that displaces a test record could take its content into training.
    earlier: what an earlier preparation appointed and knew.
    Errors: ValueError for shares that leave no training data.
    """
    if min(validation_share, test_share) < 0 or validation_share + test_share >= 1:
        raise ValueError(f"validation_share {validation_share} and test_share {test_share}: each at least 0, together below 1")
    kept = np.ones(len(group), bool) if kept is None else kept
    earlier, place = earlier or Earlier(), places(group, seed)
    drawn, appointed = draw(place, validation_share, test_share), earlier.held(group)
    knot = knots(group, answer, pairs, key)
    sizes = np.bincount(knot[kept], minlength=len(group))
    large = sizes > large_limit(int(kept.sum()), large_share)
    split, overruled = _of_knots(knot, drawn, appointed, large, sizes)
    if (by_domain(split[knot[kept]], domain[kept])[:, 1:] == 0).any():
        members = split_minimums.Kept(knot[kept], domain[kept], place[kept], key[kept], sizes)
        shares = {split_minimums.TEST: test_share, split_minimums.VALIDATION: validation_share}
        chosen = split_minimums.appoint(split, members, large, shares, earlier)
        appointed = np.maximum(appointed, np.where(np.isin(place, chosen), split[knot], 0).astype(np.uint8))
    split, drawn = split[knot], np.maximum(drawn, appointed)
    gave_way, shown = int((split > drawn)[kept].sum()), split_minimums.report(group, appointed, seed)
    return Assignment(split, gave_way, overruled, int(large.sum()), by_domain(split[kept], domain[kept]), shown)


def _of_knots(knot: np.ndarray, drawn: np.ndarray, appointed: np.ndarray, large: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, int]:
    """The split of each knot by the position that leads it, uint8 (n,): the most protected that one of its groups drew or was
    appointed to, training for a large one that nobody was appointed to. And how many kept records that overrules."""
    split = np.zeros(len(knot), np.uint8)
    np.maximum.at(split, knot, drawn)
    overruled = int(sizes[large & (split > 0)].sum())
    split[large] = 0
    np.maximum.at(split, knot, appointed)
    return split, overruled


def by_domain(split: np.ndarray, domain: np.ndarray) -> np.ndarray:
    """How many records of each domain are in each split, int64 (domains, 3)."""
    domains = int(domain.max(initial=-1)) + 1
    return np.bincount(domain.astype(np.int64) * len(SPLITS) + split, minlength=domains * len(SPLITS)).reshape(domains, len(SPLITS))


def places(group: np.ndarray, seed: int) -> np.ndarray:
    """Where each group stands among all that could be, uint64 (n,): the smaller, the more protected. Different groups differ."""
    return mix(group ^ np.uint64(int.from_bytes(hashlib.sha256(f"splits/{seed}".encode()).digest()[:8], "big")))


def draw(place: np.ndarray, validation_share: float, test_share: float) -> np.ndarray:
    """The split that each group draws by itself, uint8 (n,): a function of its place, of nothing else."""
    drawn = np.zeros(len(place), np.uint8)
    drawn[place < _bound(validation_share + test_share)] = 1
    drawn[place < _bound(test_share)] = 2
    return drawn


def _bound(share: float) -> np.uint64:
    """The number below which the given share of all uint64 lies."""
    return np.uint64(min(int(share * 2**64), 2**64 - 1))


def knots(group: np.ndarray, answer: np.ndarray, pairs: np.ndarray, key: np.ndarray) -> np.ndarray:
    """For each record the smallest position that ties lead to, int32 (n,)."""
    everyone = np.arange(len(group), dtype=np.int32)
    first = [(everyone, first_occurrence(values).astype(np.int32)) for values in (group, answer, key)]
    return components(len(group), [*first, (pairs[:, 0], pairs[:, 1])])


def large_limit(records: int, large_share: float = LARGE_SHARE) -> float:
    """The number of records above which a knot is large: a share of the greatest power of two within the number of records."""
    return max(LARGE_LEAST, large_share * 2 ** (max(records, 1).bit_length() - 1)) if large_share < 1 else records


def leak(split: np.ndarray, group: np.ndarray, answer: np.ndarray, key: np.ndarray, pairs: np.ndarray) -> dict[str, int]:
    """How many held-out records have a counterpart in training, by kind; measured on the result, whatever rule made it.

    Records of no split (a negative number) are passed over, and so are pairs with one of them.
    exact: the same text; answer: the same answer; near: a verified near-duplicate; document: the same source document.
    """
    held_out, train = split > 0, split == 0
    across = pairs[(held_out[pairs[:, 0]] & train[pairs[:, 1]]) | (train[pairs[:, 0]] & held_out[pairs[:, 1]])]
    near = np.zeros(len(split), bool)
    near[across] = True
    return {
        "held_out": int(held_out.sum()),
        "exact": _shared(key, held_out, train),
        "answer": _shared(answer, held_out, train),
        "near": int((near & held_out).sum()),
        "document": _shared(group, held_out, train),
    }


def _shared(values: np.ndarray, held_out: np.ndarray, train: np.ndarray) -> int:
    """How many held-out values stand in training; beside the held-out ones, memory holds CHUNK values."""
    wanted, counts = np.unique(values[held_out], return_counts=True)
    seen = np.zeros(len(wanted), bool)
    for start in range(0, len(values), CHUNK):
        given = values[start : start + CHUNK][train[start : start + CHUNK]]
        at = np.minimum(np.searchsorted(wanted, given), len(wanted) - 1)
        seen[at[wanted[at] == given] if len(wanted) else []] = True
    return int(counts[seen].sum())


def random_leak(group: np.ndarray, answer: np.ndarray, key: np.ndarray, pairs: np.ndarray, seed: int) -> dict[str, int]:
    """The baseline: the leak of a plain random 80/20 split of the same rows. Pass the rows before duplicates are dropped."""
    split = np.zeros(len(group), np.uint8)
    split[np.random.default_rng(seed).permutation(len(group))[: len(group) // 5]] = 2
    return leak(split, group, answer, key, pairs)


def unit_hash(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
