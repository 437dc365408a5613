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
    assert rejections.parameters_of("not_json") == () and rejections.explained("not_json").startswith("not_json (no parameter decides")
    assert "most_repeated_pattern: 0 switches it off" in rejections.explained("placeholder_text")


def test_only_more_than_a_tenth_is_large_all_files_first_and_then_the_largest() -> None:
    counts = {
        ("a.jsonl", ""): 79,
        ("a.jsonl", "boilerplate"): 10,
        ("a.jsonl", "answer_too_short"): 11,
        ("b.jsonl", ""): 100,
        ("b.jsonl", "unknown_shape"): 500,
        ("b.jsonl", "excluded_by_hand"): 400,
    }
    found = rejections.large(counts)
    assert [(one["source"], one["reason"], one["rejected"], one["rows"]) for one in found] == [
        ("all files", "unknown_shape", 500, 1100),
        ("b.jsonl", "unknown_shape", 500, 1000),
        ("a.jsonl", "answer_too_short", 11, 100),
    ]
    assert found[2]["parameters"] == ["shortest_answer", "answer_too_short"]
    assert rejections.large({}) == [] == rejections.large({("a.jsonl", "x"): 1, ("a.jsonl", ""): 9})


@pytest.mark.parametrize(("reason", "says"), [("mostly_html", "mostly_html and html_share"), ("nul_bytes", "no parameter decides this")])
def test_the_sentence_says_how_many_and_what_decides(reason: str, says: str) -> None:
    (sentence,) = rejections.sentences(rejections.large({("a.jsonl", reason): 1500, ("a.jsonl", ""): 1500}))
    assert sentence.startswith("a.jsonl: 1,500 of 3,000 rows (50%) are rejected as ") and says in sentence
