"""Leakage-free splits: records that belong together go to the same split, which depends on hashes and not on the order of files.

Works on arrays of numbers, one a record; knows nothing of texts or files.

**What links records.** Two records are linked if they have the same source document (group) or the same text (key), if one was dropped
as a copy of the other, or if they share a *specific* prompt or answer, equal or near-duplicate. A text is specific if it is long enough
to say something of its own (a prompt of LONG_PROMPT words, an answer of LONG_ANSWER) and rare (in at most COMMON records, counted once
for all its near-duplicates and, if those are more, for the equal texts alone). So labels, canned replies and template prompts link
nothing, and the answers of a label domain (label_domains.py) never do. A plain document has no prompt that could differ: it is linked
to all its near-duplicates. All records of a connected component go to one split.

**Which split.** A hash of each *group* alone assigns it to a split, and the component goes to the most protected split among its
groups: test before validation before train. So adding records never moves a record out of a held-out split, and moves one out of
training only if a new record links its component to a held-out group; these records are counted as `moved_by_links`.
(A rule that also kept each domain's share exactly could not be stable: each new group would shift the border between two others.
Instead every domain has the same share on average, and the records of each domain in each split are counted.)

A domain with n groups (n × share ≥ 1) has at least one in each split, and otherwise the share within four standard deviations,
√(share (1 − share) / n). The same holds for every label of a label domain from split_minimums.LABEL_COMPONENTS groups on. If the hashes
leave a domain, a label or the whole corpus without a split, the group whose hash is nearest to that split is reassigned
(split_minimums.py). Only the run folder remembers reassigned groups: preparing a grown corpus in a new run folder may return them to
training. Assignment by hash is the same everywhere.

There are three exceptions. First, a component above `large_share` of the records and above LARGE_MULTIPLE mean components (or above
HUGE_SHARE of the records) goes to training even if one of its groups is assigned to another split, since it would unbalance every split.
So a component that grows beyond these limits, or a corpus that outgrows them, moves records without a new link to them; they are counted
as `in_large_components`, and a limit moves only when the corpus or its mean component doubles. Second, if new links leave the whole
corpus without a split, a component of training is reassigned to it, if necessary one that was there before. Third, a text that new
records make common, or a domain that they make a label domain, links no longer: the records that only it had linked go to the splits of
their own groups. The same holds for a long text that names the document of its questions (corpus/document_keys.py).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from mistral_lib.curation import split_minimums
from mistral_lib.curation.connected_components import Edges, components
from mistral_lib.curation.equal_keys import first_occurrence, taken
from mistral_lib.curation.minhash import mix
from mistral_lib.curation.similarity import GRAM
from mistral_lib.curation.split_minimums import Earlier

SPLITS = ("train", "validation", "test")  # the most protected one last; their numbers in every array are 0, 1, 2
CHUNK = 1 << 16  # values looked up at once
LARGE_SHARE = 0.02  # of all records, rounded down to a power of two
HUGE_SHARE = 0.25  # the same; above it a component is large even if the others are as large
LARGE_MULTIPLE = 4  # of the mean component, rounded down to a power of two: documents of about one size are not large
SMALLEST_LARGE_LIMIT = 10  # records: a component of this size may be held out even from a small corpus
LONG_PROMPT, LONG_ANSWER = GRAM, 12  # words of a text that may link records; "Summarize this" and "The sentiment is positive." do not
COMMON = 16  # records; a text that is in more of them is a template or a canned reply, and links none


@dataclass(frozen=True, slots=True)
class Assignment:
    """The split of each of n records, and what the rules changed."""

    split: np.ndarray  # uint8 (n,)
    moved_by_links: int  # records held out (or in test) because of a link, although their own group was less protected
    in_large_components: int  # records in training because their component is large, although a group in it is held out
    large_components: int
    by_domain: np.ndarray  # int64 (domains, 3)  records of each domain in each split
    reassigned: dict[str, Any]  # the groups reassigned to fill an empty split, now or earlier, as Earlier.load reads them


@dataclass(frozen=True, slots=True)
class Text:
    """One text of each record, its prompt or its answer, as numbers."""

    first: np.ndarray  # int32 (n,)  the first record with an equal text
    component: np.ndarray  # int32 (n,)  the first record of the component of near-duplicates; `first` if none were searched
    long: np.ndarray  # bool (n,)  whether it has enough words, and may link


def specific(text: Text, kept: np.ndarray, document: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(near, equal): int32 (n,) each, for each record a number that it shares with the records that its text links it to; both link.

    near: near-duplicates too; equal: equal texts alone. A number that no other record has: the text is not specific.
    kept: bool (n,), the records that count; document: bool (n,), plain documents, which do not count.
    """

    def of(values: np.ndarray) -> np.ndarray:
        rare = np.bincount(values[kept & ~document], minlength=len(kept)) <= COMMON
        return linked_where(text.long & taken(rare, values), values)

    return of(text.component), of(text.first)


