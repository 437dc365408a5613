"""When each rule passes, fails or is unknown, and the verdict that follows from the rules."""

from dataclasses import asdict

import pytest

from mistral_lib.display.votes import preference
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
        "documents": 40,
        "documents_better": 31,
        "largest_share": 0.05,
        "without_largest": {"difference": difference, "low": low, "high": high},
        "holm_p": None,
        **more,
    }


GOOD = {
    "largest_logit_difference": 4.0,
    "overall": facts(-0.3, -0.4, -0.2),
    "domains": {"a": facts(-0.2, -0.3, -0.1, holm_p=0.01), "b": facts(0.01, -0.1, 0.1, holm_p=0.8)},
    "prompt_worth": {"base": 0.4, "adapter": 0.45, "difference": 0.05, "low": -0.01, "high": 0.1},
    "retention": {"overall": facts(0.005, -0.002, 0.01)},
    "own_retention": None,
    "answers": {"answers": 40, "base": {"stop_rate": share([True] * 40)}, "adapter": {"stop_rate": share([True] * 40)}},
    "votes": {"adapter": 0, "base": 0, "share": None, "low": None, "high": None},
}  # fmt: skip


def stopped(*ended: bool) -> dict:
    """The answers' figures if the base model ended half of them."""
    return {
        "answers": len(ended),
        "base": {"stop_rate": share([n % 2 == 0 for n in range(len(ended))])},
        "adapter": {"stop_rate": share(ended)},
    }


def voted(adapter: int, base: int) -> dict:
    return asdict(preference([{"preferred": who, "choice": "left"} for who in ["adapter"] * adapter + ["base"] * base]))


def labels(base: tuple[float, float | None, float | None], majority: tuple[float, float | None, float | None], records: int = 120) -> dict:
    """The adapter's accuracy of 90 % against base model and majority: (difference, low, high) each."""
    one, two = (dict(zip(("difference", "low", "high"), values, strict=True)) for values in (base, majority))
    way = {"base": {"accuracy": 0.9 - base[0]}, "adapter": {"accuracy": 0.9}, "difference": one, "over_majority": two}
    return {"records": records, "of": 150, "majority_accuracy": 0.9 - majority[0], "likelihood": way}


BETTER, EVEN, WORSE, FEW = (0.2, 0.1, 0.3), (0.0, -0.1, 0.1), (-0.2, -0.3, -0.1), (0.2, None, None)


def judged(**changes: object) -> tuple[str, dict[str, str]]:
    found = verdict.rules({**GOOD, **changes}, Settings())
    return verdict.decide(found), {one["rule"]: one["outcome"] for one in found}


def test_if_all_rules_pass_the_verdict_is_ship() -> None:
    assert judged() == ("ship", dict.fromkeys(judged()[1], "passed"))


