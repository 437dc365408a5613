"""Splits: no component is in two, order is irrelevant, added records move others only by the stated rule, the leak is measured."""

import hashlib
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_lib.curation import split_minimums, splits
from mistral_lib.curation.connected_components import components
from mistral_lib.curation.split_minimums import Earlier
from mistral_lib.run import files

NO_LARGE = 1.0  # large_share that switches the rule for large components off


@dataclass
class Rows:
    """The columns that `assign` takes."""

    group: np.ndarray
    answer: np.ndarray
    pairs: np.ndarray
    key: np.ndarray
    domain: np.ndarray

    @classmethod
    def build(cls, records: list[tuple[int, int, int]], near: list[tuple[int, int]]) -> "Rows":
        """From (group, answer, domain) per record and near-duplicate pairs of record numbers."""
        table = np.array(records, np.uint64).reshape(-1, 3)
        pairs = np.array(near, np.int64).reshape(-1, 2)
        return cls(
            table[:, 0], table[:, 1] + np.uint64(1000), pairs, np.arange(len(records), dtype=np.uint64), table[:, 2].astype(np.int32)
        )

    def assign(self, validation=0.2, test=0.2, seed=42, **options) -> splits.Assignment:
        return splits.assign(self.group, self.key, self.links(), self.domain, validation, test, seed, **options)

    def links(self) -> list[np.ndarray]:
        """The records with the same answer, and the components of near-duplicates."""
        return [self.answer, components(len(self.group), [(self.pairs[:, 0], self.pairs[:, 1])])]

    def shared(self) -> splits.Shared:
        return splits.Shared(self.group, self.key, self.key, self.answer, self.pairs)

    def chosen(self, order: np.ndarray) -> "Rows":
        """The records at `order`, in that order, with the pairs among them."""
        place = np.full(len(self.group), -1)
        place[order] = np.arange(len(order))
        pairs = place[self.pairs]
        return Rows(self.group[order], self.answer[order], pairs[(pairs >= 0).all(axis=1)], self.key[order], self.domain[order])

    def remembered(self, done: splits.Assignment) -> Earlier:
        """What a run folder would remember of an assignment of these records."""
        return Earlier.from_report(done.reassigned, lambda: self.key)

    def component_of(self) -> np.ndarray:
        return splits.component_of(self.group, self.key, self.links())


def alone_in_split(done: splits.Assignment, rows: Rows) -> np.ndarray:
    """Which records are in a reassigned component that is alone in its split: without it the split would be empty."""
    component, reassigned = rows.component_of(), rows.remembered(done).split_of(rows.group)
    alone = np.zeros(len(component), bool)
    for split in (1, 2):
        there = np.unique(component[done.split == split])
        if len(there) == 1 and (reassigned[component == there] == split).any():
            alone |= component == there
    return alone


def by_hash(group: np.ndarray, share: float = 0.2) -> np.ndarray:
    """The split of each group by its hash, for the same share of validation and test."""
    return splits.split_by_hash(splits.group_hashes(group, 42), share, share)


@st.composite
def rows(draw) -> Rows:
    count = draw(st.integers(1, 60))
    record = st.tuples(st.integers(0, 25), st.integers(0, 60), st.integers(0, 3))
    number = st.integers(0, count - 1)
    records = draw(st.lists(record, min_size=count, max_size=count))
    return Rows.build(records, draw(st.lists(st.tuples(number, number), max_size=8)))


