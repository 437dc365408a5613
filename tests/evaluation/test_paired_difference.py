"""Differences with intervals: exact on a model whose distribution is given, correct on simulated data, none on too little data."""

from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from mistral_lib.evaluation import answer_metrics, memorization, paired_difference
from mistral_lib.model import likelihood
from mistral_lib.model.likelihood import RecordLoss
from mistral_lib.tokens import packing


def losses(values: np.ndarray, tokens: int = 20) -> list[RecordLoss]:
    return [RecordLoss(f"r{i}", "one" if i % 2 else "two", float(v) * tokens, tokens) for i, v in enumerate(values)]


def test_the_likelihood_of_a_known_distribution_is_exact(tiny_model: str) -> None:
    """With attention and MLP switched off the model is a bigram model, whose probabilities can be computed directly."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    head, embedding = (weight.detach().double().numpy() for weight in (model.lm_head.weight, model.model.embed_tokens.weight))
    ids = np.random.default_rng(0).integers(0, 4000, (6, 20))
    blocks = packing.blocks(ids.ravel(), np.tile(np.arange(20) >= 5, 6), np.full(6, 20), np.array([3, 3]), 64, 0)
    batch = {name: blocks[name].astype("int64") for name in likelihood.COLUMNS}
    rows = {**batch, "record_ids": [["a", "b", "c"], ["d", "e", "f"]], "domains": [["x"] * 3] * 2}
    for loss, row in zip(likelihood.batch_losses(model, rows), ids, strict=True):
        hidden = embedding[row]
        logits = hidden / np.sqrt((hidden**2).mean(1, keepdims=True) + model.config.rms_norm_eps) @ head.T  # RMSNorm of weight 1
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        expected = -log_p[np.arange(4, 19), row[5:]].sum()
        assert loss.tokens == 15 and loss.nats == pytest.approx(expected, rel=1e-6)


def documents(rng: np.random.Generator, count: int, truth: float) -> tuple[np.ndarray, np.ndarray]:
    """Skewed gains and lengths of records that are similar within a document, summed by document."""
    document = np.repeat(np.arange(count), rng.integers(1, 5, count))
    tokens = np.ceil(rng.lognormal(4.3, 0.6, len(document)))
    gain = truth + 0.15 * (rng.exponential(1, count) - 1)[document] + 0.2 * (rng.exponential(1, len(document)) - 1)
    return np.bincount(document, gain * tokens), np.bincount(document, tokens)


def test_the_interval_contains_the_true_value_in_93_to_97_percent_of_1000_data_sets() -> None:
    truth, hits, missed_effect = -0.2, 0, 0
    for trial in range(1000):
        found = paired_difference.ratio(*documents(np.random.default_rng([trial, 40]), 40, truth), seed=trial)
        hits += found.low <= truth <= found.high
        missed_effect += found.low <= 0 <= found.high
    assert 930 <= hits <= 970
    assert missed_effect < 100, "an interval that contains everything would pass the line above"


def test_a_difference_of_the_detectable_size_is_found_about_80_times_in_100() -> None:
    """On symmetric gains, which the formula assumes."""

    def sums(trial: int, truth: float) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(trial)
        tokens = rng.uniform(50, 150, 60)
        return rng.normal(truth, 0.25, 60) * tokens, tokens

    detectable = float(np.median([paired_difference.ratio(*sums(trial, 0.0), trial).detectable for trial in range(20)]))
    found = [paired_difference.ratio(*sums(trial, -detectable), trial).high < 0 for trial in range(100, 300)]
    assert 0.7 <= np.mean(found) <= 0.9


def test_records_of_one_document_count_as_one_observation() -> None:
    """Copies of the records of a document are no new evidence."""
    rng = np.random.default_rng(0)
    base = rng.uniform(1, 4, 40)
    adapter = base + rng.normal(-0.1, 0.3, 40)
    copies = {f"r{i}": f"document {i % 8}" for i in range(40)}
    own, alike = (
        paired_difference.compare(losses(base), losses(adapter), 0),
        paired_difference.compare(losses(base), losses(adapter), 0, copies),
    )
    assert own["difference"] == pytest.approx(alike["difference"]) and (own["documents"], alike["documents"]) == (40, 8)
    repeated, twice = np.tile(base, 5), np.tile(adapter, 5)
    same = paired_difference.compare(losses(repeated), losses(twice), 0, {f"r{i}": f"document {i % 40}" for i in range(200)})
    assert same["standard_error"] == pytest.approx(own["standard_error"], rel=1e-6)


def test_a_model_against_itself_differs_by_exactly_zero() -> None:
    same = losses(np.linspace(1, 4, 40))
    found = paired_difference.compare(same, same, seed=0)
    assert found["difference"] == found["low"] == found["high"] == 0.0 and found["p"] == 1.0


def test_few_documents_get_no_interval() -> None:
    found = paired_difference.compare(losses(np.array([1.0, 2.0, 3.0])), losses(np.array([0.5, 1.5, 2.5])), seed=0)
    assert found["low"] is None and found["p"] is None and found["detectable"] is None


def test_unpaired_losses_are_refused() -> None:
    with pytest.raises(ValueError, match="3 and 4 records, 3 of them the same"):
        paired_difference.compare(losses(np.ones(3)), losses(np.ones(4)), seed=0)


def test_holm_corrects_as_published() -> None:
    corrected = paired_difference.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})  # R's p.adjust(c(.01, .04, .03, .005), "holm")


def test_many_domains_without_a_difference_rarely_give_a_finding() -> None:
    """Without the correction, one of 12 domains without a difference would look different in 46 of 100 trials."""
    alarms = 0
    for trial in range(50):
        rng = np.random.default_rng(trial)
        p = {
            str(d): paired_difference.ratio(*documents(np.random.default_rng([trial, d]), 30, 0.0), int(rng.integers(1e9))).p
            for d in range(12)
        }
        alarms += min(paired_difference.holm(p).values()) < 0.05
    assert alarms <= 50 * 0.2


@pytest.mark.parametrize(
    ("answer", "reference", "chrf"),
    [  # sacrebleu 2.6.0 CHRF().sentence_score
        ("The dog bit the man.", "The dog had bit the man.", 67.647115),
        ("It returns the sum of a and b.", "Return the sum.", 46.221622),
        ("Das ist ein kleines Haus", "das haus ist klein", 37.034495),
        ("a", "ab", 55.555556),
        ("", "something", 0.0),
        ("x = np.sum(a, axis=0)", "y = np.sum(b, axis=1)", 57.230213),
        ("cat", "cat", 100.0),
        ("The tensor, as a float64 array; see numpy.asarray for more.",
         "Convert the input to a tensor of type float64, as numpy.asarray does.", 39.992809),
    ],
)  # fmt: skip
def test_chrf_is_that_of_sacrebleu(answer: str, reference: str, chrf: float) -> None:
    assert answer_metrics.chrf(answer, reference) == pytest.approx(chrf, abs=1e-5)


def test_repetition_and_formats_are_detected() -> None:
    assert answer_metrics.repetition("one two three four five six seven") == 0.0
    assert answer_metrics.repetition("so it goes on " * 20) > 0.9
    assert answer_metrics.is_python("Here it is:\n```python\nx = [1, 2]\n```\nDone.") and not answer_metrics.is_python("x = [1, 2")
    assert answer_metrics.is_json('{"a": [1, null]}') and not answer_metrics.is_json("{'a': 1}") and not answer_metrics.is_json("")


def test_the_summary_counts() -> None:
    sample = {"domain": "d", "reference": "{}", "base": "{", "base_stopped": False, "adapter": "{}", "adapter_stopped": True}
    found = answer_metrics.summary(
        [sample, {**sample, "domain": "e", "reference": "a long one of more than eight words it is"}], {"d": "json"}
    )
    assert found["adapter"]["stop_rate"]["share"] == 1.0 and found["base"]["stop_rate"]["count"] == 0
    assert (found["adapter"]["form_valid"]["count"], found["base"]["form_valid"]["count"], found["base"]["form_valid"]["of"]) == (1, 0, 1)
    assert found["adapter"]["exact_match"]["of"] == 1 and found["adapter"]["exact_match"]["count"] == 1
    assert answer_metrics.summary([], {}) == {"answers": 0}


def test_a_copied_passage_is_found_in_other_text() -> None:
    training = "Returns the value that was stored under the key before, or the default if there is none at all."
    copied = "Well: returns the value that was stored under the key before, or the default — so it is."
    texts = {
        "copied": copied,
        "own": "Returns the value of the key, or the default where it has none, as all mappings do here.",
        "short": "Returns the value.",
    }
    assert memorization.with_copied_text(texts, [training, "Something else."]) == {"copied"}


def test_every_turn_of_the_assistant_counts_as_training_text(tmp_path: Path) -> None:
    first, last = " ".join(f"one{n}" for n in range(20)), " ".join(f"two{n}" for n in range(20))
    asked = " ".join(f"ask{n}" for n in range(20))
    chat = [("user", asked), ("assistant", first), ("user", "And then?"), ("assistant", last)]
    messages = orjson.dumps([{"role": role, "content": content} for role, content in chat]).decode()
    rows = [{"split": "train", "messages": messages, "text": None}, {"split": "train", "messages": None, "text": "A document."}]
    pq.write_table(pa.Table.from_pylist([*rows, {"split": "test", "messages": None, "text": "Kept out."}]), tmp_path / "records.parquet")
    assert list(memorization.training_answers(tmp_path)) == [first, last, "A document."]
    samples = [{"base": asked, "adapter": first, "reference": last}]
    assert {who: found["count"] for who, found in memorization.copied(samples, tmp_path).items()} == {
        "base": 0,
        "adapter": 1,
        "reference": 1,
    }


def test_the_gap_is_what_training_records_gained_beyond_test_records() -> None:
    train, test = ({"difference": d, "standard_error": 0.03, "records": 9} for d in (-0.9, -0.4))
    found = memorization.gap(train, test)
    assert found["gap"] == pytest.approx(-0.5) and found["high"] - found["gap"] == pytest.approx(1.96 * 0.03 * 2**0.5)
    assert memorization.gap({**train, "standard_error": None}, test)["low"] is None
