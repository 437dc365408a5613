"""Near-duplicates against brute force, at the threshold itself, in any batches and order, and in bounded memory."""

import itertools
import random
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_lib.curation import minhash, near_duplicates, similarity, verified_pairs
from mistral_lib.curation.connected_components import components
from mistral_lib.curation.near_duplicates import NearDuplicates, clusters, first_occurrence
from mistral_lib.curation.verified_pairs import VerifiedPairs

WORDS = [f"word{number}" for number in range(3000)]


def family(rng: random.Random, members: int, words: int, most_edits: int) -> list[str]:
    """A text and copies of it with 0 to most_edits words changed; each ends with a word of its own, so that no two are equal."""
    base = rng.choices(WORDS, k=words)
    texts = []
    for _ in range(members):
        copy = list(base)
        for _ in range(rng.randint(0, most_edits)):
            copy[rng.randrange(words)] = rng.choice(WORDS)
        texts.append(" ".join([*copy, f"end{rng.random()}"]))
    return texts


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    """2,000 distinct texts: 300 families of 2 to 7, the rest alone."""
    rng = random.Random(7)
    texts = [text for _ in range(300) for text in family(rng, rng.randint(2, 7), rng.randint(30, 150), 4)]
    texts += [" ".join(rng.choices(WORDS, k=rng.randint(8, 120))) for _ in range(2000 - len(texts))]
    rng.shuffle(texts)
    return texts


def search(folder, texts: list[str], batch: int = 500, **options) -> tuple[np.ndarray, np.ndarray]:
    """(pairs, clusters) of texts added in batches."""
    near = NearDuplicates(folder, **options)
    for start in range(0, len(texts), batch):
        near.append(minhash.sign(texts[start : start + batch], near.threshold, 42))

    def text_of(positions):
        assert list(positions) == sorted(set(positions))
        return [texts[position] for position in positions]

    return near.pairs(text_of), clusters_of(near)


def clusters_of(near: NearDuplicates) -> np.ndarray:
    """The clusters of records that are one text each, after `pairs`."""
    return clusters([near.component_of()], [near.exact()], near.agree)


def brute_force(texts: list[str], threshold: float) -> set[tuple[int, int]]:
    """All pairs that reach the threshold, computed from shared shingles independently of the library."""
    import re

    grams = []
    for text in texts:
        words = re.findall(r"\w+", text.lower())
        grams.append({" ".join(words[k : k + 5]) for k in range(len(words) - 4)})
    holders: dict[str, list[int]] = {}
    for number, own in enumerate(grams):
        for gram in own:
            holders.setdefault(gram, []).append(number)
    met = {pair for own in holders.values() for pair in combinations(own, 2)}
    return {(i, j) for i, j in met if len(grams[i] & grams[j]) / len(grams[i] | grams[j]) >= threshold}


