"""The comparison: known answers on made-up losses, and refusal where it would mean nothing."""

import numpy as np
import pytest
from datasets import Dataset

from mistral_lib import evaluation
from mistral_lib.likelihood import RecordLoss


def losses(values: np.ndarray, tokens: int = 20) -> list[RecordLoss]:
    return [RecordLoss(f"r{i}", "one" if i % 2 else "two", float(v) * tokens, tokens) for i, v in enumerate(values)]


def test_a_model_against_itself_gives_no_verdict() -> None:
    same = losses(np.linspace(1, 4, 40))
    result = evaluation.compare(same, same, seed=0)
    assert result["overall"]["difference"] == 0.0 and result["verdict"] == "not enough evidence"


@pytest.mark.parametrize(("shift", "verdict"), [(-0.2, "better"), (0.2, "worse")])
def test_a_steady_difference_is_seen_through_the_scatter(shift: float, verdict: str) -> None:
    base = np.random.default_rng(0).uniform(1, 4, 60)
    noise = np.random.default_rng(1).normal(0, 0.1, 60)
    result = evaluation.compare(losses(base), losses(base + shift + noise), seed=0)
    assert result["verdict"] == verdict
    assert result["overall"]["low"] < result["overall"]["difference"] < result["overall"]["high"]
    assert result["overall"]["difference"] == pytest.approx(shift, abs=0.05)


def test_a_difference_lost_in_the_noise_is_not_claimed() -> None:
    base = np.random.default_rng(0).uniform(1, 4, 20)
    noise = np.random.default_rng(1).normal(0, 1.0, 20)
    assert evaluation.compare(losses(base), losses(base + noise - noise.mean() - 0.01), seed=0)["verdict"] == "not enough evidence"


def test_few_records_get_no_interval() -> None:
    few = losses(np.array([1.0, 2.0, 3.0]))
    result = evaluation.compare(few, losses(np.array([0.5, 1.5, 2.5])), seed=0)
    assert result["overall"]["low"] is None and result["verdict"] == "not enough evidence"


def test_the_interval_holds_the_truth_about_95_times_in_100() -> None:
    truth, hits = -0.1, 0
    for trial in range(200):
        rng = np.random.default_rng(trial)
        base = rng.uniform(1, 4, 80)
        low, high = evaluation.interval(losses(base), losses(base + rng.normal(truth, 0.4, 80)), seed=trial)
        hits += low <= truth <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_a_shared_record_is_refused() -> None:
    train, test = (Dataset.from_dict({"record_ids": [ids]}) for ids in (["a", "b"], ["b", "c"]))
    with pytest.raises(ValueError, match="1 records stand in both train and test"):
        evaluation.refuse_shared_records(train, test)


def test_the_samples_are_fixed_and_take_the_domains_in_turn(prepared) -> None:
    from mistral_lib import base_model

    tokenizer = base_model.load_tokenizer(prepared.settings.base_model)
    rows = evaluation.read_records(prepared.folder / "data", "test")
    chosen = evaluation.choose_samples(tokenizer, rows, 3)
    assert [row["domain"] for row in chosen] == sorted({row["domain"] for row in rows})
    assert chosen == evaluation.choose_samples(tokenizer, list(reversed(rows)), 3)