@pytest.mark.parametrize(
    ("changes", "rule", "outcome", "word"),
    [
        ({"largest_logit_difference": 0.0}, "adapter is active", "unknown", "not enough evidence"),
        ({"labels": labels(BETTER, BETTER)}, "labels better", "passed", "ship"),
        ({"labels": labels(EVEN, BETTER)}, "labels better", "unknown", "not enough evidence"),
        ({"labels": labels(BETTER, EVEN)}, "labels better", "unknown", "not enough evidence"),
        ({"labels": labels(WORSE, BETTER)}, "labels better", "failed", "do not ship"),
        ({"labels": labels(BETTER, WORSE)}, "labels better", "failed", "do not ship"),
        ({"labels": labels(EVEN, WORSE)}, "labels better", "failed", "do not ship"),
        ({"labels": labels(FEW, FEW)}, "labels better", "unknown", "not enough evidence"),
        ({"labels": {"records": 0, "of": 7}}, "labels better", "unknown", "not enough evidence"),
        ({"overall": facts(-0.3, -0.7, 0.1)}, "better overall", "unknown", "not enough evidence"),
        ({"overall": facts(-0.3, None, None)}, "better overall", "unknown", "not enough evidence"),
        ({"overall": facts(0.3, 0.1, 0.5)}, "better overall", "failed", "do not ship"),
        ({"domains": {"a": facts(0.2, 0.1, 0.3, holm_p=0.01)}}, "no domain worse", "failed", "do not ship"),
        ({"domains": {"a": facts(0.2, None, None)}}, "no domain worse", "unknown", "not enough evidence"),
        ({"prompt_worth": {**GOOD["prompt_worth"], "difference": -0.1, "low": -0.2, "high": -0.05}}, "prompts still count", "failed", "do not ship"),
        ({"prompt_worth": {**GOOD["prompt_worth"], "difference": -0.1, "low": -0.2, "high": 0.05}}, "prompts still count", "unknown", "not enough evidence"),
        ({"prompt_worth": None}, "prompts still count", "unknown", "not enough evidence"),
        ({"retention": {"overall": facts(0.25, 0.21, 0.3)}}, "little forgotten", "failed", "do not ship"),
        ({"retention": {"overall": facts(0.25, 0.2, 0.3)}}, "little forgotten", "unknown", "not enough evidence"),
        ({"retention": {"overall": facts(0.05, None, None)}}, "little forgotten", "unknown", "not enough evidence"),
        ({"retention": None}, "little forgotten", "unknown", "not enough evidence"),
        ({"own_retention": {"overall": facts(0.25, 0.21, 0.3)}}, "own texts kept", "failed", "do not ship"),
        ({"own_retention": {"overall": facts(0.0, -0.1, 0.1)}}, "own texts kept", "passed", "ship"),
        ({"answers": stopped(*[True] * 20, *[False] * 20)}, "answers stop", "failed", "do not ship"),
        ({"answers": stopped(*[True] * 4)}, "answers stop", "unknown", "not enough evidence"),
        ({"answers": stopped(*[True] * 4, *[False] * 6)}, "answers stop", "unknown", "not enough evidence"),
        ({"answers": stopped(*[True] * 37, *[False] * 3)}, "answers stop", "unknown", "not enough evidence"),
        ({"answers": {"answers": 0}}, "answers stop", "unknown", "not enough evidence"),
        ({"votes": voted(5, 5)}, "preferred in a blind vote", "passed", "ship"),
        ({"votes": voted(4, 6)}, "preferred in a blind vote", "unknown", "not enough evidence"),
        ({"votes": voted(1, 11)}, "preferred in a blind vote", "failed", "do not ship"),
    ],
)  # fmt: skip
def test_one_rule_decides(changes: dict, rule: str, outcome: str, word: str) -> None:
    found, outcomes = judged(**changes)
    assert (found, outcomes.pop(rule)) == (word, outcome) and set(outcomes.values()) == {"passed"}


@pytest.mark.parametrize(("answers", "threshold"), [(5, 0.8), (10, 0.9), (20, 0.95), (100, 0.99), (2, 0.5), (1, 0.0)])
def test_a_sample_must_be_large_enough_for_one_answer_that_does_not_stop(answers: int, threshold: float) -> None:
    outcomes = []
    for count in (answers, answers - 1):
        outcomes.append(verdict.stopping(stopped(*[True] * count), threshold)["outcome"] if count else "unknown")
    assert outcomes == ["passed", "unknown"] and verdict.fewest(threshold) == answers


def test_answers_are_shown_beside_those_of_the_base_model() -> None:
    assert verdict.stopping(stopped(*[True] * 17, *[False] * 3), 0.95)["number"] == "17 of 20 (62% to 97%); base model 10 of 20"
    few = verdict.stopping(stopped(*[True] * 4, *[False] * 6), 0.95)
    assert few["number"].endswith("base model 5 of 10; at least 20 answers are needed")


def test_the_verdict_says_what_hangs_on_one_document() -> None:
    assert verdict.overall(facts(-0.3, -0.4, -0.2))["number"] == "-0.300 nats per token (-0.400 to -0.200), better on 31 of 40 documents"
    heavy = verdict.overall(facts(-0.3, -0.4, -0.2, largest_share=0.4))
    assert heavy["number"].endswith("; one document holds 40% of the tokens, without it -0.300 (-0.400 to -0.200)")
    alone = verdict.overall(facts(-0.3, -0.4, -0.2, without_largest={"difference": -0.1, "low": -0.3, "high": 0.1}))
    assert alone["outcome"] == "passed" and alone["number"].endswith("holds 5% of the tokens, without it -0.100 (-0.300 to +0.100)")


def test_labels_are_a_rule_only_if_there_are_label_domains_and_it_gives_all_numbers() -> None:
    assert "labels better" not in judged(labels=None)[1] and "labels better" not in judged()[1]
    assert verdict.labels(labels(BETTER, (0.4, 0.3, 0.5)))["number"] == (
        "70.0% → 90.0%, +20.0 points (+10.0 to +30.0); always the most frequent label 50.0%, +40.0 points (+30.0 to +50.0)"
    )
    assert "+20.0 points (too few documents for an interval)" in verdict.labels(labels(FEW, FEW))["number"]
    assert verdict.labels({"records": 0, "of": 7})["number"] == "not measured: none of 7 test records is suitable"


def test_nine_votes_are_no_rule() -> None:
    assert "preferred in a blind vote" not in judged(votes=voted(9, 0))[1] and "preferred in a blind vote" in judged(votes=voted(9, 1))[1]