def test_first_occurrences_are_those_found_with_a_dictionary():
    keys = np.random.default_rng(0).integers(0, 300, 1000).astype(np.uint64) * np.uint64(2**55)
    first: dict[int, int] = {}
    assert first_occurrence(keys).tolist() == [first.setdefault(int(key), at) for at, key in enumerate(keys)]
    assert first_occurrence(np.empty(0, np.uint64)).tolist() == []


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9, 1.0])
def test_banding_proposes_99_percent_at_the_threshold_with_as_many_rows_as_possible(threshold):
    def recall(bands, rows):
        return 1 - (1 - threshold**rows) ** bands

    bands, rows = minhash.bands_and_rows(threshold)
    assert recall(bands, rows) >= 0.99 and bands * rows <= minhash.PERMUTATIONS
    assert rows == minhash.PERMUTATIONS or recall(minhash.PERMUTATIONS // (rows + 1), rows + 1) < 0.99


@pytest.mark.parametrize("threshold", [0, 0.01, 1.01])
def test_an_unsupported_threshold_is_refused(tmp_path, threshold):
    with pytest.raises(ValueError, match="threshold"):
        NearDuplicates(tmp_path, threshold)


def test_signature_values_agree_as_often_as_shingles_are_shared():
    rng = random.Random(3)
    texts = [text for _ in range(300) for text in family(rng, 2, 60, 3)]
    _, words, word = minhash.fold(texts)
    values = minhash._minhash(minhash.shingle_hashes(word, words)[0], words - 4, 42)
    grams = [similarity.shingles(text) for text in texts]
    true = [similarity.jaccard(a, b) for a, b in zip(grams[::2], grams[1::2], strict=True)]
    assert (values[::2] == values[1::2]).mean() == pytest.approx(np.mean(true), abs=0.01)
    assert ((values[::2] & 1) == (values[1::2] & 1)).mean() == pytest.approx((1 + np.mean(true)) / 2, abs=0.01)


@pytest.mark.parametrize("threshold", [0.6, 0.8])
def test_pairs_are_those_of_brute_force(tmp_path, corpus, threshold):
    expected = brute_force(corpus, threshold)
    pairs, _ = search(tmp_path, corpus, threshold=threshold)
    assert len(expected) > 500
    assert {tuple(pair) for pair in pairs.tolist()} == expected  # recall 1 and precision 1


def test_each_cluster_member_reaches_the_threshold_with_its_representative(tmp_path, corpus):
    expected = brute_force(corpus, 0.8)
    _, leader = search(tmp_path, corpus)
    members = np.flatnonzero(leader != np.arange(len(corpus)))
    assert {(int(leader[m]), int(m)) for m in members} <= expected
    assert (leader[leader] == leader).all()
    alone = {int(m) for m in np.flatnonzero(leader == np.arange(len(corpus)))}
    assert not {(i, j) for i, j in expected if i in alone and j in alone}  # no two representatives are near each other


def ends_differ(words: int, tag: str) -> list[str]:
    """Two texts whose Jaccard similarity is (words - 5) / (words - 3)."""
    shared = " ".join(f"{tag}x{number}" for number in range(words - 1))
    return [f"{shared} one", f"{shared} other"]


def test_a_pair_at_the_threshold_is_near_and_one_just_below_is_not(tmp_path):
    at = [text for tag in range(200) for text in ends_differ(13, f"at{tag}")]  # 8 / 10
    below = [text for tag in range(200) for text in ends_differ(12, f"below{tag}")]  # 7 / 9
    pairs, _ = search(tmp_path, at + below)
    assert all(j == i + 1 and i < len(at) for i, j in pairs.tolist())
    assert len(pairs) >= 0.98 * 200
    words = np.full(800, 13, np.int32)
    exact = VerifiedPairs(lambda positions: [(at + below)[p] for p in positions], words, np.zeros((800, 2), np.uint64), 0.8)
    even = np.arange(0, 800, 2)
    assert exact.check(even, even + 1).tolist() == [True] * 200 + [False] * 200


def test_a_chain_is_linked_but_only_checked_pairs_are_merged(tmp_path):
    words = [f"c{number}" for number in range(60)]
    a, b, c = (" ".join(words[start : start + 54]) for start in (0, 3, 6))  # neighbors share 47 of 53 shingles, the ends 44 of 56
    pairs, leader = search(tmp_path, [a, b, c])
    assert pairs.tolist() == [[0, 1], [1, 2]]
    assert leader.tolist() == [0, 0, 2]


def test_folding_and_short_texts(tmp_path):
    long = "One two three four five, six; seven."
    texts = [
        "Yes.",
        "yes",
        "yes no",
        long,
        "one TWO\nthree four five six seven",
        "👍",
        "👎",
        "👍 ",
        "",
        "one two three four",
        long + " eight",
    ]
    pairs, leader = search(tmp_path, texts)
    assert leader.tolist() == [0, 1, 2, 3, 3, 5, 6, 5, 8, 9, 10], "a text of few words is compared as it is"
    assert pairs.tolist() == [[3, 4], [5, 7]]


def test_short_texts_are_never_fetched(tmp_path):
    near = NearDuplicates(tmp_path)
    near.append(minhash.sign([f"answer {number}" for number in range(500)] + ["answer 7"], near.threshold, 42))
    assert near.pairs(pytest.fail).tolist() == [[7, 500]]


def test_the_order_of_words_counts():
    signed = minhash.sign(["a b c d e", "e d c b a"], 0.8, 42)
    assert not (signed.bands[0] == signed.bands[1]).any()


TEXTS = st.lists(st.text(st.sampled_from(" \n.-_aBcÄé0ß字句のไท한\u0301\ud800") | st.characters(), max_size=40), max_size=6)


@given(TEXTS)
def test_the_fast_way_finds_the_words_of_the_slow_one(texts):
    """Words and shingles are equal exactly if their hashes are; whatever the scripts."""
    exact, counts, word = minhash.fold(texts)
    words = [similarity.folded_words(text) for text in texts]
    assert counts.tolist() == list(map(len, words)) and len(exact) == len(texts)
    hash_of: dict[str, int] = {}
    assert all(hash_of.setdefault(one, at) == at for one, at in zip((one for own in words for one in own), word.tolist(), strict=True))
    assert len(set(hash_of.values())) == len(hash_of)
    hashes, text = minhash.shingle_hashes(word, counts)
    for number, one in enumerate(texts):
        assert len(set(hashes[text == number].tolist())) == len(similarity.shingles(one))
        alone, _, _ = minhash.fold([one])
        assert alone[0] == exact[number], "a text's hash depends on nothing but the text"


def test_words_longer_than_a_piece_and_texts_across_pieces_are_hashed_alike(monkeypatch):
    texts = [" ".join(WORDS[:200]), "x" * 500, f"{'y' * 300} {' '.join(WORDS[:9])}", ""]
    expected = [one.tolist() for one in minhash.fold(texts)]
    for piece in (7, 64, 299, 300, 1000):
        monkeypatch.setattr(minhash, "PIECE", piece)
        assert [one.tolist() for one in minhash.fold(texts)] == expected


@pytest.mark.parametrize(
    "text",
    [
        "這個程式庫的文件說明如何訓練一個語言模型並且評估它",
        "このライブラリの文書は言語モデルの訓練方法を説明します",
        "คู่มือนี้อธิบายวิธีการฝึกแบบจำลองภาษาและการประเมินผล",
    ],
)
def test_texts_without_blanks_have_shingles(tmp_path, text):
    """A long text with its last letters changed is a near-duplicate; another text in the same script is none."""
    texts = [text * 3 + "甲", text * 3 + "乙", text[::-1] * 3]
    assert len(similarity.shingles(text)) == len(set(zip(*(text[k:] for k in range(5)), strict=False)))
    pairs, leader = search(tmp_path, texts)
    assert pairs.tolist() == [[0, 1]] and leader.tolist() == [0, 0, 2]


def test_batches_change_nothing(tmp_path, corpus):
    results = [search(tmp_path / str(batch), corpus, batch) for batch in (7, 2000)]
    for pairs, leader in results[1:]:
        assert np.array_equal(pairs, results[0][0]) and np.array_equal(leader, results[0][1])


def components_of_texts(texts, pairs) -> set[frozenset[str]]:
    members: dict[int, set[str]] = {}
    for text, first in zip(texts, components(len(texts), [(pairs[:, 0], pairs[:, 1])]).tolist(), strict=True):
        members.setdefault(first, set()).add(text)
    return {frozenset(own) for own in members.values()}


def test_order_changes_no_component_even_in_large_buckets(tmp_path):
    rng = random.Random(11)
    texts = [text for _ in range(2) for text in family(rng, 300, 80, 2)]  # members reach the threshold with some of the others
    texts += texts[:50]  # and equal copies
    results = []
    for turn in range(3):
        pairs, _ = search(tmp_path / str(turn), texts)
        results.append(components_of_texts(texts, pairs))
        rng.shuffle(texts)
    assert max(map(len, results[0])) > 60
    assert results[0] == results[1] == results[2]


def test_a_large_family_is_one_cluster_without_comparing_all_pairs(tmp_path):
    texts = family(random.Random(5), 3000, 120, 0)
    near = NearDuplicates(tmp_path)
    near.append(minhash.sign(texts, near.threshold, 42))
    fetched = 0

    def text_of(positions):
        nonlocal fetched
        fetched += len(positions)
        return [texts[position] for position in positions]

    near.pairs(text_of)
    assert (clusters_of(near) == 0).all()
    assert fetched < 3 * len(texts)  # all pairs would be 4.5 million


def test_a_search_starts_empty_and_accepts_no_texts_afterwards(tmp_path):
    search(tmp_path, ["one two three four five six"] * 2)
    near = NearDuplicates(tmp_path)
    near.append(minhash.sign(["one two three four five six"], near.threshold, 42))
    assert near.pairs(lambda positions: []).shape == (0, 2)
    with pytest.raises(ValueError, match="after the search"):
        near.append(minhash.sign(["seven"], near.threshold, 42))
    empty = NearDuplicates(tmp_path / "empty")
    assert empty.pairs(lambda positions: []).tolist() == [] and clusters_of(empty).tolist() == []


def pairs_of(arrays) -> list[tuple[int, int]]:
    """The pairs that `_all_pairs` yields, sorted."""
    return sorted(pair for u, v in arrays for pair in zip(u.tolist(), v.tolist(), strict=True))


def test_all_pairs_of_buckets_of_up_to_eight_texts_are_verified():
    members = np.arange(2 + 8 + 9 + 3) * 10
    expected = [*combinations(members[:2], 2), *combinations(members[2:10], 2), *combinations(members[19:], 2)]
    assert pairs_of(near_duplicates._all_pairs(members, np.array([2, 8, 9, 3]))) == sorted((int(a), int(b)) for a, b in expected)


class Families:
    """In place of VerifiedPairs: texts are near each other if they are of one family. Keeps the pairs that were asked for."""

    def __init__(self, family: list[int]) -> None:
        self.family, self.asked, self.links = np.array(family), [], (np.empty(0, np.int64), np.empty(0, np.int64))

    def check(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        near = self.family[u] == self.family[v]
        self.asked.append(list(zip(u.tolist(), v.tolist(), strict=True)))
        self.links = tuple(np.concatenate([old, new[near]]) for old, new in zip(self.links, (u, v), strict=True))
        return near

    def component_of(self) -> np.ndarray:
        return components(len(self.family), [self.links])


def test_a_large_bucket_of_two_families_has_a_leader_for_each():
    """Members that are linked to the first leader wait for no second one."""
    verified = Families([0, 1, 0, 1, 1, 0, 1, 0, 0, 1])
    near_duplicates._link_to_leaders(np.arange(10), np.array([10]), verified)
    assert verified.asked[0] == [(0, other) for other in range(1, 10)], "everybody against the first"
    assert sorted(verified.asked[1]) == [(1, other) for other in (0, 2, 3, 4, 5, 6, 7, 8, 9) if other != 1]
    assert len(verified.asked) == 2
    assert verified.component_of().tolist() == [0, 1, 0, 1, 1, 0, 1, 0, 0, 1]


def test_a_large_bucket_has_eight_leaders_and_each_bucket_its_own():
    """Three buckets: the first and the last are of one family each, so they are done after one round."""
    verified = Families([50] * 9 + [n // 2 for n in range(20)] + [60] * 9)
    near_duplicates._link_to_leaders(np.arange(38), np.array([9, 20, 9]), verified)
    linked = np.flatnonzero(verified.component_of() != np.arange(38)).tolist()
    assert linked == [*range(1, 9), *range(10, 26, 2), *range(30, 38)], "the ninth and tenth family of the second bucket have no leader"
    assert len(verified.asked) == 8
    bucket = [0] * 9 + [1] * 20 + [2] * 9
    assert not any(bucket[u] != bucket[v] for asked in verified.asked for u, v in asked), "no pair is of two buckets"


def test_a_bucket_of_eight_is_compared_completely_and_one_of_nine_only_with_leaders():
    """Whole searches cannot show it: in some band a text of nine may stand apart, which leaves a bucket of eight."""
    pairs = [
        (int(one), int(other))
        for ones, others in near_duplicates._all_pairs(np.arange(19), np.array([8, 9, 2]))
        for one, other in zip(ones, others, strict=True)
    ]
    assert sorted(pairs) == [*itertools.combinations(range(8), 2), (17, 18)]


def test_a_cluster_has_eight_leaders_too(tmp_path):
    words = [f"c{number}" for number in range(120)]
    chain = [" ".join(words[3 * n : 3 * n + 54]) for n in range(20)]  # only neighbors share 47 of 53 shingles
    pairs, leader = search(tmp_path, chain)
    assert pairs.tolist() == [[n, n + 1] for n in range(19)]
    assert leader.tolist() == [*(n // 2 * 2 for n in range(16)), 16, 17, 18, 19]


def test_a_text_of_five_words_can_be_a_near_duplicate_and_one_of_four_cannot(tmp_path):
    texts = ["one two three four five", "one two three four five six", "one two three four", "one two three four seven"]
    assert search(tmp_path, texts, threshold=0.5)[0].tolist() == [[0, 1]]


def test_words_are_counted_before_and_after_a_search_and_forgotten_with_the_files(tmp_path):
    near = NearDuplicates(tmp_path / "new" / "near")
    near.append(minhash.sign(["one two", "", "three"], near.threshold, 42))
    assert near.words().tolist() == [2, 0, 1] and near.first_equal().tolist() == [0, 1, 2]
    near.pairs(lambda positions: [])
    assert near.words().tolist() == [2, 0, 1]
    near.forget()
    near.forget()
    assert not (tmp_path / "new" / "near").exists() and all(file.closed for file in near._files.values())
    with pytest.raises(FileNotFoundError):
        near.pairs(lambda positions: [])


def test_a_search_happens_once(tmp_path):
    near, fetched = NearDuplicates(tmp_path), []
    texts = [f"{' '.join(WORDS[:40])} {end}" for end in ("one", "two", "three")]
    near.append(minhash.sign(texts, near.threshold, 42))

    def text_of(positions):
        fetched.append(list(positions))
        return [texts[position] for position in positions]

    first = near.pairs(text_of)
    count = len(fetched)
    assert near.pairs(pytest.fail) is first and first.tolist() == [[0, 1], [0, 2], [1, 2]] and count > 0
    assert clusters_of(near).tolist() == [0, 0, 0] and len(fetched) == count


# -- verified pairs -------------------------------------------------------------------------------------------------------


def verifier(texts: list[str], threshold: float = 0.8, sketch: np.ndarray | None = None) -> tuple[VerifiedPairs, list[list[int]]]:
    """A VerifiedPairs of these texts, and the positions that it fetches, call after call."""
    fetched: list[list[int]] = []

    def text_of(positions):
        fetched.append(list(positions))
        return [texts[position] for position in positions]

    words = np.array([len(text.split()) for text in texts], np.int32)
    return VerifiedPairs(text_of, words, np.zeros((len(texts), 2), np.uint64) if sketch is None else sketch, threshold), fetched


def test_a_pair_is_verified_once_whatever_its_order_and_result():
    texts = [text for tag in range(2) for text in ends_differ(13, f"at{tag}")]
    verified, fetched = verifier(texts)
    assert verified.check(np.array([1, 3, 0]), np.array([0, 2, 2])).tolist() == [True, True, False]
    assert [part.tolist() for part in verified.accepted()] == [[0, 2], [1, 3]] and fetched == [[0, 1, 2, 3]]
    assert verified.check(np.array([2, 0, 2]), np.array([0, 1, 3])).tolist() == [False, True, True] and len(fetched) == 1
    assert verified.component_of().tolist() == [0, 0, 2, 2]
    assert verified.check(np.array([3]), np.array([1])).tolist() == [False] and fetched[1:] == [[1, 3]]
    assert verified.component_of() is verified.component_of(), "nothing was accepted since"
    assert verified.check(np.empty(0, np.int64), np.empty(0, np.int64)).tolist() == []


def test_components_follow_pairs_that_are_accepted_later():
    texts = [" ".join([*(f"w{n}" for n in range(60)), end]) for end in ("one", "two", "three")]
    verified, _ = verifier(texts)
    verified.check(np.array([0]), np.array([1]))
    assert verified.component_of().tolist() == [0, 0, 2]
    verified.check(np.array([1]), np.array([2]))
    assert verified.component_of().tolist() == [0, 0, 0]


def test_texts_are_fetched_in_batches_of_bounded_words(monkeypatch):
    monkeypatch.setattr(verified_pairs, "WORDS_AT_ONCE", 50)
    texts = [" ".join(f"t{number}x{word}" for word in range(12)) for number in range(12)]  # 24 words a pair
    verified, fetched = verifier(texts)
    pairs = np.arange(0, 12, 2), np.arange(1, 12, 2)
    assert not verified.check(*pairs).any()
    assert fetched == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]  # 24 48 | 72 96 | 120 144 words


def test_pairs_whose_sketches_differ_too_much_are_refused_unread():
    least = minhash.least_agreement(0.8)
    text = " ".join(f"w{n}" for n in range(30))
    sketch = np.zeros((3, 128), np.uint8)
    sketch[1, : 128 - least] = 1  # agrees with the first in exactly as many bits as needed
    sketch[2, : 128 - least + 1] = 1  # in one less
    texts = [f"{text} one", f"{text} two", f"{text} three"]
    verified, fetched = verifier(texts, sketch=np.packbits(sketch, axis=1).view(np.uint64))
    assert verified.check(np.array([0, 0]), np.array([1, 2])).tolist() == [True, False] and fetched == [[0, 1]]
    verified.forget_sketches()
    assert verified.check(np.array([0]), np.array([2])).tolist() == [True], "it was not remembered as refused"


MEMORY = """
import resource, sys
from pathlib import Path
import numpy as np
from mistral_lib.curation import minhash, near_duplicates, splits
def text(i):
    return " ".join(f"w{(i - i % 16 // 15) * 7919 % 1000003 + k * k}" for k in range(12)) + (" x" if i % 16 == 15 else "")
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
texts_of = lambda positions: [text(i) for i in positions]
def run(n):
    near = near_duplicates.NearDuplicates(Path(sys.argv[1]))
    for start in range(0, n, 1000):
        near.append(minhash.sign(texts_of(range(start, start + 1000)), 0.8, 42))
    near.pairs(texts_of)
    leader = near_duplicates.clusters([near.component_of()], [near.exact()], near.agree)
    ids = np.arange(n, dtype=np.uint64)
    splits.assign(ids // np.uint64(3), ids, [near.component_of(), leader], np.zeros(n, np.int32), 0.05, 0.05, 42)
    return int((leader != np.arange(n)).sum())
run(10_000)
before = peak()
found = run(200_000)
print(found, (peak() - before) * 1024 / 190_000)
"""


def test_memory_is_bounded_per_record(tmp_path):
    done = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120)
    found, growth = done.stdout.split()
    assert int(found) == 200_000 // 16
    assert float(growth) < 120, f"{growth} bytes of peak memory per further record"
