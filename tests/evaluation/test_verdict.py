"""When each rule passes, fails or is unknown, and the verdict that follows from the rules."""

import pytest

from mistral_lib.evaluation import verdict
from mistral_lib.evaluation.answer_metrics import share
from mistral_lib.run.settings import Settings


def facts(difference: float, low: float | None, high: float | None, **more: object) -> dict:
    return {
        "base": 3.0,
        "adapter": 3.0 + difference,
        "difference": difference,
        "low": low,
        "high": high,
        "records": 40,
        "holm_p": None,
        **more,
    }


GOOD = {
    "largest_logit_difference": 4.0,
    "overall": facts(-0.3, -0.4, -0.2),
    "domains": {"a": facts(-0.2, -0.3, -0.1, holm_p=0.01), "b": facts(0.01, -0.1, 0.1, holm_p=0.8)},
    "prompt_worth": {"base": 0.4, "adapter": 0.45, "difference": 0.05, "low": -0.01, "high": 0.1},
    "retention": {"change": {"value": 0.005, "low": -0.002, "high": 0.01}},
    "answers": {"answers": 40, "adapter": {"stop_rate": share([True] * 40)}},
}  # fmt: skip


def judged(**changes: object) -> tuple[str, dict[str, str]]:
    found = verdict.rules({**GOOD, **changes}, Settings())
    return verdict.decide(found), {one["rule"]: one["outcome"] for one in found}


def test_if_all_rules_pass_the_verdict_is_ship() -> None:
    assert judged() == ("ship", dict.fromkeys(judged()[1], "passed"))


@pytest.mark.parametrize(
    ("changes", "rule", "outcome", "word"),
    [
        ({"largest_logit_difference": 0.0}, "adapter is active", "unknown", "not enough evidence"),
        ({"overall": facts(-0.3, -0.7, 0.1)}, "better overall", "unknown", "not enough evidence"),
        ({"overall": facts(-0.3, None, None)}, "better overall", "unknown", "not enough evidence"),
        ({"overall": facts(0.3, 0.1, 0.5)}, "better overall", "failed", "do not ship"),
        ({"domains": {"a": facts(0.2, 0.1, 0.3, holm_p=0.01)}}, "no domain worse", "failed", "do not ship"),
        ({"domains": {"a": facts(0.2, None, None)}}, "no domain worse", "unknown", "not enough evidence"),
        ({"prompt_worth": {**GOOD["prompt_worth"], "difference": -0.1, "low": -0.2, "high": -0.05}}, "prompts still count", "failed", "do not ship"),
        ({"prompt_worth": {**GOOD["prompt_worth"], "difference": -0.1, "low": -0.2, "high": 0.05}}, "prompts still count", "unknown", "not enough evidence"),
        ({"retention": {"change": {"value": 0.05, "low": 0.03, "high": 0.07}}}, "little forgotten", "failed", "do not ship"),
        ({"retention": {"change": {"value": 0.01, "low": 0.0, "high": 0.03}}}, "little forgotten", "unknown", "not enough evidence"),
        ({"answers": {"answers": 40, "adapter": {"stop_rate": share([True] * 20 + [False] * 20)}}}, "answers stop", "failed", "do not ship"),
        ({"answers": {"answers": 4, "adapter": {"stop_rate": share([True] * 4)}}}, "answers stop", "unknown", "not enough evidence"),
        ({"answers": {"answers": 40, "adapter": {"stop_rate": share([True] * 37 + [False] * 3)}}}, "answers stop", "unknown", "not enough evidence"),
        ({"answers": {"answers": 0}}, "answers stop", "unknown", "not enough evidence"),
    ],
)  # fmt: skip
def test_one_rule_decides(changes: dict, rule: str, outcome: str, word: str) -> None:
    found, outcomes = judged(**changes)
    assert (found, outcomes.pop(rule)) == (word, outcome) and set(outcomes.values()) == {"passed"}


@pytest.mark.parametrize(("answers", "threshold"), [(5, 0.8), (10, 0.9), (20, 0.95), (100, 0.99), (2, 0.5), (1, 0.0)])
def test_a_sample_must_be_large_enough_for_one_answer_that_does_not_stop(answers: int, threshold: float) -> None:
    outcomes = []
    for count in (answers, answers - 1):
        found = {"answers": count, "adapter": {"stop_rate": share([True] * count)}}
        outcomes.append(verdict.stopping(found, threshold)["outcome"])
    assert outcomes == ["passed", "unknown"]


def test_what_was_not_measured_is_not_judged() -> None:
    found = verdict.rules(
        {**GOOD, "retention": None, "prompt_worth": None, "answers": {"answers": 0}}, Settings(sample_count=0, retention_paths=[])
    )
    assert [one["rule"] for one in found] == ["adapter is active", "better overall", "no domain worse"] and verdict.decide(found) == "ship"


@pytest.mark.parametrize(("active", "word"), [(0.0, "not enough evidence"), (4.0, "do not ship")])
def test_the_order_of_the_rules_does_not_matter(active: float, word: str) -> None:
    """An adapter that changes nothing gives not enough evidence, even if another rule failed."""
    found = verdict.rules({**GOOD, "largest_logit_difference": active, "overall": facts(0.3, 0.1, 0.5)}, Settings())
    orders = [found[start:] + found[:start] for start in range(len(found))]
    assert {verdict.decide(order) for order in orders} == {word}


def test_the_thresholds_are_those_of_the_params() -> None:
    found = verdict.rules(GOOD, Settings(max_retention_loss=0.001))
    assert [one["outcome"] for one in found if one["rule"] == "little forgotten"] == ["unknown"]


def test_the_sentence_names_the_rule_that_stopped_it() -> None:
    result = {**GOOD, "retention": {"change": {"value": 0.05, "low": 0.03, "high": 0.07}}}
    result["rules"] = verdict.rules(result, Settings())
    result["verdict"] = verdict.decide(result["rules"])
    result["sentence"] = verdict.sentence(result)
    assert result["sentence"].startswith(
        "do not ship: failed “little forgotten” — +5.0% loss (+3.0% to +7.0%), required interval at most +2.0%."
    )
    verdict.require_ship(result, Settings())
    with pytest.raises(verdict.NotToShip, match="do not ship"):
        verdict.require_ship(result, Settings(require_ship=True))
    verdict.require_ship({**result, "verdict": "ship"}, Settings(require_ship=True))
