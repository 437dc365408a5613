"""Which parameter decides a rejection, and which reasons take more than a tenth of a source."""

import pytest

from mistral_lib.curation import rejections
from mistral_lib.curation.checks import Checks
from mistral_lib.run.settings import CHECKS, Settings


def test_every_check_names_a_parameter_and_every_named_parameter_exists() -> None:
    checks = Checks(Settings(**{name: "reject" for name in CHECKS if name not in ("normalized", "unescaped_newlines")}))
    reasons = [
        *(name for name, _ in checks.judges),
        "secrets",
        "personal_data",
        "control_strings",
        "placeholder_text",
        "redacted_answer",
        "objective_is_answers",
    ]
    for reason in [*reasons, *rejections.DECIDED_BY]:
        named = rejections.parameters_of(reason)
        assert named and set(named) <= set(Settings.names()), reason
        assert all(name in rejections.explained(reason) for name in named)
    assert rejections.parameters_of("not_json") == () and rejections.explained("not_json") == "not_json"
    assert "most_repeated_pattern: 0 switches it off" in rejections.explained("placeholder_text")


def test_only_more_than_a_tenth_is_large_and_the_largest_comes_first() -> None:
    rows = {"a.jsonl": 100, "b.jsonl": 1000}
    counts = {
        ("a.jsonl", "boilerplate"): 10,
        ("a.jsonl", "answer_too_short"): 11,
        ("b.jsonl", "unknown_shape"): 500,
        ("b.jsonl", "excluded_by_hand"): 400,
    }
    found = rejections.large(counts, rows)
    assert [(one["source"], one["reason"]) for one in found] == [("b.jsonl", "unknown_shape"), ("a.jsonl", "answer_too_short")]
    assert found[1] == {
        "source": "a.jsonl",
        "reason": "answer_too_short",
        "rejected": 11,
        "rows": 100,
        "parameters": ["shortest_answer", "answer_too_short"],
    }
    assert rejections.large({}, rows) == [] == rejections.large({("a.jsonl", "x"): 1}, {"a.jsonl": 10})


@pytest.mark.parametrize(("reason", "says"), [("mostly_html", "mostly_html and html_share"), ("nul_bytes", "no parameter decides this")])
def test_the_sentence_says_how_many_and_what_decides(reason: str, says: str) -> None:
    (sentence,) = rejections.sentences(rejections.large({("a.jsonl", reason): 1500}, {"a.jsonl": 3000}))
    assert sentence.startswith("a.jsonl: 1,500 of 3,000 rows (50%) are rejected as ") and says in sentence