def spread(groups: int, each: int = 5, domains: int = 4) -> Rows:
    """Groups of `each` records, all answers different."""
    count = groups * each
    return Rows.build([(n // each, n, n // each % domains) for n in range(count)], [])


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=50))
def test_components_are_those_of_scipy(count, links):
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    u, v = (np.array([link[k] % count for link in links], np.int64) for k in (0, 1))
    _, expected = connected_components(coo_array((np.ones(len(u)), (u, v)), shape=(count, count)), directed=False)
    smallest = [int(np.flatnonzero(expected == label)[0]) for label in expected]
    assert components(count, [(u[::2], v[::2]), (u[1::2], v[1::2])]).tolist() == smallest


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_a_long_chain_is_one_component(order):
    links = np.arange(100_000)
    name = {"forward": links, "backward": links[::-1], "shuffled": np.random.default_rng(0).permutation(100_000)}[order]
    assert not components(100_000, [(name[:-1], name[1:])]).any()


@given(rows(), st.sampled_from([splits.LARGE_SHARE, NO_LARGE]))
def test_no_group_answer_text_or_pair_is_in_two_splits(rows, large_share):
    split = rows.assign(large_share=large_share).split
    for values in (rows.group, rows.answer, rows.key):
        for value in set(values.tolist()):
            assert len(set(split[values == value].tolist())) == 1
    assert (split[rows.pairs[:, 0]] == split[rows.pairs[:, 1]]).all()
    leak = splits.leak(split, rows.shared())
    assert leak.pop("held_out") == (split > 0).sum() and not any(leak.values())


@given(rows(), st.randoms(use_true_random=False), st.sampled_from([splits.LARGE_SHARE, NO_LARGE]))
def test_order_changes_nothing(rows, random, large_share):
    order = np.array(random.sample(range(len(rows.group)), len(rows.group)))
    done, other = rows.assign(large_share=large_share), rows.chosen(order).assign(large_share=large_share)
    assert (other.split == done.split[order]).all()
    assert (other.moved_by_links, other.in_large_components) == (done.moved_by_links, done.in_large_components)
    assert (other.by_domain.tolist(), other.reassigned) == (done.by_domain.tolist(), done.reassigned)


@settings(max_examples=200)
@given(rows(), st.data())
def test_added_records_move_others_only_by_the_stated_rule(rows, data):
    old = np.array(sorted(data.draw(st.sets(st.integers(0, len(rows.group) - 1), min_size=1))))
    first = rows.chosen(old).assign(large_share=NO_LARGE)
    before, earlier = first.split, rows.chosen(old).remembered(first)
    after = rows.assign(large_share=NO_LARGE, earlier=earlier)
    now, component = after.split[old], rows.component_of()
    assert (now >= before).all()  # no held-out record becomes training, no test record validation
    new = np.setdiff1d(np.arange(len(rows.group)), old)
    linked_to_new = np.isin(component[old], component[new])
    needed = alone_in_split(after, rows)[old]  # records seen before are reassigned only if a split would be empty without them
    assert (now == before)[~linked_to_new & ~needed].all()  # all other records that no new one is linked to stay
    own = np.maximum(by_hash(rows.group), rows.remembered(after).split_of(rows.group))
    for record in old[now > before]:  # a moved record is linked to a group that is in that split by hash or reassignment
        assert own[component == component[record]].max() == after.split[record]
    assert after.moved_by_links == (after.split > own).sum()


def test_a_record_seen_before_is_reassigned_if_a_link_empties_a_split():
    """Of two documents one is in validation and one in test. Once they are linked, a document of training is reassigned to validation."""
    four = Rows.build([(group, group, 0) for group in range(4)], [])
    first = four.assign()
    test, validation = (int(np.flatnonzero(first.split == split)[0]) for split in (2, 1))
    grown = Rows.build([*((group, group, 0) for group in range(4)), (test, validation, 0)], [])
    after = grown.assign(earlier=four.remembered(first))
    assert sorted(first.split.tolist()) == [0, 0, 1, 2] and sorted(after.split[:4].tolist()) == [0, 1, 2, 2]
    assert len(after.reassigned["validation"]) > 0 and alone_in_split(after, grown).sum() >= 1


def test_a_new_record_that_links_training_to_test_moves_the_training_records():
    own = by_hash(np.arange(100, dtype=np.uint64))
    train, test = int(np.flatnonzero(own == 0)[0]), int(np.flatnonzero(own == 2)[0])
    apart = [(train, 1, 0), (train, 2, 0), (test, 3, 0)]
    assert Rows.build(apart, []).assign().split.tolist() == [0, 0, 2]
    linked = Rows.build([*apart, (test, 2, 0)], []).assign()
    assert linked.split.tolist() == [2, 2, 2, 2] and linked.moved_by_links == 2


def test_a_growing_corpus_keeps_its_splits():
    whole = spread(2000)
    before, after = whole.chosen(np.arange(4000)).assign(), whole.assign()
    assert (before.split == after.split[:4000]).all() and after.moved_by_links == 0 and after.in_large_components == 0


def test_each_domain_gets_its_share():
    """Assignment by hash is binomial: 4 standard deviations of 1,000 groups."""
    done = spread(4000).assign(validation=0.05, test=0.1)
    assert done.by_domain.sum() == 20_000 and done.by_domain.shape == (4, 3)
    for train, validation, test in done.by_domain / 5000:
        assert validation == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 1000) ** 0.5)
        assert test == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / 1000) ** 0.5)
        assert train > 0.8


