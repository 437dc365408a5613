"""The verdict from numbers: what rounding, a missing adapter, another adapter, another template and a lost end token look like."""

from dataclasses import replace

import numpy as np
import pytest

from mistral_lib.export import parity_verdict
from mistral_lib.export.adapter_in_weights import Share
from mistral_lib.export.parity_verdict import Answered, Finding
from mistral_lib.export.probe import Answers, Greedy, Likelihoods, Probe, ProbeRecord

RECORDS, TOKENS = 24, 25
START, END = 1, 2


def rows(values: np.ndarray) -> list[list[float]]:
    return values.reshape(RECORDS, TOKENS).tolist()


def noise(scale: float, seed: int) -> np.ndarray:
    """Random numbers whose mean is 0."""
    found = np.random.default_rng(seed).normal(size=RECORDS * TOKENS)
    return (found - found.mean()) * scale


BASE = -np.abs(noise(2.0, 0)) - 0.5
EFFECT = 0.2 + noise(0.6, 1)  # what the adapter changes, nats per token
SHIFT = noise(0.5, 2) + 0.3  # what 16-bit instead of NF4 weights change


@pytest.fixture(scope="module")
def probe() -> Probe:
    """An adapter that was evaluated on NF4 weights, with a gain of 0.2 nats per token."""
    records = [
        ProbeRecord(f"r{n}", f"d{n}", "red", [{"role": "user", "content": f"q{n}"}], [START, 10 + n, 3], [7] * TOKENS)
        for n in range(RECORDS)
    ]
    likelihoods = {
        "nf4": Likelihoods(rows(BASE), rows(BASE + EFFECT)),
        "16bit": Likelihoods(rows(BASE + SHIFT), rows(BASE + SHIFT + EFFECT)),
    }
    ended = [Greedy([8, 9, END], True)] * 8
    answers = {"nf4": Answers(ended, ended), "16bit": Answers([], ended)}
    return Probe("run", "a" * 64, "b", "t", 0, "by seed", "nf4", 48, START, END, records, likelihoods, list(range(8)), answers)


def text(ids: list[int]) -> str:
    return " ".join(f"<{number}>" for number in ids)


def judged(probe: Probe, values: np.ndarray, form: str = "served", **changes) -> Finding:
    """min_kept 0.9; by default it writes the prompts as trained and ends its answers."""
    given = {"prompt_ids": [record.prompt_ids for record in probe.records], "greedy": [([8, 9, END], True)] * 8}
    weights = {name: changes.pop(name) for name in ("weights", "in_weights") if name in changes}
    return parity_verdict.judge(probe, form, Answered(log_likelihoods=rows(values), **given | changes), text, 0.9, **weights)


ADAPTER, WITHOUT = BASE + SHIFT + EFFECT, BASE + SHIFT


def test_the_adapter_in_another_engine_is_the_same(probe: Probe) -> None:
    found = judged(probe, ADAPTER + noise(0.02, 5), "f16")
    assert found.outcome == "same" and found.passed and found.kept == pytest.approx(1, abs=0.02)
    assert found.evidence["likelihood"]["weights"] == "16bit" and found.evidence["likelihood"]["effect"] == pytest.approx(1, abs=0.01)
    assert judged(probe, BASE + EFFECT).evidence["likelihood"]["weights"] == "nf4"


def test_a_quantized_form_says_what_it_keeps(probe: Probe) -> None:
    found = judged(probe, ADAPTER + noise(0.08, 5) - 0.014, "q8_0")
    assert found.outcome == "quantised, keeps 93%" and found.passed
    low, high = found.evidence["likelihood"]["kept_low"], found.evidence["likelihood"]["kept_high"]
    assert low < found.kept < high and high - low < 0.1
    weak = judged(probe, ADAPTER + noise(0.3, 5) - 0.1, "q4_k_m", in_weights=Share(1.0, 0.004))
    assert weak.outcome == "quantised, keeps 50%" and not weak.passed and "at least 90% of the gain is required" in weak.sentence


@pytest.mark.parametrize("harm", [0.0, 0.02, 0.3])
def test_the_base_model_is_found_however_it_is_quantized(probe: Probe, harm: float) -> None:
    """Also if quantization costs so much that by the mean alone something would seem to be left, or less than nothing."""
    found = judged(probe, WITHOUT + noise(harm, 5) - harm / 10)
    assert found.outcome == "not this adapter" and not found.passed and "as the base model does" in found.sentence


def test_the_base_model_on_better_weights_is_not_the_adapter(probe: Probe) -> None:
    """16-bit weights instead of NF4 gain more than the adapter does: by the mean the base model keeps over 100 % of it."""
    share = (WITHOUT - BASE).mean() / EFFECT.mean()
    assert share > 1
    assert judged(probe, WITHOUT).outcome == "not this adapter"


@pytest.mark.parametrize("form", ["merged", "f16", "lora_gguf", "q8_0"])
def test_another_adapter_of_equal_gain_is_found(probe: Probe, form: str) -> None:
    other = EFFECT + noise(0.25, 6)
    found = judged(probe, WITHOUT + other, form)
    assert found.kept == pytest.approx(1) and found.outcome == "not this adapter" and "other tokens" in found.sentence


def test_what_answers_cannot_tell_the_weights_do(probe: Probe) -> None:
    """4-bit rounding, and an adapter of another seed, at the same distance from the adapter."""
    values = ADAPTER + noise(0.25, 6)
    assert judged(probe, values, "q4_k_m").outcome == "cannot be told"
    assert judged(probe, values, "q4_k_m", in_weights=Share(0.98, 0.004)).outcome.startswith("quantised, keeps")
    other = judged(probe, values, "q4_k_m", in_weights=Share(0.2, 0.004))
    assert other.outcome == "not this adapter" and "its weights hold 20% of what the adapter adds" in other.sentence