def test_a_measurement_that_was_switched_off_is_named_and_never_passes() -> None:
    """Eight steps without answers were once said to pass all rules."""
    result = {**GOOD, "retention": None, "prompt_worth": None, "answers": {"answers": 0}}
    result["rules"] = verdict.rules(result, Settings(sample_count=0, general_prompts=0, retention_paths=[]))
    result["verdict"] = verdict.decide(result["rules"])
    sentence = verdict.sentence(result)
    assert result["verdict"] == "not enough evidence"
    assert all(f"“{name}” — not measured" in sentence for name in ("little forgotten", "answers stop", "prompts still count"))


def test_a_failed_rule_does_not_hide_what_was_not_measured() -> None:
    result = {**GOOD, "retention": None, "overall": facts(0.3, 0.1, 0.5)}
    result["rules"] = verdict.rules(result, Settings())
    result["verdict"] = verdict.decide(result["rules"])
    sentence = verdict.sentence(result)
    assert sentence.startswith("do not ship: failed “better overall”") and "unknown “little forgotten” — not measured" in sentence


@pytest.mark.parametrize(("active", "word"), [(0.0, "not enough evidence"), (4.0, "do not ship")])
def test_the_order_of_the_rules_does_not_matter(active: float, word: str) -> None:
    """An adapter that changes nothing gives not enough evidence, even if another rule failed."""
    found = verdict.rules({**GOOD, "largest_logit_difference": active, "overall": facts(0.3, 0.1, 0.5)}, Settings())
    orders = [found[start:] + found[:start] for start in range(len(found))]
    assert {verdict.decide(order) for order in orders} == {word}


def test_the_thresholds_are_those_of_the_params() -> None:
    found = verdict.rules(GOOD, Settings(max_retention_loss=0.009))
    assert [one["outcome"] for one in found if one["rule"] == "little forgotten"] == ["unknown"]


def test_the_sentence_names_the_rule_that_stopped_it() -> None:
    result = {**GOOD, "retention": {"overall": facts(0.25, 0.22, 0.3)}}
    result["rules"] = verdict.rules(result, Settings())
    result["verdict"] = verdict.decide(result["rules"])
    result["sentence"] = verdict.sentence(result)
    assert result["sentence"].startswith(
        "do not ship: failed “little forgotten” — +0.250 nats per token (+0.220 to +0.300), required interval at most +0.200."
    )
    verdict.require_ship(result, Settings())
    with pytest.raises(verdict.NotToShipError, match="do not ship"):
        verdict.require_ship(result, Settings(require_ship=True))
    verdict.require_ship({**result, "verdict": "ship"}, Settings(require_ship=True))


@pytest.mark.parametrize(
    ("changes", "rule", "outcome"),
    [
        ({"largest_logit_difference": 1e-6}, "adapter is active", "passed"),
        ({"labels": labels((0.1, 0.0, 0.2), BETTER)}, "labels better", "unknown"),
        ({"labels": labels((-0.1, -0.2, 0.0), BETTER)}, "labels better", "unknown"),
        ({"overall": facts(-0.3, -0.4, 0.0)}, "better overall", "unknown"),
        ({"overall": facts(0.3, 0.0, 0.5)}, "better overall", "unknown"),
        ({"domains": {"a": facts(0.0, None, None)}}, "no domain worse", "passed"),
        ({"domains": {"a": facts(0.2, 0.1, 0.3, holm_p=0.05)}}, "no domain worse", "passed"),
        ({"domains": {"a": facts(-0.2, -0.3, -0.1, holm_p=0.01)}}, "no domain worse", "passed"),
        ({"domains": {"a": facts(0.2, 0.1, 0.3, holm_p=0.01), "b": facts(0.2, None, None)}}, "no domain worse", "failed"),
        ({"prompt_worth": {**GOOD["prompt_worth"], "difference": 0.0, "low": -0.1, "high": 0.1}}, "prompts still count", "passed"),
        ({"prompt_worth": {**GOOD["prompt_worth"], "difference": -0.1, "low": -0.2, "high": 0.0}}, "prompts still count", "unknown"),
        ({"prompt_worth": {**GOOD["prompt_worth"], "difference": 0.1, "low": None, "high": None}}, "prompts still count", "unknown"),
        ({"retention": {"overall": facts(0.05, 0.0, 0.2)}}, "little forgotten", "passed"),
        ({"own_retention": {"overall": facts(0.05, 0.0, 0.2)}}, "own texts kept", "passed"),
        ({"votes": {"adapter": 4, "base": 6, "share": 0.4, "low": 0.1, "high": 0.5}}, "preferred in a blind vote", "unknown"),
        ({"votes": {"adapter": 9, "base": 1, "share": 0.9, "low": 0.6, "high": 1.0}}, "preferred in a blind vote", "passed"),
    ],
)
def test_outcomes_exactly_at_a_threshold(changes: dict, rule: str, outcome: str) -> None:
    assert judged(**changes)[1][rule] == outcome