def documents(count: int, name: int, each: int = 3, domains: int = 1) -> Rows:
    """`count` documents with different hashes for each name."""
    rows = spread(count, each, domains)
    rows.group = splits.mix(rows.group + np.uint64(name * 10**6))
    return rows


@given(st.integers(30, 100), st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 5))
def test_a_small_corpus_gets_all_three_splits(count, name, each, domains):
    """Also if every document is large (more than 10 records), so that without reassignment all of them would go to training."""
    done = documents(count, name, each, domains).assign(0.08, 0.08)
    assert set(done.split.tolist()) == {0, 1, 2}
    assert (done.split == 0).mean() > 0.5


@given(st.integers(3, 40), st.integers(0, 10**6))
def test_three_documents_are_enough_for_three_splits(count, name):
    assert set(documents(count, name).assign(0.01, 0.01).split.tolist()) == {0, 1, 2}


@given(st.integers(1, 400), st.integers(0, 10**6), st.integers(1, 12))
def test_every_domain_with_enough_documents_gets_every_split(count, name, domains):
    done = documents(count, name, 2, domains).assign(0.08, 0.08)
    enough = done.by_domain.sum(axis=1) / 2 * 0.08 >= 1
    assert (done.by_domain[enough] > 0).all()


@pytest.mark.parametrize("count", [13, 40, 200])
def test_a_domain_gets_its_share_within_the_stated_bound(count):
    """Four standard deviations and one reassigned document; of 400 domains at most one is outside (small binomials have tails)."""
    domains = 400
    done = documents(count * domains, 0, 1, domains).assign(0.08, 0.08)
    assert (done.by_domain > 0).all()
    bound = 4 * (0.08 * 0.92 / count) ** 0.5 + 1 / count
    empty = 2 * 0.92**count / count  # the reassigned documents: one in each split that the hashes leave empty
    assert (np.abs(done.by_domain[:, 1:] / count - 0.08) > bound).sum() <= 1
    assert done.by_domain[:, 1:].sum() / done.by_domain.sum() == pytest.approx(0.16 + empty, abs=0.012)


def test_only_hashes_decide_if_they_leave_no_split_empty():
    done = spread(2000).assign(0.08, 0.08)
    assert (done.split == by_hash(spread(2000).group, 0.08)).all()
    assert done.reassigned == {"seed": 42, "test": [], "validation": []}


def test_reassigned_documents_stay_in_their_split_when_added_ones_fill_it():
    rows = documents(400, 5)
    own = by_hash(rows.group, 0.08)
    small, held_out = rows.chosen(np.flatnonzero(own == 0)[:60]), rows.chosen(np.flatnonzero(own > 0))
    first = small.assign(0.08, 0.08)
    assert len(first.reassigned["test"]) == len(first.reassigned["validation"]) == 1  # 20 documents, all in training by hash
    grown = Rows(
        *(np.concatenate([getattr(small, name), getattr(held_out, name)]) for name in ("group", "answer", "pairs", "key", "domain"))
    )
    again = grown.assign(0.08, 0.08, earlier=small.remembered(first))
    assert (again.split[:60] == first.split).all() and again.reassigned == first.reassigned
    forgotten = grown.assign(0.08, 0.08)  # another run folder: hashes only
    assert not forgotten.split[:60].any() and not forgotten.reassigned["test"]


def test_a_document_seen_before_is_not_reassigned_when_its_domain_grows_enough_for_a_test_document():
    rows = documents(400, 5, 1)
    training = rows.chosen(np.flatnonzero(by_hash(rows.group, 0.08) == 0)[:14])
    training.domain[:] = 1
    rest = rows.chosen(np.arange(200, 400))  # domain 0 has every split
    whole = Rows(
        *(np.concatenate([getattr(training, name), getattr(rest, name)]) for name in ("group", "answer", "pairs", "key", "domain"))
    )
    old = np.setdiff1d(np.arange(len(whole.group)), [0, 1])  # twelve documents of domain 1: too few for a test document
    before = whole.chosen(old).assign(0.08, 0.08)
    assert not before.by_domain[1, 1:].any()
    after = whole.assign(0.08, 0.08, earlier=whole.chosen(old).remembered(before))
    assert (after.split[old] == before.split).all() and set(after.split[:2].tolist()) == {1, 2}  # the new ones are reassigned


