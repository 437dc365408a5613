"""The tables of notebook 04, from made-up results: every number is that of the result, and what was not measured is said."""

import numpy as np

from mistral_lib.evaluation import label_accuracy, result_tables
from mistral_lib.run.settings import Settings


def facts(difference: float, low: float | None = None, high: float | None = None, **more: object) -> dict:
    return {
        "records": 5,
        "documents": 4,
        "base": 3.0,
        "adapter": 3.0 + difference,
        "difference": difference,
        "low": low,
        "high": high,
        **more,
    }


RESULT = {
    "domains": {"red": facts(-0.25, holm_p=None, detectable=None), "blue": facts(-0.5, -0.75, -0.25, holm_p=0.03, detectable=0.4)},
    "overall": facts(-0.4, -0.5, -0.3),
    "prompt_worth": {"base": 0.34, "adapter": 0.35, "records": 14},
    "retention": {"overall": facts(0.02, 0.01, 0.03)},
    "own_retention": None,
    "memorization": {
        "domains": {"red": {"train": -0.5, "test": -0.25, "gap": -0.25, "low": None, "high": None}},
        "overall": {"train": -0.45, "test": -0.4, "gap": -0.05, "low": -0.1, "high": 0.0},
        "copied": {"base": {"count": 0}, "adapter": {"count": 2}},
    },
    "answers": {
        "answers": 4,
        **{who: {"stop_rate": {"count": n, "of": 4}, "chrf": 24.26, "length_ratio": 0.875, "repetition": 0.09} for who, n in (("base", 1), ("adapter", 3))},
    },
    "rules": [{"rule": "answers stop", "question": "?", "number": "3 of 4", "threshold": "at least 95.0%", "outcome": "unknown"}],
}  # fmt: skip


def test_domains_and_gaps_have_their_numbers_and_a_dash_where_there_is_none() -> None:
    table = result_tables.domains(RESULT)
    assert list(table.index) == ["red", "blue", "all"] and table.loc["red", "low"] == "–" and table.loc["all", "holm_p"] == "–"
    assert (table.loc["blue", "difference"], table.loc["blue", "low"], table.loc["blue", "records"]) == (-0.5, -0.75, 5)
    gaps = result_tables.memorization(RESULT)
    assert gaps.loc["red"].to_list() == [-0.5, -0.25, -0.25, "–", "–"] and gaps.loc["all", "gap"] == -0.05


def test_a_line_gives_what_was_measured_or_why_it_was_not() -> None:
    assert "saves 0.34 nats per token in the base model, 0.35 with the adapter (14 records)" in result_tables.prompt_worth(RESULT)
    assert "not measured" in result_tables.prompt_worth({"prompt_worth": None})
    [line] = result_tables.forgetting(RESULT, Settings()).splitlines()
    assert line.startswith("retention: 5 records, 3.000 → 3.020 nats per token, +0.020")
    both = result_tables.forgetting({**RESULT, "own_retention": RESULT["retention"]}, Settings())
    assert [line.split(":")[0] for line in both.splitlines()] == ["retention", "own_retention"]
    assert "not measured" in result_tables.forgetting({"retention": None, "own_retention": None}, Settings())


def test_labels_are_shown_by_domain_and_one_by_one_or_it_says_that_there_are_none() -> None:
    label, change = np.array([0, 0, 0, 1]), {"difference": 0.5, "low": 0.25, "high": 0.75}
    way = {
        who: label_accuracy.scores(label, np.array(answer), ["good", "bad"])
        for who, answer in (("base", [1, 1, 0, 2]), ("adapter", [0, 0, 0, 2]))
    }
    facts = {"records": 4, "documents": 3, "majority_accuracy": 0.75, "majority_label": "good",
             **{name: {**way, "difference": change, "over_majority": change} for name in label_accuracy.WAYS}}  # fmt: skip
    result = {"labels": {"records": 4, "of": 9, "left_out": {"answer is no label": 5}, "domains": {"reviews": facts}}}
    first, second = result_tables.labels(result).rows
    assert (first["domain"], second["domain"]) == ("reviews, most likely label", "reviews, greedy answer")
    assert (first["base"], first["adapter"], first["difference"]) == ("25.0%", "75.0%", "+50.0 points (+25.0 to +75.0)")
    assert first["always the most frequent label"] == "75.0% (“good”)"
    good, bad = result_tables.labels_one_by_one(result).rows
    assert good == {"label": "reviews: good", "records": 3, "precision": "1.00 → 1.00", "recall": "0.33 → 1.00", "f1": "0.50 → 1.00"}
    assert bad["f1"] == "0.00 → 0.00"
    assert (
        result_tables.label_records(result) == "labels measured on 4 of 9 test records of label domains; not measured: 5 answer is no label"
    )
    none = {"labels": None}
    assert result_tables.labels(none).plain == result_tables.labels_one_by_one(none).plain == result_tables.label_records(none)
    assert result_tables.label_records(none).startswith("no label domains")


def test_answers_are_compared_and_shown() -> None:
    table = result_tables.answers(RESULT)
    assert table["adapter"].to_list() == ["3 of 4", 24.3, 0.88, "9%", 2] and table["base"]["ended by itself"] == "1 of 4"
    assert result_tables.answers({**RESULT, "answers": {"answers": 0}}).startswith("no answers")
    sample = {"domain": "red", "prompt": [{"role": "user", "content": "Why? " * 90}], "base": "a", "adapter": "b", "reference": "c"}
    shown = result_tables.samples([sample] * 9).rows
    assert len(shown) == 5 and shown[0] == {"prompt": f"red: {('Why? ' * 90)[:200]}", "base": "a", "adapter": "b", "reference": "c"}
    assert result_tables.rules(RESULT).rows == [
        {"rule": "answers stop", "outcome": "unknown", "number": "3 of 4", "required": "at least 95.0%"}
    ]


def test_the_test_split_is_counted_and_shown() -> None:
    chat = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "It is red."}]
    test = [
        {"domain": "red", "source_group": "one", "source": "red.jsonl:1", "messages": chat, "text": None},
        {"domain": "notes", "source_group": "two", "source": "n.txt", "messages": None, "text": "A plain note."},
    ]
    lines = result_tables.held_out(test, Settings(max_test_tokens=1024, max_tokens=512)).splitlines()
    assert lines[0] == "2 test records in 2 domains, 2 documents" and lines[1].startswith("measured: at most 1,024 tokens")
    assert "measured: all tokens" in result_tables.held_out(test, Settings(max_test_tokens=0))
    assert result_tables.examples(test).rows == [
        {"record": "n.txt", "prompt": "(a plain document)", "to be predicted": "A plain note."},
        {"record": "red.jsonl:1", "prompt": "What is it?", "to be predicted": "It is red."},
    ]
