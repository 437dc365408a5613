"""The advice at the report's head names what would help: never a limit that is not set, never a measurement that was complete."""

from typing import Any

import pytest

from mistral_lib.evaluation import summary, verdict
from mistral_lib.run.settings import Settings
from mistral_lib.training import workload


def actions(rules: dict[str, str], steps: int = 200, votes: int = 20, **changes: Any) -> list[str]:
    result = {
        "rules": [{"rule": rule, "outcome": outcome} for rule, outcome in rules.items()], "overall": {"records": 23},
        "test_records_in_split": 23, "votes": {"adapter": votes, "base": 0},
    }  # fmt: skip
    settings = Settings(base_model="mistralai/Mistral-7B-Instruct-v0.3", micro_batch_size=2, gradient_accumulation_steps=4, **changes)
    return summary.next_actions(settings, result, {"steps": steps, "stopped_by": None}, {"blocks": {"train": 80}})


@pytest.mark.parametrize("rule", ["labels better", "better overall", "no domain worse", "prompts still count", "own texts kept"])
def test_a_limit_is_named_only_if_it_is_set(rule: str) -> None:
    limits = {"max_test_tokens": 4096, "max_label_records": 50, "max_probe_tokens": 2048}
    limited = actions({rule: verdict.UNKNOWN}, **limits)[0]
    free = actions({rule: verdict.UNKNOWN}, **dict.fromkeys(limits, 0))[0]
    assert sum(f"{name}: 0" in limited for name in limits) == 1 and not any(f"{name}: 0" in free for name in limits)
    assert "larger test_share, or add data" in free or "more files in retention_paths" in free


def test_few_steps_are_said_even_after_a_whole_pass() -> None:
    few, enough = actions({}, steps=12), actions({}, steps=workload.FEW_STEPS)
    assert few[0].startswith("Train longer (max_steps: 0, more epochs), or on more data: below some 50 steps, here 12")
    assert not any("Train longer" in action for action in enough)
    assert actions({}, steps=9)[0] == "Train longer: 9 of about 10 steps that one pass takes (max_steps: 0 trains for `epochs` passes)."


def test_at_most_three_actions_the_failed_rule_first() -> None:
    found = actions({"labels better": verdict.UNKNOWN, "answers stop": verdict.FAILED}, steps=12, votes=0)
    assert len(found) == summary.SHOWN and found[0].startswith("Look at answers that do not end") and found[1].startswith("Train longer")