def test_earlier_assignments_are_read_from_the_folder(tmp_path):
    assert Earlier.load(tmp_path, 42).reassigned == {} and not len(Earlier.load(tmp_path, 42).keys)
    reported = split_minimums.report(np.array([7, 7, 9, 3], np.uint64), np.array([2, 2, 1, 0], np.uint8), 42)
    assert reported == {"seed": 42, "test": [f"{7:016x}"], "validation": [f"{9:016x}"]}
    files.write_json(tmp_path / "report.json", {"reassigned": reported})
    pq.write_table(pa.table({"record_id": [f"{key:016x}" for key in (1, 2**64 - 1)]}), tmp_path / "records.parquet")
    earlier = Earlier.load(tmp_path, 42)
    assert earlier.split_of(np.array([3, 7, 9], np.uint64)).tolist() == [0, 2, 1] and earlier.keys.tolist() == [1, 2**64 - 1]
    assert Earlier.load(tmp_path, 43).reassigned == {}  # with another seed nothing is remembered


def test_seeds_assign_differently():
    rows = spread(1000)
    assert 0.4 < (rows.assign(seed=1).split == rows.assign(seed=2).split).mean() < 0.6  # 0.6² + 0.2² + 0.2² by chance


def test_a_large_component_goes_to_training_and_is_counted():
    rows = spread(400)
    rows.answer[rows.group < 100] = 7  # an answer that a quarter of all groups share; by hash some of them are in test
    done = rows.assign()
    assert not done.split[rows.group < 100].any()
    assert (done.in_large_components, done.large_components) == (500, 1)
    assert done.split[rows.group >= 100].any()
    assert rows.assign(large_share=NO_LARGE).split[rows.group < 100].min() == 2


def test_the_limit_of_large_components_moves_only_when_the_corpus_doubles():
    assert len({splits.large_limit(records) for records in range(2048, 4096)}) == 1
    assert splits.large_limit(4096) == 2 * splits.large_limit(4095) == pytest.approx(0.02 * 4096)


def test_duplicates_link_but_are_not_counted():
    own = by_hash(np.arange(100, dtype=np.uint64))
    train, test = int(np.flatnonzero(own == 0)[0]), int(np.flatnonzero(own == 2)[0])
    rows = Rows.build([(train, 1, 0), (train, 2, 1), (test, 1, 0)], [])
    done = rows.assign(kept=np.array([True, True, False]))  # the test record is dropped, a copy of the first
    assert done.split.tolist() == [2, 2, 2]  # its content is held out nevertheless
    assert done.moved_by_links == 2 and done.by_domain.tolist() == [[0, 0, 1], [0, 0, 1]]


def test_small_components_of_a_small_corpus_may_be_held_out():
    assert set(spread(20).assign().split.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.5, 0.5), (0.0, 1.0)])
def test_shares_that_leave_no_training_are_refused(shares):
    with pytest.raises(ValueError, match="below 1"):
        spread(3).assign(*shares)


def test_without_records_nothing_is_assigned():
    done = Rows.build([], []).assign()
    assert len(done.split) == 0 and done.by_domain.sum() == 0


@given(rows(), st.data())
def test_the_leak_of_any_split_is_the_one_counted_with_sets(rows, data):
    count = len(rows.group)
    split = np.array(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)), np.uint8)
    rows.key = rows.answer % np.uint64(30)
    train, held_out = np.flatnonzero(split == 0).tolist(), np.flatnonzero(split).tolist()
    expected = {"held_out": len(held_out)}
    prompts = (rows.answer % np.uint64(7)).astype(np.int32)
    for name, values in (("exact", rows.key), ("prompt", prompts), ("answer", rows.answer), ("document", rows.group)):
        expected[name] = sum(values[n] in {values[t] for t in train} for n in held_out)
    near = {frozenset(pair) for pair in rows.pairs.tolist()}
    expected["near"] = sum(any(frozenset((n, t)) in near for t in train) for n in held_out)
    assert splits.leak(split, splits.Shared(rows.group, rows.key, prompts, rows.answer, rows.pairs)) == expected