def test_another_template_is_named_where_it_differs(probe: Probe) -> None:
    prompts = [[START, 10 + n, 3] for n in range(RECORDS)]
    prompts[4] = [START, 14, 99, 3]
    found = judged(probe, ADAPTER, prompt_ids=prompts)
    assert found.outcome == "other template" and found.evidence["prompts"]["equal"] == RECORDS - 1
    assert "from token 2 on, after '<1> <14>', it has '<99> <3>', trained was '<3>' (4 tokens, trained 3)" in found.sentence


def test_a_second_start_token_is_named_as_such(probe: Probe) -> None:
    found = judged(probe, ADAPTER, prompt_ids=[[START, *record.prompt_ids] for record in probe.records])
    assert found.outcome == "other template" and "begins with '<1>' (id 1) twice" in found.sentence


def test_answers_that_do_not_end_are_a_fault(probe: Probe) -> None:
    endless, ended = ([8, 9] * 24, False), ([8, END], True)
    found = judged(probe, ADAPTER, greedy=[endless] * 8)
    assert found.outcome == "does not stop" and "of 8 answers that the adapter ends by itself, it ends 0" in found.sentence
    assert not judged(probe, ADAPTER, greedy=[*[endless] * 7, ended]).passed
    assert judged(probe, ADAPTER, greedy=[*[endless] * 6, *[ended] * 2]).passed, "texts part early: so few may be chance"
    for ends in (0, 4):  # of the adapter's own answers: too few to judge by
        seldom = Answers([], [Greedy([8, END], True)] * ends + [Greedy([8] * 48, False)] * (8 - ends))
        found = judged(replace(probe, answers={"nf4": seldom, "16bit": seldom}), ADAPTER, greedy=[endless] * 8)
        assert found.passed and found.evidence["stops"]["adapter"] == ends


def test_greedy_answers_are_evidence_only(probe: Probe) -> None:
    found = judged(probe, ADAPTER, greedy=[([8, 9], True), ([8, 5, END], True), (None, True)], seconds=2.0)
    assert found.passed and found.evidence["greedy"] == {"equal": 1, "of": 2, "tokens_before_difference": 0.75}
    assert found.evidence["tokens_per_second"] == 2.5


def test_too_small_a_gain_cannot_be_judged(probe: Probe) -> None:
    tiny = replace(probe, likelihoods={"nf4": Likelihoods(rows(BASE), rows(BASE + noise(0.001, 3)))})
    found = judged(tiny, BASE)
    assert found.outcome == "cannot be told" and "expected 0.01 or more" in found.sentence
    none = replace(probe, likelihoods={"nf4": Likelihoods(rows(BASE), rows(BASE))})
    assert judged(none, BASE).outcome == "cannot be told"


def test_too_few_records_cannot_be_judged(probe: Probe) -> None:
    few = replace(probe, records=probe.records[:4], likelihoods={"16bit": Likelihoods(rows(WITHOUT)[:4], rows(ADAPTER)[:4])})
    answered = Answered([record.prompt_ids for record in few.records], rows(ADAPTER)[:4])
    found = parity_verdict.judge(few, "f16", answered, text, 0.9)
    assert found.outcome == "cannot be told" and "4 records are too few" in found.sentence


def test_an_effect_between_adapter_and_base_cannot_be_told(probe: Probe) -> None:
    found = judged(probe, WITHOUT + 0.62 * EFFECT + noise(1.0, 9), "q4_k_m")
    assert found.outcome == "cannot be told" and "may be that of the base model" in found.sentence
    half = judged(probe, WITHOUT + 0.3 * EFFECT)
    assert half.outcome == "not this adapter" and "as the base model does" in half.sentence
    stronger = judged(probe, WITHOUT + 1.5 * EFFECT, "merged")
    assert stronger.outcome == "not this adapter", "the adapter merged with another scale"
    assert "hold 150%" in judged(probe, WITHOUT + 1.5 * EFFECT, "q4_k_m", in_weights=Share(1.5, 0.004)).sentence


def test_weights_that_rounding_hides_say_nothing(probe: Probe) -> None:
    values = ADAPTER + noise(0.25, 6)
    assert judged(probe, values, "q4_k_m", in_weights=Share(0.4, 0.3)).outcome == "cannot be told"
    assert judged(probe, values, "q4_k_m", in_weights=Share(0.7, 0.1)).outcome.startswith("quantised"), "4 bits round a part away"
    close = ADAPTER + noise(0.01, 6)
    assert judged(probe, close, "q8_0", in_weights=Share(0.94, 0.03)).outcome == "same", "within its error"
    assert judged(probe, close, "q8_0", in_weights=Share(0.94, 0.004)).outcome == "not this adapter", "an earlier state of the training"


def test_right_weights_do_not_excuse_other_answers(probe: Probe) -> None:
    """The matrices that were looked at hold the adapter, and something else was changed."""
    found = judged(probe, ADAPTER + noise(0.3, 9), "merged", in_weights=Share(1.0, 0.004))
    assert found.outcome == "not this adapter" and "other tokens" in found.sentence


def test_answers_that_are_not_finite_are_damage(probe: Probe) -> None:
    values = ADAPTER.copy()
    values[7] = np.nan
    assert judged(probe, values).outcome == "damaged"


def test_a_form_on_weights_that_the_probe_lacks_cannot_be_judged(probe: Probe) -> None:
    only = replace(probe, likelihoods={"nf4": probe.likelihoods["nf4"]})
    found = judged(only, ADAPTER, "merged", weights="16bit")
    assert found.outcome == "cannot be told" and "has only nf4" in found.sentence