def linked_where(linked: np.ndarray, values: np.ndarray) -> np.ndarray:
    """values, int32 (n,) from 0 to n - 1, of the linked records; of the others a number each that no other record has."""
    return np.where(linked, values, np.arange(len(values), 2 * len(values), dtype=np.int32))


def assign(
    group: np.ndarray,
    key: np.ndarray,
    links: Iterable[np.ndarray],
    domain: np.ndarray,
    validation_share: float,
    test_share: float,
    seed: int,
    kept: np.ndarray | None = None,
    large_share: float = LARGE_SHARE,
    earlier: Earlier | None = None,
    label: np.ndarray | None = None,
) -> Assignment:
    """The split of each record; the same for every order of the records.

    group, key: uint64 (n,) hashes; links: columns of numbers, each equal for the records that it links, needed one at a time; domain: int32 (n,) from 0;
    shares between 0 and 1. Pass duplicates too and mark the other records in kept, bool (n,): only kept records are counted, but all
    records link. Without the duplicates, a new copy that replaces a test record could take its content into training.
    label: int (n,), equal for the records of a label, -1 for those without one. earlier: what an earlier preparation reassigned and kept.
    Errors: ValueError for shares that leave no training data.
    """
    if min(validation_share, test_share) < 0 or validation_share + test_share >= 1:
        raise ValueError(f"validation_share {validation_share} and test_share {test_share}: each at least 0, together below 1")
    kept = np.ones(len(group), bool) if kept is None else kept
    component = component_of(group, key, links)
    earlier, hashes = earlier or Earlier(), group_hashes(group, seed)
    by_hash, reassigned = split_by_hash(hashes, validation_share, test_share), earlier.split_of(group)
    sizes = np.bincount(component[kept], minlength=len(group)).astype(np.int32)
    large = _large(sizes, large_share)
    split, in_large = _split_of_components(component, by_hash, reassigned, large, sizes)
    stratum, of_label = _strata(domain, label)
    missing = by_domain(split[component[kept]], stratum[kept]) == 0
    if missing[:, 1:].any():
        lacking = np.zeros(len(kept), bool)
        lacking[kept] = missing[:, 1:].any(axis=1)[stratum[kept]]  # a stratum without a kept record lacks nothing
        own = _of_components_with(lacking, component) & kept
        members = split_minimums.Kept(component[own], np.where(lacking, stratum, -1)[own], of_label, hashes[own], key[own], sizes)
        shares = {split_minimums.TEST: test_share, split_minimums.VALIDATION: validation_share}
        filled = [number for number in shares if not missing[:, number].all()]
        chosen = split_minimums.fill_empty_splits(split, members, large, shares, earlier, filled)
        del members
        reassigned = np.maximum(reassigned, np.where(np.isin(hashes, chosen), split[component], 0).astype(np.uint8))
    split, own = split[component], np.maximum(by_hash, reassigned)
    moved, reported = int((split > own)[kept].sum()), split_minimums.report(group, reassigned, seed)
    return Assignment(split, moved, in_large, int(large.sum()), by_domain(split[kept], domain[kept]), reported)