def test_a_random_split_leaks_what_chance_predicts():
    count = 20_000
    pairs = np.arange(count).reshape(-1, 2)  # each record has one near-duplicate, which is in training with a probability of 0.8
    own = np.arange(count, dtype=np.uint64)
    shared = splits.Shared(own // np.uint64(2), own // np.uint64(4), own, own, pairs)
    leak = splits.random_leak(shared, seed=1)
    assert leak["held_out"] == 4000 and leak["answer"] == 0
    assert leak["near"] / 4000 == pytest.approx(0.8, abs=0.02) and leak["near"] == leak["document"]
    assert leak["exact"] / 4000 == pytest.approx(1 - 0.2**3, abs=0.01)
    assert leak == splits.random_leak(shared, seed=1) and leak["prompt"] == 0


# -- the rules for empty splits, on components of one record each, worked out by hand ------------------------------------

TEST, VALIDATION = 2, 1


def filled(
    split: list[int],
    hashes: list[int],
    domain: list[int] | None = None,
    share: float = 0.2,
    large: tuple[int, ...] = (),
    seen: tuple[int, ...] = (),
    sizes: list[int] | None = None,
    component: list[int] | None = None,
    labels: tuple[int, ...] = (),
) -> tuple[list[int], list[int]]:
    """(split of each component, hashes of the reassigned ones). share: (test and validation); seen: records kept by an earlier preparation;
    labels: which domains are labels."""
    count = len(split)
    kept = split_minimums.Kept(
        np.array(component or range(count), np.int32), np.array(domain or [0] * count, np.int32),
        np.isin(np.arange(max(domain or [0]) + 1), labels), np.array(hashes, np.uint64),
        np.arange(len(hashes), dtype=np.uint64), np.array(sizes or [1] * count, np.int64),
    )  # fmt: skip
    new, marked = np.array(split, np.uint8), np.isin(np.arange(count), large)
    shares = {TEST: share, VALIDATION: share}
    chosen = split_minimums.fill_empty_splits(new, kept, marked, shares, Earlier({}, lambda: np.array(seen, np.uint64)))
    return new.tolist(), chosen.tolist()


OTHER = ([2, 1, 0], [1, 2, 3], [1, 1, 1])  # a second domain that has every split, so that the corpus lacks none


def in_domain(split: list[int], hashes: list[int], **options) -> list[int]:
    """The split of the components of domain 0, beside a domain that needs nothing."""
    domain = [0] * len(split) + OTHER[2]
    return filled(split + OTHER[0], hashes + OTHER[1], domain, **options)[0][: len(split)]


def test_the_components_nearest_to_test_and_then_to_validation_are_reassigned() -> None:
    assert filled([0] * 6, [50, 10, 40, 20, 30, 60]) == ([0, 2, 0, 1, 0, 0], [10, 20])
    assert in_domain([0] * 6, [50, 10, 40, 20, 30, 60]) == [0, 2, 0, 1, 0, 0]
    assert in_domain([0, 0, 2, 0, 0, 0], [50, 10, 40, 20, 30, 60]) == [0, 1, 2, 0, 0, 0], "only what is missing"


def test_a_domain_is_filled_from_one_expected_component_on() -> None:
    hashes = [50, 10, 40, 20]
    assert in_domain([0] * 4, hashes, share=0.25) == [0, 2, 0, 1] and in_domain([0] * 4, hashes, share=0.24) == [0] * 4


def test_the_last_component_in_training_of_a_domain_stays() -> None:
    assert in_domain([0, 0], [20, 10], share=0.5) == [0, 2], "of exactly two one is reassigned, and then the last one stays"
    assert in_domain([0, 1], [10, 20], share=0.5) == [0, 1] and in_domain([0, 2], [10, 20], share=0.5) == [0, 2]


def test_large_components_and_those_seen_before_are_not_reassigned_for_a_domain() -> None:
    hashes = [50, 10, 40, 20, 30, 60]
    assert in_domain([0] * 6, hashes, large=(1,)) == [0, 0, 0, 2, 1, 0]
    assert in_domain([0] * 6, hashes, seen=(1, 3)) == [0, 0, 1, 0, 2, 0]
    assert in_domain([0] * 6, hashes, seen=tuple(range(6))) == [0] * 6
    assert in_domain([0] * 6, hashes, large=(0, 1, 2, 3, 4, 5)) == [0] * 6


def test_each_domain_is_filled_by_itself() -> None:
    split, _ = filled([0] * 8, [80, 10, 70, 20, 60, 30, 50, 40], [0, 0, 0, 0, 1, 1, 1, 1], share=0.25)
    assert split == [0, 2, 0, 1, 0, 2, 0, 1]


def test_the_nearest_record_of_a_component_counts() -> None:
    split, chosen = filled([0] * 5, [50, 40, 30, 20, 5], share=0.25, component=[0, 1, 2, 3, 0])
    assert split[0] == 2 and chosen[0] == 5 and split[3] == 1


def test_the_corpus_needs_each_split_however_small_it_is() -> None:
    assert filled([0, 0, 0], [30, 10, 20], share=0.01) == ([0, 2, 1], [10, 20])
    assert filled([0, 0], [30, 10], share=0.01) == ([0, 2], [10]), "one is left to train on"
    assert filled([0], [30], share=0.01) == ([0], [])
    assert filled([0, 2, 0, 0], [30, 10, 20, 15], share=0.01)[0] == [0, 2, 0, 1]
    assert filled([0, 0, 0], [30, 10, 20], share=0.01, seen=(1,))[0] == [1, 0, 2], "those seen before only if there is no other"
    assert filled([0, 0, 0], [30, 10, 20], share=0.01, seen=(0, 1, 2))[0] == [0, 2, 1]
    assert filled([0, 0, 0], [30, 10, 20], share=0.01, large=(1,), sizes=[1, 9, 1])[0] == [1, 0, 2], "large ones last"
    assert filled([0, 0, 0], [30, 10, 20], share=0.01, large=(0, 1, 2), sizes=[7, 9, 8])[0] == [2, 0, 1], "the smallest of them first"
    assert filled([0, 0, 0], [30, 10, 20], share=0.01, sizes=[7, 9, 8])[0] == [0, 2, 1], "the size of others does not count"
    assert filled([0, 0, 0], [30, 10, 20], share=0.01, large=(0, 2), seen=(1,), sizes=[5, 9, 6])[0] == [2, 0, 1]


def test_a_folder_without_its_records_remembers_nothing(tmp_path) -> None:
    reported = split_minimums.report(np.array([7], np.uint64), np.array([2], np.uint8), 42)
    files.write_json(tmp_path / "report.json", {"reassigned": reported})
    assert Earlier.load(tmp_path, 42).reassigned == {}
    files.write_json(tmp_path / "report.json", {})
    pq.write_table(pa.table({"record_id": ["00" * 8]}), tmp_path / "records.parquet")
    assert Earlier.load(tmp_path, 42).reassigned == {}


# -- the numbers of the rules ---------------------------------------------------------------------------------------------


def test_hashes_are_split_exactly_at_the_shares() -> None:
    hashes = np.array([0, 2**62 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)
    assert splits.split_by_hash(hashes, 0.25, 0.25).tolist() == [2, 2, 1, 1, 0, 0]
    assert splits.split_by_hash(hashes, 0.0, 0.0).tolist() == [0] * 6 and splits._bound(1.0) == 2**64 - 1
    assert splits.SPLITS == ("train", "validation", "test")


def test_the_hash_of_a_group_is_the_same_everywhere() -> None:
    """SplitMix64 of the group and 8 bytes of a SHA-256, in plain integers."""
    x, bits = 12345 ^ int.from_bytes(hashlib.sha256(b"splits/42").digest()[:8], "big"), 2**64 - 1
    x = x + 0x9E3779B97F4A7C15 & bits
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & bits
    x = (x ^ x >> 27) * 0x94D049BB133111EB & bits
    assert int(splits.group_hashes(np.array([12345], np.uint64), 42)[0]) == x ^ x >> 31
    assert splits.unit_hash("a") == int(hashlib.sha256(b"a").hexdigest()[:16], 16) / 2**64 and 0 <= splits.unit_hash("\ud800") < 1


def test_the_limit_of_large_components_in_numbers() -> None:
    assert [splits.large_limit(records) for records in (0, 1, 511, 512, 1023)] == [10, 10, 10, 10.24, 10.24]
    assert splits.large_limit(65_536) == pytest.approx(1310.72) and splits.large_limit(7, 1.0) == 7 and splits.large_limit(1024, 0.5) == 512


@pytest.mark.parametrize("split", [0, 1, 2])
@pytest.mark.parametrize(("size", "large"), [(10, 0), (11, 1)])
def test_a_component_of_ten_records_is_not_large_and_one_of_eleven_is(size: int, large: int, split: int) -> None:
    own = by_hash(np.arange(200, dtype=np.uint64))
    chosen = int(np.flatnonzero(own == split)[0])
    others = [(int(group), 1000 + int(group), 0) for group in range(200) if group != chosen]
    done = Rows.build([*((chosen, n, 0) for n in range(size)), *others], []).assign()
    assert (done.large_components, done.in_large_components) == (large, size if large and split else 0)
    assert set(done.split[:size].tolist()) == {0 if large else split}
    links = Rows.build([(group, 5, 0) for group in range(5)], [])
    assert links.assign(large_share=NO_LARGE).large_components == 0, "with the rule off, not even the complete corpus is large"


def test_records_of_no_split_leak_nothing_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    split = np.array([0, 2, -1, 1, 0, 2, 0], np.int8)
    values = np.array([5, 5, 6, 6, 7, 7, 9], np.uint64)
    own, pairs = np.arange(7, dtype=np.uint64), np.array([[0, 1], [2, 3], [4, 6], [1, 5], [5, 6]])
    expected, shared = (
        {"held_out": 3, "exact": 2, "prompt": 0, "answer": 0, "near": 2, "document": 2},
        splits.Shared(values, values, own, own, pairs),
    )
    for chunk in (splits.CHUNK, 7, 3, 1):
        monkeypatch.setattr(splits, "CHUNK", chunk)
        assert splits.leak(split, shared) == expected
    assert splits.leak(np.zeros(7, np.uint8), shared)["held_out"] == 0


def test_shares_of_zero_are_no_error_and_reassign_nothing_beyond_the_corpus() -> None:
    assert set(spread(20).assign(0.0, 0.5).split.tolist()) == {0, 1, 2}
    with pytest.raises(ValueError, match=r"validation_share -0\.1 and test_share 0\.5: each at least 0, together below 1"):
        spread(3).assign(-0.1, 0.5)
    with pytest.raises(ValueError, match="below 1"):
        spread(3).assign(0.5, -0.1)


# -- which texts link, and labels -----------------------------------------------------------------------------------------


FEW = 3
few_are_common = mock.patch.object(splits, "COMMON", FEW)


@dataclass
class Texts:
    """Records with a prompt and an answer each, as numbers of texts: a text is near those with the same number divided by three."""

    group: np.ndarray
    prompt: np.ndarray
    answer: np.ndarray
    document: np.ndarray
    label: np.ndarray  # -1 for none

    def chosen(self, order: np.ndarray) -> "Texts":
        return Texts(*(getattr(self, name)[order] for name in ("group", "prompt", "answer", "document", "label")))

    def specific(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The links and the equal texts of the prompts and of the answers. Texts whose number is even are long."""
        sides = []
        for values, short in ((self.prompt, self.document), (self.answer, self.label >= 0)):
            first, component = (splits.first_occurrence(one.astype(np.uint64)).astype(np.int32) for one in (values, values // 3))
            text = splits.Text(first, component, (values % 2 == 0) & ~short)
            sides.append(splits.specific(text, np.ones(len(values), bool), self.document))
        return sides

    def links(self) -> list[np.ndarray]:
        component = splits.first_occurrence((self.answer // 3).astype(np.uint64)).astype(np.int32)
        return [*(column for side in self.specific() for column in side), splits.linked_where(self.document, component)]

    def keys(self) -> np.ndarray:
        return np.arange(len(self.group), dtype=np.uint64)

    def assign(self, **options) -> splits.Assignment:
        domain, links = np.zeros(len(self.group), np.int32), self.links()
        shares = {"validation_share": 0.2, "test_share": 0.2, "seed": 42, "label": self.label, **options}
        return splits.assign(self.group, self.keys(), links, domain, **shares)


@st.composite
def texts(draw) -> Texts:
    """A text of more than FEW records is common in these tests."""
    count = draw(st.integers(1, 24))
    record = st.tuples(st.integers(0, 20), st.integers(0, 30), st.integers(0, 30), st.booleans())
    rows = np.array(draw(st.lists(record, min_size=count, max_size=count)))
    rows[:, 1] = np.where(rows[:, 3], 1001 + 6 * np.arange(count), rows[:, 1])  # documents have no prompt in common
    label = np.where((rows[:, 2] < 4) & ~rows[:, 3].astype(bool), rows[:, 2], -1) if draw(st.booleans()) else np.full(count, -1)
    return Texts(rows[:, 0].astype(np.uint64), rows[:, 1], rows[:, 2], rows[:, 3].astype(bool), label)


def linked(one: Texts, u: int, v: int) -> bool:
    """Whether the stated rule links two records, worked out pair by pair."""
    if one.group[u] == one.group[v]:
        return True
    if one.document[u] and one.document[v]:
        return bool(one.answer[u] // 3 == one.answer[v] // 3)
    chats = ~one.document
    for values, able in ((one.prompt, chats), (one.answer, one.label < 0)):
        if not (able[u] and able[v] and values[u] % 2 == values[v] % 2 == 0):
            continue
        for same in (values // 3, values):
            if same[u] == same[v] and (chats & (same == same[u])).sum() <= FEW:
                return True
    return False


@few_are_common
@settings(max_examples=100)
@given(texts())
def test_exactly_specific_texts_documents_and_copies_link(one):
    count = len(one.group)
    pairs = np.array([(u, v) for u in range(count) for v in range(u) if linked(one, u, v)], np.int64).reshape(-1, 2)
    expected = components(count, [(pairs[:, 0], pairs[:, 1])])
    assert splits.component_of(one.group, one.keys(), one.links()).tolist() == expected.tolist()


@few_are_common
@settings(max_examples=100)
@given(texts(), st.sampled_from([splits.LARGE_SHARE, NO_LARGE]))
def test_nothing_specific_that_is_held_out_is_in_training(one, large_share):
    split, sides = one.assign(large_share=large_share).split, one.specific()
    pairs = np.array([(u, v) for u in range(len(split)) for v in range(u) if any(s[u] == s[v] for s, _ in sides)], np.int64).reshape(-1, 2)
    leak = splits.leak(split, splits.Shared(one.group, one.keys(), sides[0][1], sides[1][1], pairs))
    assert leak.pop("held_out") == (split > 0).sum() and not any(leak.values())
    assert not any(split[u] and not split[v] for u in range(len(split)) for v in range(len(split)) if linked(one, u, v))


@few_are_common
@settings(max_examples=100)
@given(texts(), st.data())
def test_added_texts_move_others_only_by_a_link_or_by_becoming_common(one, data):
    count = len(one.group)
    old = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1), min_size=1))))
    part = one.chosen(old)
    first = part.assign(large_share=NO_LARGE)
    earlier = Earlier.from_report(first.reassigned, lambda: old.astype(np.uint64))
    after = one.assign(large_share=NO_LARGE, earlier=earlier)
    component = splits.component_of(one.group, one.keys(), one.links())
    before = splits.component_of(part.group, part.keys(), part.links())
    new = np.setdiff1d(np.arange(count), old)
    linked_to_new = np.isin(component[old], component[new])
    divided = np.array([len(set(component[old][before == own].tolist())) > 1 for own in before])  # a text that linked it has become common
    alone = Rows(one.group, one.keys(), np.empty((0, 2), np.int64), one.keys(), np.zeros(count, np.int32))
    alone.component_of = lambda: component
    needed = alone_in_split(after, alone)[old]
    stays = ~linked_to_new & ~divided & ~needed
    assert (after.split[old] == first.split)[stays].all()
    assert (after.split[old] >= first.split)[~divided].all(), "only a text that becomes common takes a record out of its split"


@given(st.lists(st.integers(split_minimums.LABEL_COMPONENTS, 120), min_size=2, max_size=12), st.integers(0, 10**6))
def test_every_label_is_in_every_split_within_four_standard_deviations(counts, name):
    label = np.repeat(np.arange(len(counts)), counts)
    group = splits.mix(np.arange(len(label), dtype=np.uint64) + np.uint64(name * 10**4))
    one = Texts(group, np.arange(len(label)) * 6, label * 2, np.zeros(len(label), bool), label)
    split = one.assign(validation_share=0.08, test_share=0.08).split
    outside = 0
    for number, count in enumerate(counts):
        shares = np.bincount(split[label == number], minlength=3) / count
        assert (shares > 0).all() and (shares[0] >= 0.4 or count < 20)
        outside += (np.abs(shares[1:] - 0.08) > 4 * (0.08 * 0.92 / count) ** 0.5 + 1 / count).sum()
    assert outside <= 1, "small binomials have tails"


def test_labels_of_a_few_components_are_filled_like_domains() -> None:
    assert in_domain([0] * 5, [50, 10, 40, 20, 30], share=0.08, labels=(0,)) == [0, 2, 0, 1, 0]
    assert in_domain([0] * 5, [50, 10, 40, 20, 30], share=0.08) == [0] * 5, "a domain needs one expected component"
    assert in_domain([0] * 4, [50, 10, 40, 20], share=0.08, labels=(0,)) == [0] * 4


@pytest.mark.parametrize("seed", range(3))
def test_documents_of_one_size_are_not_large_and_each_label_is_in_every_split(seed: int) -> None:
    """Three labels with ten documents of one label each, twenty records a document."""
    number = np.arange(600)
    label, domain = number // 200, np.zeros(600, np.int32)
    done = splits.assign(number.astype(np.uint64) // 20, number.astype(np.uint64), [], domain, 0.08, 0.08, seed, label=label)
    assert done.large_components == 0 and (splits.by_domain(done.split, label) > 0).all()
