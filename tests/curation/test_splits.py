"""Splits: nothing straddles, order is irrelevant, added records move nobody but by the stated rule, and the leak is measured."""

from dataclasses import dataclass

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

NO_LARGE = 1.0  # large_share that switches the rule for large knots off


@dataclass
class Rows:
    """Columns as assign takes them."""

    group: np.ndarray
    answer: np.ndarray
    pairs: np.ndarray
    key: np.ndarray
    domain: np.ndarray

    @classmethod
    def of(cls, records: list[tuple[int, int, int]], near: list[tuple[int, int]]) -> "Rows":
        """From (group, answer, domain) per record and near-duplicate pairs of record numbers."""
        table = np.array(records, np.uint64).reshape(-1, 3)
        pairs = np.array(near, np.int64).reshape(-1, 2)
        return cls(
            table[:, 0], table[:, 1] + np.uint64(1000), pairs, np.arange(len(records), dtype=np.uint64), table[:, 2].astype(np.int32)
        )

    def assign(self, validation=0.2, test=0.2, seed=42, **options) -> splits.Assignment:
        return splits.assign(self.group, self.answer, self.pairs, self.key, self.domain, validation, test, seed, **options)

    def chosen(self, order: np.ndarray) -> "Rows":
        """The records at `order`, in that order, with the pairs among them."""
        place = np.full(len(self.group), -1)
        place[order] = np.arange(len(order))
        pairs = place[self.pairs]
        return Rows(self.group[order], self.answer[order], pairs[(pairs >= 0).all(axis=1)], self.key[order], self.domain[order])

    def remembered(self, done: splits.Assignment) -> Earlier:
        """What a run folder would remember of an assignment of these records."""
        return Earlier.said(done.appointed, lambda: self.key)

    def knots(self) -> np.ndarray:
        return splits.knots(self.group, self.answer, self.pairs, self.key)


def stood_in(done: splits.Assignment, rows: Rows) -> np.ndarray:
    """The records of knots that were appointed and have a split to themselves: without them nothing would be in it."""
    knot, appointed = rows.knots(), rows.remembered(done).held(rows.group)
    alone = np.zeros(len(knot), bool)
    for split in (1, 2):
        holders = np.unique(knot[done.split == split])
        if len(holders) == 1 and (appointed[knot == holders] == split).any():
            alone |= knot == holders
    return alone


@st.composite
def rows(draw) -> Rows:
    count = draw(st.integers(1, 60))
    record = st.tuples(st.integers(0, 25), st.integers(0, 60), st.integers(0, 3))
    number = st.integers(0, count - 1)
    records = draw(st.lists(record, min_size=count, max_size=count))
    return Rows.of(records, draw(st.lists(st.tuples(number, number), max_size=8)))