def _strata(domain: np.ndarray, label: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """(the stratum of each record, int32 (n,): its label or, without one, its domain; whether each stratum is a label, bool)."""
    domains = int(domain.max(initial=-1)) + 1
    if label is None or not (label >= 0).any():
        return domain, np.zeros(domains, bool)
    labels, number = np.unique(label[label >= 0], return_inverse=True)
    stratum = domain.astype(np.int32)
    stratum[label >= 0] = number + domains
    return stratum, np.arange(domains + len(labels)) >= domains


def _split_of_components(
    component: np.ndarray, by_hash: np.ndarray, reassigned: np.ndarray, large: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, int]:
    """The split of each component, uint8 (n,), by its smallest position: the most protected one among its groups, by hash or
    reassigned; training for a large component without a reassigned group. And how many kept records that last rule moves."""
    split = np.zeros(len(component), np.uint8)
    np.maximum.at(split, component, by_hash)
    in_large = int(sizes[large & (split > 0)].sum())
    split[large] = 0
    np.maximum.at(split, component, reassigned)
    return split, in_large


def by_domain(split: np.ndarray, domain: np.ndarray) -> np.ndarray:
    """How many records of each domain are in each split, int64 (domains, 3)."""
    domains = int(domain.max(initial=-1)) + 1
    counts = np.zeros(domains * len(SPLITS), np.int64)
    for start in range(0, len(domain), CHUNK):
        own = slice(start, start + CHUNK)
        counts += np.bincount(domain[own].astype(np.int64) * len(SPLITS) + split[own], minlength=len(counts))
    return counts.reshape(domains, len(SPLITS))


def group_hashes(group: np.ndarray, seed: int) -> np.ndarray:
    """A hash of each group and the seed, uint64 (n,): the smaller, the more protected. Different groups have different hashes."""
    return mix(group ^ np.uint64(int.from_bytes(hashlib.sha256(f"splits/{seed}".encode()).digest()[:8], "big")))


def split_by_hash(hashes: np.ndarray, validation_share: float, test_share: float) -> np.ndarray:
    """The split that each group's hash assigns it to, uint8 (n,)."""
    split = np.zeros(len(hashes), np.uint8)
    split[hashes < _bound(validation_share + test_share)] = 1
    split[hashes < _bound(test_share)] = 2
    return split


def _bound(share: float) -> np.uint64:
    """The number below which the given share of all uint64 lies."""
    return np.uint64(min(int(share * 2**64), 2**64 - 1))


def component_of(group: np.ndarray, key: np.ndarray, links: Iterable[np.ndarray]) -> np.ndarray:
    """For each record the smallest position of its connected component, int32 (n,)."""
    return components(len(group), map(_to_first, chain((group, key), links)))


def _to_first(values: np.ndarray) -> Edges:
    """Links from each record to the first one with an equal value."""
    first = first_occurrence(values)
    later = np.flatnonzero(first != np.arange(len(first), dtype=np.int32)).astype(np.int32)
    return later, taken(first, later)


def _of_components_with(chosen: np.ndarray, component: np.ndarray) -> np.ndarray:
    """Which records are in a component of a chosen one, bool (n,)."""
    found = np.zeros(len(component), bool)
    found[component[chosen]] = True
    return taken(found, component)


def large_limit(records: int, large_share: float = LARGE_SHARE) -> float:
    """The number of records above which a component is large: a share of the greatest power of two within the number of records."""
    return max(SMALLEST_LARGE_LIMIT, large_share * 2 ** (max(records, 1).bit_length() - 1)) if large_share < 1 else records


def _large(sizes: np.ndarray, large_share: float) -> np.ndarray:
    """Which components are large, bool (positions,). sizes: the kept records of each."""
    records, count = int(sizes.sum()), int((sizes > 0).sum())
    mean = 2 ** ((records // count).bit_length() - 1) if records else 0
    huge = large_limit(records, HUGE_SHARE) if large_share < HUGE_SHARE else 0
    return (sizes > large_limit(records, large_share)) & ((sizes > LARGE_MULTIPLE * mean) | (sizes > huge))


@dataclass(frozen=True, slots=True)
class Shared:
    """What records have in common, by which a leak is measured."""

    group: np.ndarray  # uint64 (n,)
    key: np.ndarray  # uint64 (n,)
    prompt: np.ndarray  # int32 (n,), the second result of `specific`
    answer: np.ndarray  # int32 (n,), the second result of `specific`
    pairs: np.ndarray  # int64 (m, 2)  verified near-duplicates of specific prompts or answers


def leak(split: np.ndarray, shared: Shared) -> dict[str, int]:
    """How many held-out records have a counterpart in training, by kind; measured on the result, not on the rules.

    Records of no split (a negative number) and pairs with one of them are skipped.
    exact: the same text; prompt, answer: the same specific one; near: a verified near-duplicate; document: the same source document.
    """
    held_out, train, pairs = split > 0, split == 0, shared.pairs
    across = pairs[(held_out[pairs[:, 0]] & train[pairs[:, 1]]) | (train[pairs[:, 0]] & held_out[pairs[:, 1]])]
    near = np.zeros(len(split), bool)
    near[across] = True
    return {
        "held_out": int(held_out.sum()),
        "exact": _shared(shared.key, held_out, train),
        "prompt": _shared(shared.prompt, held_out, train),
        "answer": _shared(shared.answer, held_out, train),
        "near": int((near & held_out).sum()),
        "document": _shared(shared.group, held_out, train),
    }


def _shared(values: np.ndarray, held_out: np.ndarray, train: np.ndarray) -> int:
    """How many held-out values are in training too. Memory has room for the held-out values and CHUNK others."""
    wanted, counts = np.unique(values[held_out], return_counts=True)
    seen = np.zeros(len(wanted), bool)
    for start in range(0, len(values), CHUNK):
        given = values[start : start + CHUNK][train[start : start + CHUNK]]
        at = np.minimum(np.searchsorted(wanted, given), len(wanted) - 1)
        seen[at[wanted[at] == given] if len(wanted) else []] = True
    return int(counts[seen].sum())


def random_leak(shared: Shared, seed: int) -> dict[str, int]:
    """The baseline: the leak of a random 80/20 split of the same rows. Pass the rows before duplicates are dropped."""
    count = len(shared.group)
    split = np.zeros(count, np.uint8)
    split[np.random.default_rng(seed).permutation(count)[: count // 5]] = 2
    return leak(split, shared)


def unit_hash(text: str) -> float:
    """A number in [0, 1) that depends only on the text."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big") / 2**64
