"""The advice at the report's head names what would help: never a limit that is not set, never a measurement that was complete."""

from typing import Any

import pytest

from mistral_lib.evaluation import summary, verdict
from mistral_lib.run.settings import Settings
from mistral_lib.training import workload


def actions(rules: dict[str, str], steps: int = 200, votes: int = 20, left_out: dict[str, int] | None = None, **changes: Any) -> list[str]:
    result = {
        "rules": [{"rule": rule, "outcome": outcome} for rule, outcome in rules.items()], "overall": {"records": 23},
        "test_records_in_split": 23, "votes": {"adapter": votes, "base": 0}, "labels": {"left_out": left_out or {}},
    }  # fmt: skip
    settings = Settings(base_model="mistralai/Mistral-7B-Instruct-v0.3", micro_batch_size=2, gradient_accumulation_steps=4, **changes)
    return summary.next_actions(settings, result, {"steps": steps, "stopped_by": None}, {"blocks": {"train": 80}, "tokens": {"test": 5000}})


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ("labels better", ["max_label_records"]),
        ("better overall", ["max_test_tokens"]),
        ("no domain worse", ["max_test_tokens"]),
        ("prompts still count", ["max_test_tokens", "max_probe_tokens"]),
    ],
)
def test_a_limit_is_named_only_if_it_left_something_out(rule: str, named: list[str]) -> None:
    """The test split has 5,000 tokens: a limit above that, or none, left nothing out."""
    limits = {"max_test_tokens": 4096, "max_probe_tokens": 2048, "max_label_records": 50}
    limited = actions({rule: verdict.UNKNOWN}, left_out={"beyond max_label_records": 3}, **limits)[0]
    assert [name for name in limits if f"{name}: 0" in limited] == sorted(named, key=list(limits).index)
    for free in ({**limits, "max_test_tokens": 6000, "max_probe_tokens": 32768}, dict.fromkeys(limits, 0)):
        said = actions({rule: verdict.UNKNOWN}, left_out={"no_answer": 3}, **free)[0]
        assert said.startswith("Prepare with a larger test_share, or add data") and not any(name in said for name in limits)


def test_own_texts_are_few_because_of_the_limit_or_of_their_files() -> None:
    more = "Measure more of your own texts: more files in retention_paths"
    assert actions({"own texts kept": verdict.UNKNOWN}, max_probe_tokens=2048)[0] == f"{more}, and max_probe_tokens: 0."
    assert actions({"own texts kept": verdict.UNKNOWN}, max_probe_tokens=0)[0] == f"{more}."


def test_few_steps_are_said_even_after_a_whole_pass() -> None:
    few, enough = actions({}, steps=12), actions({}, steps=workload.FEW_STEPS)
    assert few[0].startswith("Train longer (max_steps: 0, more epochs), or on more data: below some 50 steps, here 12")
    assert not any("Train longer" in action for action in enough)
    assert actions({}, steps=9)[0] == "Train longer: 9 of about 10 steps that one pass takes (max_steps: 0 trains for `epochs` passes)."


def test_at_most_three_actions_the_failed_rule_first() -> None:
    found = actions({"labels better": verdict.UNKNOWN, "answers stop": verdict.FAILED}, steps=12, votes=0)
    assert len(found) == summary.SHOWN and found[0].startswith("Look at answers that do not end") and found[1].startswith("Train longer")
