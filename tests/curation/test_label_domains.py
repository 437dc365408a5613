"""Which domains are label domains, by hand and against a plain count."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_lib.curation import label_domains, minhash
from mistral_lib.curation.splits import COMMON, LONG_ANSWER

LONG = " ".join(f"word{n}" for n in range(LONG_ANSWER))
TOO_LONG = " ".join(f"word{n}" for n in range(label_domains.LONGEST_LABEL + 1))


def of_texts(domains: list[str], answers: list[str | None]) -> dict[str, dict]:
    """The label domains of rows with these answers, None for a plain document."""
    texts = [text or "" for text in answers]
    folded, words, _ = minhash.fold(texts)
    label = label_domains.label_hashes(texts, folded, words)
    return label_domains.by_name(domains, answers, label, np.where([text is None for text in answers], -1, words))


def found(answers: list[str]) -> dict[str, int] | None:
    """The labels of a single domain, None if it is no label domain."""
    return of_texts(["d"] * len(answers), answers).get("d", {}).get("labels")


@pytest.mark.parametrize(
    ("answers", "labels"),
    [
        (["yes"] * 6 + ["no"] * 4, {"yes": 6, "no": 4}),
        (["yes"] * 7 + ["no"] * 3, {"yes": 7, "no": 3}),
        (["yes"] * 8 + ["no"] * 2, None),  # two rows make no label, and then a fifth of the rows has none
        (["yes"] * 50, None),  # nothing to tell apart
        (["yes"] * 57 + ["no"] * 38 + ["I cannot say."] * 2 + ["Both.", "Neither.", "?"], {"yes": 57, "no": 38}),  # 95 of 100
        (["yes"] * 57 + ["no"] * 37 + ["I cannot say."] * 2 + ["Both.", "Neither.", "?", "!"], None),
        ([f"{LONG} a"] * (COMMON + 1) + [f"{LONG} b"] * (COMMON + 2), {f"{LONG} b": COMMON + 2, f"{LONG} a": COMMON + 1}),  # canned replies
        ([f"{LONG} a"] * COMMON + [f"{LONG} b"] * COMMON, None),  # answers that say something, each to a few questions
        ([f"{TOO_LONG} a"] * 40 + [f"{TOO_LONG} b"] * 40, None),
        ([f"name {n // 5}" for n in range(50)], {f"name {n}": 5 for n in range(10)}),
        ([f"name {n // 4}" for n in range(80)], None),  # too many for so few rows
        ([f"name {n % 200}" for n in range(2000)], {f"name {n}": 10 for n in range(200)}),
        ([f"name {n % 201}" for n in range(2010)], None),
        ([f"answer {n}" for n in range(100)], None),
        (["正面"] * 5 + ["负面"] * 5, {"正面": 5, "负面": 5}),
        (["-5"] * 5 + ["5"] * 5, {"-5": 5, "5": 5}),
        (["Yes", "yes.", "No", "no"] * 5, {"Yes": 10, "No": 10}),
        (['{"label": "a"}', '{"label":"a"}', '{"label":"b"}'] * 5, {'{"label": "a"}': 10, '{"label":"b"}': 5}),
        (
            [f"it is the language {name} here" for name in ("C", "C#", "C++")] * 5,
            {f"it is the language {name} here": 5 for name in ("C", "C#", "C++")},
        ),
    ],
)
def test_a_few_short_or_canned_answers_that_cover_nearly_all_rows_are_labels(answers: list[str], labels: dict[str, int] | None) -> None:
    assert found(answers) == labels


def test_domains_are_looked_at_one_by_one_and_the_most_frequent_label_comes_first() -> None:
    domains = ["b", "a", "c"] * 12
    answers = [("red" if n % 9 else "blue", f"free answer {n}", "yes" if n % 2 else "no")[n % 3] for n in range(36)]
    expected = {name: Counter(answer for domain, answer in zip(domains, answers, strict=True) if domain == name) for name in ("b", "c")}
    both = of_texts(domains, answers)
    assert {name: found["labels"] for name, found in both.items()} == {"b": dict(expected["b"]), "c": dict(expected["c"])}
    assert list(both["b"]["labels"]) == ["red", "blue"] and both["b"]["majority_share"] == round(expected["b"]["red"] / 12, 6)
    assert of_texts(domains[:12], [None, *answers[1:12]]) == {}, "a document has no answer"


def test_only_kept_rows_count_and_documents_are_no_labels() -> None:
    answer, words, _ = minhash.fold(["yes"] * 10 + ["no"] * 10 + ["yes", "no"])
    domain, every = np.array([0] * 20 + [1] * 2, np.int32), np.ones(22, bool)
    [one] = label_domains.find(domain, answer, words, every, every)
    assert (one.domain, one.first.tolist(), one.rows.tolist(), one.all_rows, one.majority_share) == (0, [0, 10], [10, 10], 20, 0.5)
    assert label_domains.find(domain, answer, words, np.arange(22) >= 2, every) == [], "two of twenty rows are documents"
    kept = (np.arange(22) >= 5) & (np.arange(22) != 15)
    [one] = label_domains.find(domain, answer, words, every, kept)
    assert (one.first.tolist(), one.rows.tolist(), one.all_rows) == ([10, 5], [9, 5], 14)
    label = label_domains.label_of(domain, answer, [one])
    assert label.tolist() == [5] * 10 + [10] * 10 + [-1, -1], "dropped rows have a label too, those of other domains have none"


ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 8)), max_size=120)


@given(ROWS)
def test_labels_are_those_of_a_plain_count(rows: list[tuple[int, int]]) -> None:
    domains, answers = (
        [f"d{domain}" for domain, _ in rows],
        [("yes", "no", "maybe", LONG, f"{LONG} b", "x", "y", "z", "w")[n] for _, n in rows],
    )
    expected = {}
    for name in sorted(set(domains)):
        counts = Counter(answer for domain, answer in zip(domains, answers, strict=True) if domain == name)
        labels = {a: n for a, n in counts.items() if (n >= 3 if len(a.split()) < LONG_ANSWER else n > COMMON)}
        total = sum(labels.values())
        if len(labels) >= 2 and total / len(labels) >= 5 and total >= 0.95 * sum(counts.values()):
            expected[name] = labels
    assert {name: found["labels"] for name, found in of_texts(domains, answers).items()} == expected