def test_a_share_of_answers_exactly_at_the_threshold_passes_and_an_interval_that_reaches_it_does_not_fail() -> None:
    rates = {"count": 36, "of": 40, "share": 0.9, "low": 0.77, "high": 0.96}
    answers = {"answers": 40, "base": {"stop_rate": rates}, "adapter": {"stop_rate": rates}}
    assert [verdict.stopping(answers, threshold)["outcome"] for threshold in (0.9, 0.91, 0.96, 0.97)] == [
        "passed", "unknown", "unknown", "failed"]  # fmt: skip
    assert [verdict.fewest(threshold) for threshold in (0.0, 0.5, 0.9, 0.95, 0.999)] == [1, 2, 10, 20, 1000]


def test_the_longest_document_is_named_from_a_fifth_of_the_tokens_or_if_it_decides() -> None:
    def said(**more: object) -> bool:
        return "one document holds" in verdict.overall(facts(-0.3, -0.4, -0.2, **more))["number"]

    assert said(largest_share=0.2) and not said(largest_share=0.19)
    assert not said(largest_share=0.9, without_largest=None), "there is no other document"
    assert said(without_largest={"difference": 0.1, "low": 0.05, "high": 0.2})
    assert said(without_largest={"difference": -0.1, "low": None, "high": None})
    assert not said(without_largest={"difference": -0.1, "low": -0.2, "high": -0.05})


def test_each_rule_has_its_question_number_and_threshold() -> None:
    result = {**GOOD, "own_retention": {"overall": facts(0.02, None, None)}, "votes": voted(8, 4),
              "domains": {"a": facts(0.2, 0.1, 0.3, holm_p=0.01), "b": facts(0.1, None, None), "c": facts(0.3, 0.1, 0.4, holm_p=0.02),
                          "d": facts(-0.1, None, None), "e": facts(0.2, None, None)}}  # fmt: skip
    low, high = result["votes"]["low"], result["votes"]["high"]
    assert [(one["rule"], one["question"], one["number"], one["threshold"]) for one in verdict.rules(result, Settings(min_stop_rate=0.9, max_retention_loss=0.1))] == [
        ("adapter is active", "Do logits differ when it is switched on?", "largest difference 4", "above 0"),
        ("better overall", "Is held-out text predicted better?",
         "-0.300 nats per token (-0.400 to -0.200), better on 31 of 40 documents", "interval below 0"),
        ("no domain worse", "Did a domain get worse, beyond chance?",
         "2 of 5 worse: a, c; higher loss, too few documents to judge: b, e", "0, Holm-corrected at 5 %"),
        ("prompts still count", "Is the right prompt worth as much as to the base model?",
         "0.400 → 0.450 nats per token, +0.050 (-0.010 to +0.100)", "no less"),
        ("little forgotten", "Is text of other kinds predicted as well as before?",
         "+0.005 nats per token (-0.002 to +0.010)", "interval at most +0.100"),
        ("own texts kept", "Is text of other kinds predicted as well as before?",
         "+0.020 nats per token (too few documents for an interval)", "interval at most +0.100"),
        ("answers stop", "Do answers end by themselves?", "40 of 40 (91% to 100%); base model 40 of 40", "at least 90.0%"),
        ("preferred in a blind vote", "Do people prefer the adapter's answers?", f"8 of 12 votes ({low:.0%} to {high:.0%})", "at least half"),
    ]  # fmt: skip


def test_the_sentence_has_the_numbers_and_counts_the_domains_that_got_better() -> None:
    result = {**GOOD, "rules": verdict.rules(GOOD, Settings()), "verdict": "ship"}
    assert verdict.sentence(result) == (
        "ship: all 6 rules passed. 3.000 → 2.700 nats per supervised token, -0.300 (-0.400 to -0.200), on 40 held-out test records; "
        "lower in 1 of 2 domains."
    )
    level = {**result, "domains": {"a": facts(0.0, None, None)}}
    assert verdict.sentence(level).endswith("lower in 0 of 1 domains.")
    found = [verdict.rule("x", "?", "1 of 2", "2", "unknown"), verdict.rule("y", "?", "3", "4", "failed"),
             verdict.rule("z", "?", "5", "6", "failed"), verdict.rule("w", "?", "7", "8", "passed")]  # fmt: skip
    assert verdict.because(found, "do not ship") == (": failed “y” — 3, required 4; “z” — 5, required 6; unknown “x” — 1 of 2, required 2")
