"""The training mixture: how often the windows of each domain are used, in which order, and how many of the operatives join."""

import numpy as np
import pytest

from mistral_lib.curation import mixture

DOMAINS = ("law", "tax")
# six windows of ten tokens: four of law, two of tax; by their hashes the order is 3, 1, 5, 0, 4, 2
TOKENS = np.full(6, 10, np.int32)
HASHES = np.array([40, 20, 60, 10, 50, 30], np.uint64)
DOMAIN = np.array([0, 0, 0, 0, 1, 1], np.int32)
NONE = np.zeros(6, bool)


def chosen(
    weights: dict[str, float] | None = None, operative: np.ndarray = NONE, share: float = 1.0, **changed: np.ndarray
) -> mixture.Mixture:
    columns = {"tokens": TOKENS, "hashes": HASHES, "domain": DOMAIN, **changed}
    return mixture.choose(**columns, operative=operative, domains=DOMAINS, weights=weights or {}, operatives_share=share)


def test_without_weights_every_window_is_taken_once_in_the_order_of_the_hashes() -> None:
    assert chosen().windows.tolist() == [3, 1, 5, 0, 4, 2]


@pytest.mark.parametrize(
    ("weights", "windows"),
    [
        ({"law": 0.5}, [3, 1, 5, 4]),  # the two of law with the smallest hashes
        ({"law": 2}, [3, 3, 1, 1, 5, 0, 0, 4, 2, 2]),
        ({"law": 1.25, "tax": 0.5}, [3, 3, 1, 5, 0, 2]),  # 1.25 times four windows: one of them twice
        ({"law": 0.6, "tax": 0}, [3, 1]),  # 2.4 windows are two
        ({"law": 0, "tax": 1}, [5, 4]),
        ({"law": 0, "tax": 0}, []),
    ],
)
def test_a_weight_is_the_number_of_times_that_a_domain_is_used(weights: dict[str, float], windows: list[int]) -> None:
    assert chosen(weights).windows.tolist() == windows


def test_a_domain_that_the_corpus_lacks_is_an_error_that_names_those_it_has() -> None:
    with pytest.raises(ValueError, match="domain_weights: lore, taxes is no domain of this corpus; it has law, tax"):
        chosen({"taxes": 2, "lore": 1, "law": 1})


@pytest.mark.parametrize(
    ("share", "operatives"),
    [
        (1.0, [5, 4, 2]),
        (0.5, [5, 4, 2]),  # 30 tokens of the corpus allow 30 of the operatives
        (0.49, [5, 4]),  # 30 × 0.49 / 0.51 = 28.8
        (0.25, [5]),  # 30 × 0.25 / 0.75 = 10
        (0.24, []),  # 9.5
        (0.0, []),
    ],
)
def test_operatives_have_at_most_their_share_of_the_tokens(share: float, operatives: list[int]) -> None:
    operative = np.array([False, False, True, False, True, True])
    found = chosen(operative=operative, share=share)
    assert found.operatives.tolist() == operatives
    assert found.corpus.tolist() == [3, 1, 0]
    assert found.operative.tolist() == operative[found.windows].tolist()


def test_the_share_counts_weighted_windows() -> None:
    operative = np.array([False, False, True, False, True, True])
    assert chosen({"law": 2}, operative, 0.5).operatives.tolist() == [5, 4, 2, 2]  # 60 tokens of the corpus allow 60, these are 40
    assert chosen({"law": 2}, operative, 0.25).operatives.tolist() == [5, 4]  # 60 × 0.25 / 0.75 = 20


def test_equal_hashes_stay_in_the_order_of_the_windows() -> None:
    count = 5000
    hashes, domain = np.arange(count, dtype=np.uint64) % np.uint64(3), np.zeros(count, np.int32)
    found = chosen(operative=np.zeros(count, bool), tokens=np.ones(count, np.int32), hashes=hashes, domain=domain)
    assert found.windows.tolist() == [*range(0, count, 3), *range(1, count, 3), *range(2, count, 3)]


def test_hashes_that_differ_in_the_lowest_bits_alone_are_in_order() -> None:
    assert chosen(hashes=np.uint64(2**63) + np.array([4, 2, 6, 1, 5, 3], np.uint64)).windows.tolist() == [3, 1, 5, 0, 4, 2]


def test_many_windows_are_ordered_by_hash_and_the_hashes_are_not_changed() -> None:
    random = np.random.default_rng(1)
    count = 5000
    hashes = random.permutation(np.arange(count, dtype=np.uint64)) << np.uint64(40)
    before = hashes.copy()
    everything = {"tokens": np.ones(count, np.int32), "hashes": hashes, "domain": np.arange(count, dtype=np.int32) % 2}
    found = chosen(operative=np.zeros(count, bool), **everything)
    assert hashes[found.windows].tolist() == sorted(hashes.tolist())
    assert (hashes == before).all()


def test_a_new_window_replaces_at_most_one_of_the_chosen_windows() -> None:
    """In a domain of weight 0.5, a new window replaces at most one of the chosen windows."""
    before = set(chosen({"law": 0.5}).windows.tolist())
    more = {"tokens": np.full(7, 10), "hashes": np.append(HASHES, np.uint64(5)), "domain": np.append(DOMAIN, np.int32(0))}
    after = set(chosen({"law": 0.5}, np.zeros(7, bool), **more).windows.tolist())
    assert after == {6, 3, 5, 4} and before - after == {1}


@pytest.mark.parametrize("windows", [slice(None), np.array([3, 1, 5, 5])])
def test_tokens_are_counted_by_domain(windows: np.ndarray | slice) -> None:
    expected = {"law": 40, "tax": 20} if isinstance(windows, slice) else {"law": 20, "tax": 20}
    assert mixture.tokens_by_domain(windows, TOKENS, DOMAIN, DOMAINS) == expected
    assert mixture.tokens_by_domain(np.empty(0, np.int32), TOKENS, DOMAIN, DOMAINS) == {}


def test_tokens_of_many_windows_are_counted_to_the_last_one() -> None:
    count = 200_000  # more than are counted at a time
    domain = (np.arange(count) % 4 == 0).astype(np.int32)
    assert mixture.tokens_by_domain(slice(None), np.full(count, 3), domain, DOMAINS) == {"law": 450_000, "tax": 150_000}