def spread(groups: int, each: int = 5, domains: int = 4) -> Rows:
    """Groups of `each` records, all answers different."""
    count = groups * each
    return Rows.of([(n // each, n, n // each % domains) for n in range(count)], [])


@given(st.integers(1, 40), st.lists(st.tuples(st.integers(0, 39), st.integers(0, 39)), max_size=50))
def test_components_are_those_of_scipy(count, ties):
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    u, v = (np.array([tie[k] % count for tie in ties], np.int64) for k in (0, 1))
    _, expected = connected_components(coo_array((np.ones(len(u)), (u, v)), shape=(count, count)), directed=False)
    smallest = [int(np.flatnonzero(expected == label)[0]) for label in expected]
    assert components(count, [(u[::2], v[::2]), (u[1::2], v[1::2])]).tolist() == smallest


@pytest.mark.parametrize("order", ["forward", "backward", "shuffled"])
def test_a_long_chain_is_one_component_soon(order):
    links = np.arange(100_000)
    name = {"forward": links, "backward": links[::-1], "shuffled": np.random.default_rng(0).permutation(100_000)}[order]
    assert not components(100_000, [(name[:-1], name[1:])]).any()


@given(rows(), st.sampled_from([splits.LARGE_SHARE, NO_LARGE]))
def test_nothing_straddles(rows, large_share):
    split = rows.assign(large_share=large_share).split
    for values in (rows.group, rows.answer, rows.key):
        for value in set(values.tolist()):
            assert len(set(split[values == value].tolist())) == 1
    assert (split[rows.pairs[:, 0]] == split[rows.pairs[:, 1]]).all()
    leak = splits.leak(split, rows.group, rows.answer, rows.key, rows.pairs)
    assert leak.pop("held_out") == (split > 0).sum() and not any(leak.values())


@given(rows(), st.randoms(use_true_random=False), st.sampled_from([splits.LARGE_SHARE, NO_LARGE]))
def test_order_changes_nothing(rows, random, large_share):
    order = np.array(random.sample(range(len(rows.group)), len(rows.group)))
    done, other = rows.assign(large_share=large_share), rows.chosen(order).assign(large_share=large_share)
    assert (other.split == done.split[order]).all()
    assert (other.gave_way, other.large, other.by_domain.tolist()) == (done.gave_way, done.large, done.by_domain.tolist())
    assert other.appointed == done.appointed


@settings(max_examples=200)
@given(rows(), st.data())
def test_added_records_move_nobody_but_by_the_stated_rule(rows, data):
    old = np.array(sorted(data.draw(st.sets(st.integers(0, len(rows.group) - 1), min_size=1))))
    first = rows.chosen(old).assign(large_share=NO_LARGE)
    before, earlier = first.split, rows.chosen(old).remembered(first)
    after = rows.assign(large_share=NO_LARGE, earlier=earlier)
    now, knot = after.split[old], rows.knots()
    assert (now >= before).all()  # no held-out record becomes training, no test record validation
    new = np.setdiff1d(np.arange(len(rows.group)), old)
    tied_by_new = np.isin(knot[old], knot[new])
    by_need = stood_in(after, rows)[old]  # where the whole corpus would have nothing in a split, someone known must go there
    assert (now == before)[~tied_by_new & ~by_need].all()  # otherwise, whom no new record is tied to stays
    drawn = np.maximum(splits.draw(splits.places(rows.group, 42), 0.2, 0.2), rows.remembered(after).held(rows.group))
    for record in old[now > before]:  # who gave way is tied to a group that has the place by itself
        assert drawn[knot == knot[record]].max() == after.split[record]
    assert after.gave_way == (after.split > drawn).sum()


def test_where_a_tie_takes_the_last_of_a_split_someone_known_stands_in():
    """Two documents hold validation and test; once they are tied together, one of training goes to validation, and is appointed."""
    four = Rows.of([(group, group, 0) for group in range(4)], [])
    first = four.assign()
    test, validation = (int(np.flatnonzero(first.split == split)[0]) for split in (2, 1))
    grown = Rows.of([*((group, group, 0) for group in range(4)), (test, validation, 0)], [])
    after = grown.assign(earlier=four.remembered(first))
    assert sorted(first.split.tolist()) == [0, 0, 1, 2] and sorted(after.split[:4].tolist()) == [0, 1, 2, 2]
    assert len(after.appointed["validation"]) > 0 and stood_in(after, grown).sum() >= 1


def test_a_new_record_that_ties_training_to_test_makes_training_give_way():
    drawn = splits.draw(splits.places(np.arange(100, dtype=np.uint64), 42), 0.2, 0.2)
    train, test = int(np.flatnonzero(drawn == 0)[0]), int(np.flatnonzero(drawn == 2)[0])
    apart = [(train, 1, 0), (train, 2, 0), (test, 3, 0)]
    assert Rows.of(apart, []).assign().split.tolist() == [0, 0, 2]
    tied = Rows.of([*apart, (test, 2, 0)], []).assign()
    assert tied.split.tolist() == [2, 2, 2, 2] and tied.gave_way == 2


def test_a_growing_corpus_keeps_its_splits():
    whole = spread(2000)
    before, after = whole.chosen(np.arange(4000)).assign(), whole.assign()
    assert (before.split == after.split[:4000]).all() and after.gave_way == 0 and after.large == 0


def test_each_domain_gets_its_share():
    """The draws are binomial: 4 standard deviations of 1,000 groups."""
    done = spread(4000).assign(validation=0.05, test=0.1)
    assert done.by_domain.sum() == 20_000 and done.by_domain.shape == (4, 3)
    for train, validation, test in done.by_domain / 5000:
        assert validation == pytest.approx(0.05, abs=4 * (0.05 * 0.95 / 1000) ** 0.5)
        assert test == pytest.approx(0.1, abs=4 * (0.1 * 0.9 / 1000) ** 0.5)
        assert train > 0.8


def documents(count: int, name: int, each: int = 3, domains: int = 1) -> Rows:
    """`count` documents with hashes of their own for each name."""
    rows = spread(count, each, domains)
    rows.group = splits.mix(rows.group + np.uint64(name * 10**6))
    return rows


@given(st.integers(30, 100), st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 5))
def test_a_small_corpus_gets_all_three_splits(count, name, each, domains):
    """Also where every document is large (more than 10 records), which draws alone leave to training as a whole."""
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
    """Four standard deviations and the one that need may appoint; of 400 domains at most one lies outside (binomials of a few have tails)."""
    domains = 400
    done = documents(count * domains, 0, 1, domains).assign(0.08, 0.08)
    assert (done.by_domain > 0).all()
    bound = 4 * (0.08 * 0.92 / count) ** 0.5 + 1 / count
    assert (np.abs(done.by_domain[:, 1:] / count - 0.08) > bound).sum() <= 1
    assert done.by_domain[:, 1:].sum() / done.by_domain.sum() == pytest.approx(0.16, abs=0.06 if count == 13 else 0.01)


def test_the_draws_alone_decide_where_they_leave_nothing_empty():
    done = spread(2000).assign(0.08, 0.08)
    assert (done.split == splits.draw(splits.places(spread(2000).group, 42), 0.08, 0.08)).all()
    assert done.appointed == {"seed": 42, "test": [], "validation": []}


def test_who_was_appointed_stays_although_added_documents_draw_the_place():
    rows = documents(400, 5)
    drawn = splits.draw(splits.places(rows.group, 42), 0.08, 0.08)
    small, held_out = rows.chosen(np.flatnonzero(drawn == 0)[:60]), rows.chosen(np.flatnonzero(drawn > 0))
    first = small.assign(0.08, 0.08)
    assert len(first.appointed["test"]) == len(first.appointed["validation"]) == 1  # 20 documents that all drew training
    grown = Rows(
        *(np.concatenate([getattr(small, name), getattr(held_out, name)]) for name in ("group", "answer", "pairs", "key", "domain"))
    )
    again = grown.assign(0.08, 0.08, earlier=small.remembered(first))
    assert (again.split[:60] == first.split).all() and again.appointed == first.appointed
    forgotten = grown.assign(0.08, 0.08)  # another run folder: the draws alone
    assert not forgotten.split[:60].any() and not forgotten.appointed["test"]


def test_a_known_document_is_not_appointed_when_its_domain_grows_enough_to_ask_for_one():
    rows = documents(400, 5, 1)
    training = rows.chosen(np.flatnonzero(splits.draw(splits.places(rows.group, 42), 0.08, 0.08) == 0)[:14])
    training.domain[:] = 1
    rest = rows.chosen(np.flatnonzero(splits.draw(splits.places(rows.group, 42), 0.08, 0.08) >= 0)[200:])  # domain 0 has every split
    whole = Rows(
        *(np.concatenate([getattr(training, name), getattr(rest, name)]) for name in ("group", "answer", "pairs", "key", "domain"))
    )
    old = np.setdiff1d(np.arange(len(whole.group)), [0, 1])  # twelve documents of domain 1: too few for a test document
    before = whole.chosen(old).assign(0.08, 0.08)
    assert not before.by_domain[1, 1:].any()
    after = whole.assign(0.08, 0.08, earlier=whole.chosen(old).remembered(before))
    assert (after.split[old] == before.split).all() and set(after.split[:2].tolist()) == {1, 2}  # the new ones are


def test_what_is_remembered_is_what_the_folder_says(tmp_path):
    assert Earlier.of(tmp_path, 42).appointed == {} and not len(Earlier.of(tmp_path, 42).keys)
    said = split_minimums.report(np.array([7, 7, 9, 3], np.uint64), np.array([2, 2, 1, 0], np.uint8), 42)
    assert said == {"seed": 42, "test": [f"{7:016x}"], "validation": [f"{9:016x}"]}
    files.write_json(tmp_path / "report.json", {"appointed": said})
    pq.write_table(pa.table({"record_id": [f"{key:016x}" for key in (1, 2**64 - 1)]}), tmp_path / "records.parquet")
    earlier = Earlier.of(tmp_path, 42)
    assert earlier.held(np.array([3, 7, 9], np.uint64)).tolist() == [0, 2, 1] and earlier.keys.tolist() == [1, 2**64 - 1]
    assert Earlier.of(tmp_path, 43).appointed == {}  # another seed draws anew


def test_seeds_draw_differently():
    rows = spread(1000)
    assert 0.4 < (rows.assign(seed=1).split == rows.assign(seed=2).split).mean() < 0.6  # 0.6² + 0.2² + 0.2² by chance


def test_a_large_knot_goes_to_training_and_is_counted():
    rows = spread(400)
    rows.answer[rows.group < 100] = 7  # an answer that a quarter of all groups share: some of them surely drew test
    done = rows.assign()
    assert not done.split[rows.group < 100].any()
    assert (done.large, done.large_knots) == (500, 1)
    assert done.split[rows.group >= 100].any()
    assert rows.assign(large_share=NO_LARGE).split[rows.group < 100].min() == 2


def test_the_limit_of_large_knots_moves_only_when_the_corpus_doubles():
    assert len({splits.large_limit(records) for records in range(2048, 4096)}) == 1
    assert splits.large_limit(4096) == 2 * splits.large_limit(4095) == pytest.approx(0.02 * 4096)


def test_duplicates_tie_but_are_not_counted():
    drawn = splits.draw(splits.places(np.arange(100, dtype=np.uint64), 42), 0.2, 0.2)
    train, test = int(np.flatnonzero(drawn == 0)[0]), int(np.flatnonzero(drawn == 2)[0])
    rows = Rows.of([(train, 1, 0), (train, 2, 1), (test, 1, 0)], [])
    done = rows.assign(kept=np.array([True, True, False]))  # the test record is dropped as a copy of the first
    assert done.split.tolist() == [2, 2, 2]  # its content stays held out nevertheless
    assert done.gave_way == 2 and done.by_domain.tolist() == [[0, 0, 1], [0, 0, 1]]


def test_small_knots_of_a_small_corpus_may_be_held_out():
    assert set(spread(20).assign().split.tolist()) == {0, 1, 2}


@pytest.mark.parametrize("shares", [(-0.1, 0.1), (0.5, 0.5), (0.0, 1.0)])
def test_shares_that_leave_no_training_are_refused(shares):
    with pytest.raises(ValueError, match="below 1"):
        spread(3).assign(*shares)


def test_nothing_in_nothing_out():
    done = Rows.of([], []).assign()
    assert len(done.split) == 0 and done.by_domain.sum() == 0


@given(rows(), st.data())
def test_the_leak_is_what_sets_say_for_any_split(rows, data):
    count = len(rows.group)
    split = np.array(data.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count)), np.uint8)
    rows.key = rows.answer % np.uint64(30)
    train, held_out = np.flatnonzero(split == 0).tolist(), np.flatnonzero(split).tolist()
    expected = {"held_out": len(held_out)}
    for name, values in (("exact", rows.key), ("answer", rows.answer), ("document", rows.group)):
        expected[name] = sum(values[n] in {values[t] for t in train} for n in held_out)
    near = {frozenset(pair) for pair in rows.pairs.tolist()}
    expected["near"] = sum(any(frozenset((n, t)) in near for t in train) for n in held_out)
    assert splits.leak(split, rows.group, rows.answer, rows.key, rows.pairs) == expected


def test_a_random_split_leaks_what_chance_predicts():
    count = 20_000
    pairs = np.arange(count).reshape(-1, 2)  # everyone has one near-duplicate: it stands in training with a chance of 0.8
    own = np.arange(count, dtype=np.uint64)
    leak = splits.random_leak(own // np.uint64(2), own, own // np.uint64(4), pairs, seed=1)
    assert leak["held_out"] == 4000 and leak["answer"] == 0
    assert leak["near"] / 4000 == pytest.approx(0.8, abs=0.02) and leak["near"] == leak["document"]
    assert leak["exact"] / 4000 == pytest.approx(1 - 0.2**3, abs=0.01)
    assert leak == splits.random_leak(own // np.uint64(2), own, own // np.uint64(4), pairs, seed=1)
