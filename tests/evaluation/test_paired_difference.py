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
    assert 0.74 <= np.mean(found) <= 0.86


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
    alarms, uncorrected = 0, 0
    for trial in range(50):
        rng = np.random.default_rng(trial)
        p = {
            str(d): paired_difference.ratio(*documents(np.random.default_rng([trial, d]), 30, 0.0), int(rng.integers(1e9))).p
            for d in range(12)
        }
        alarms += min(paired_difference.holm(p).values()) < 0.05
        uncorrected += min(p.values()) < 0.05
    assert alarms <= 6 and 15 <= uncorrected <= 33


def plain_variances(lengths: np.ndarray, deviations: np.ndarray) -> tuple[float, float]:
    """(between, within) as the two equations say it: a mean of squared deviations is between + within * a mean of 1 / length."""
    share = lengths / lengths.sum()
    squares = [d**2 / (1 - 2 * w + sum(share**2)) for d, w in zip(deviations, share, strict=True)]
    by_document, by_token = sum(squares) / len(squares), sum(w * square for w, square in zip(share, squares, strict=True))
    short, long = sum(1 / lengths) / len(lengths), len(lengths) / sum(lengths)
    between, within = np.linalg.solve([[1, short], [1, long]], [by_document, by_token])
    if within <= 0:  # shorter documents do not scatter more
        return (by_document + by_token) / 2, 0.0
    return (between, within) if between >= 0 else (0.0, by_token / long)


LENGTHS = np.array([1.0, 1.0, 2.0, 4.0])
LEVERAGE = np.array([1.09375, 1.09375, 0.84375, 0.34375])  # 1 - 2 w + sum(w²)


@pytest.mark.parametrize(
    ("squares", "between", "within"),
    [([3, 3, 2, 2], 2.25 - 4 / 3 * 0.5, 4 / 3), ([1, 1, 2, 4], (2 + 2.75) / 2, 0.0), ([9, 9, 1, 1], 0.0, 3 / 0.5)],
)
def test_the_variance_between_and_within_documents_solves_two_equations(squares: list[int], between: float, within: float) -> None:
    design, deviations = paired_difference.Design(LENGTHS), np.sqrt(np.array(squares) * LEVERAGE)
    assert design.leverage == pytest.approx(LEVERAGE) and design.concentration == pytest.approx(0.34375)
    assert design.variances(deviations) == pytest.approx((between, within))
    assert plain_variances(LENGTHS, deviations) == pytest.approx((between, within))
    assert [part.tolist() for part in design.variances(np.stack([deviations, 2 * deviations]))] == [
        pytest.approx([between, 4 * between]), pytest.approx([within, 4 * within])]  # fmt: skip
    assert design.variances(0.1 * deviations) == pytest.approx((0.01 * between, 0.01 * within))
    assert design.standard_error(deviations) == pytest.approx(np.sqrt(between * 0.34375 + within / 8))
    assert design.scales(deviations) == pytest.approx(np.sqrt(between + within / LENGTHS))


def test_with_documents_of_one_length_the_standard_error_is_that_of_a_mean() -> None:
    gains = np.random.default_rng(0).normal(-0.1, 0.4, 12)
    found = paired_difference.ratio(gains * 30, np.full(12, 30.0), seed=0)
    assert found.value == pytest.approx(gains.mean()) and found.documents == 12
    assert found.standard_error == pytest.approx(gains.std(ddof=1) / np.sqrt(12) * np.sqrt(12 / 10))


def plain_interval(gains: np.ndarray, lengths: np.ndarray, seed: int) -> tuple[float, float, float]:
    """(low, high, p) by a plain loop over resamples, as the module's docstring describes the method."""
    value, share, count = gains.sum() / lengths.sum(), lengths / lengths.sum(), len(lengths)

    def standard_error(deviations: np.ndarray) -> float:
        between, within = plain_variances(lengths, deviations)
        return np.sqrt(between * sum(share**2) + within / lengths.sum())

    deviations = gains / lengths - value
    between, within = plain_variances(lengths, deviations)
    scales = np.sqrt(between + within / lengths)
    residuals = deviations / scales / np.sqrt(1 - 2 * share + sum(share**2))
    residuals = (residuals - residuals.mean()) / residuals.std()
    t = []
    for drawn in np.random.default_rng(seed).integers(0, count, (4999, count)):
        made_up = scales * residuals[drawn]
        moved = sum(share * made_up)
        t.append(moved / standard_error(made_up - moved))
    error = standard_error(deviations) * np.sqrt(count / (count - 2))
    below, above = np.quantile(t, [0.025, 0.975])
    tail = min(sum(one >= value / error for one in t), sum(one <= value / error for one in t))
    return value - above * error, value - below * error, min(1.0, 2 * (tail + 1) / 5000)


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.3])
def test_interval_and_p_are_those_of_a_plain_loop_over_resamples(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.array([12.0, 20.0, 35.0, 50.0, 90.0, 140.0, 400.0])
    gains = (np.random.default_rng(3).exponential(0.2, 7) - 0.3 + shift) * lengths
    found = paired_difference.ratio(gains, lengths, seed=5)
    assert (found.low, found.high, found.p) == pytest.approx(plain_interval(gains, lengths, 5), rel=1e-9)
    monkeypatch.setattr(paired_difference, "AT_ONCE", 7 * 8)
    assert paired_difference.ratio(gains, lengths, seed=5) == found, "in batches of 8 resamples, the last one of 7"


def test_the_interval_of_many_symmetric_gains_is_students() -> None:
    """An expectation from outside: with 300 normal gains, bootstrap-t and Student's t agree, and so do their p-values."""
    from scipy.stats import t

    gains = np.random.default_rng(1).normal(0.0, 0.5, 300)
    found = paired_difference.ratio(gains * 40, np.full(300, 40.0), seed=2)
    assert found.value - found.low == pytest.approx(t.ppf(0.975, 299) * found.standard_error, rel=0.04)
    assert found.high - found.value == pytest.approx(t.ppf(0.975, 299) * found.standard_error, rel=0.04)
    assert found.p == pytest.approx(2 * t.sf(abs(found.value) / found.standard_error, 299), abs=0.01) and 0.02 < found.p < 0.5


def test_a_shift_moves_the_interval_a_factor_scales_it_and_a_sign_mirrors_it() -> None:
    lengths = np.random.default_rng(0).uniform(20, 300, 25)
    gains = np.random.default_rng(1).exponential(0.3, 25) * lengths
    one, moved = (paired_difference.ratio(gains + shift * lengths, lengths, 0) for shift in (0.0, -2.0))
    assert (moved.value, moved.low, moved.high) == pytest.approx((one.value - 2, one.low - 2, one.high - 2))
    scaled, mirrored = paired_difference.ratio(3 * gains, lengths, 0), paired_difference.ratio(-gains, lengths, 0)
    assert (scaled.low, scaled.high, scaled.standard_error) == pytest.approx((3 * one.low, 3 * one.high, 3 * one.standard_error))
    assert (mirrored.low, mirrored.high, mirrored.p) == pytest.approx((-one.high, -one.low, one.p))
    tiny, longer = paired_difference.ratio(1e-12 * gains, lengths, 0), paired_difference.ratio(1e4 * gains, 1e4 * lengths, 0)
    assert (1e12 * tiny.low, 1e12 * tiny.high, tiny.p) == pytest.approx((one.low, one.high, one.p))
    assert (longer.low, longer.high, longer.p) == pytest.approx((one.low, one.high, one.p)), "whatever a token is"
    assert one.high - one.value > one.value - one.low, "few large gains: the true mean is rather above than below the observed one"


def test_p_is_below_5_percent_exactly_if_the_interval_excludes_0_and_never_0() -> None:
    excluded = 0
    for trial in range(60):
        found = paired_difference.ratio(*documents(np.random.default_rng([trial, 7]), 20, -0.08), seed=trial)
        excluded += found.low > 0 or found.high < 0
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0) or abs(found.p - 0.05) < 0.002
    assert 15 < excluded < 55
    certain = paired_difference.ratio(np.linspace(-11.0, -9.0, 12), np.ones(12), seed=0)
    assert certain.p == 2 / 5000, "one more than the resamples that are further off, which are none"
    none = paired_difference.ratio(np.array([-1.0, 1, -2, 2, -3, 3]), np.ones(6), seed=0)
    assert none.value == 0 and 0.9 < none.p <= 1.0


def test_five_documents_get_an_interval_and_four_do_not() -> None:
    gains = np.array([-0.5, -0.4, -0.7, -0.6, -0.1])
    found = paired_difference.ratio(gains, np.ones(5), seed=0)
    assert np.isfinite([found.low, found.high]).all(), "draws of one document alone have no error to divide by"
    assert found.low < found.value < found.high and found.p < 0.2
    four = paired_difference.ratio(gains[:4], np.ones(4), seed=0)
    assert four == paired_difference.Estimate(pytest.approx(-0.55), documents=4) and four.detectable is None


def test_documents_with_exactly_the_same_difference_have_an_interval_of_no_width() -> None:
    lengths = np.array([3.0, 5.0, 7.0, 11.0, 13.0])
    assert paired_difference.ratio(-0.25 * lengths, lengths, 0) == paired_difference.Estimate(-0.25, -0.25, -0.25, 0.0, 0.0, 5)
    assert paired_difference.ratio(0 * lengths, lengths, 0) == paired_difference.Estimate(0.0, 0.0, 0.0, 1.0, 0.0, 5)
    nearly = paired_difference.ratio(-0.25 * lengths + np.array([1e-6, 0, 0, 0, -1e-6]), lengths, 0)
    assert 0 < nearly.high - nearly.low < 1e-5


def test_the_detectable_size_is_the_longer_arm_and_the_shift_of_80_percent() -> None:
    assert paired_difference.Estimate(-0.3, -0.5, -0.2, 0.01, 0.1, 9).detectable == pytest.approx(0.2 + 0.8416212 * 0.1)
    assert paired_difference.Estimate(-0.3).documents == 0 and paired_difference.Estimate(-0.3).detectable is None
    assert paired_difference.Estimate(-0.3, -0.4, 0.0, 0.01, 0.1, 9).detectable == pytest.approx(0.3 + 0.8416212 * 0.1)


def test_the_evidence_of_documents_without_their_lengths() -> None:
    gains, lengths = np.array([-1.0, -1, -1, 0, 0.5]), np.array([1.0, 1, 1, 1, 4])
    assert paired_difference.better(gains, lengths, 0) == {
        "documents_better": 3, "sign_p": pytest.approx(0.625), "effective_documents": pytest.approx(3.2), "largest_share": 0.5,
        "without_largest": {"difference": -0.75, "low": None, "high": None},
    }  # fmt: skip
    assert paired_difference.better(np.zeros(5), lengths, 0)["sign_p"] == 1.0
    assert paired_difference.better(-np.ones(6), np.ones(6), 0)["sign_p"] == pytest.approx(2 / 2**6)
    assert paired_difference.better(gains[:1], lengths[:1], 0)["without_largest"] is None
    six = paired_difference.better(np.append(gains, -3.0), np.append(lengths, 9.0), 0)["without_largest"]
    expected = paired_difference.ratio(gains, lengths, 0)
    assert six == {"difference": expected.value, "low": expected.low, "high": expected.high} and six["low"] is not None


def test_a_comparison_holds_both_means_and_the_figures_of_its_parts() -> None:
    base = [RecordLoss("a", "x", 10.0, 4), RecordLoss("b", "x", 6.0, 2), RecordLoss("c", "y", 8.0, 4)]
    adapter = [RecordLoss("a", "x", 8.0, 4), RecordLoss("b", "x", 7.0, 2), RecordLoss("c", "y", 4.0, 4)]
    found = paired_difference.compare(base, adapter, 0, {"a": "one", "c": "one"})  # b is a document of its own
    assert (found["base"], found["adapter"], found["difference"]) == pytest.approx((2.4, 1.9, -0.5))
    assert (found["records"], found["documents"], found["supervised_tokens"], found["documents_better"]) == (3, 2, 10, 1)
    assert found["largest_share"] == 0.8 and found["without_largest"]["difference"] == 0.5
    assert paired_difference.by_document(base, {"a": "one", "c": "one"}, [1.0, 2.0, 4.0]).tolist() == [2.0, 5.0]
    assert paired_difference.by_document(base, None, [1.0, 2.0, 4.0]).tolist() == [1.0, 2.0, 4.0]
    for wrong in (adapter[::-1], [*adapter[:2], RecordLoss("c", "y", 4.0, 5)]):
        with pytest.raises(ValueError, match="only on the same records, in the same order"):
            paired_difference.compare(base, wrong, 0)


def test_domains_are_compared_alone_and_corrected_together() -> None:
    base, adapter = losses(np.linspace(1, 4, 20)), losses(np.linspace(1, 4, 20) - np.tile([0.1, 0.3], 10) + np.linspace(0, 0.2, 20) ** 2)
    few = [RecordLoss("few", "three", 5.0, 5)]
    found = paired_difference.by_domain([*base, *few], [*adapter, *few], 0)
    alone = {name: paired_difference.compare(base[start::2], adapter[start::2], 0) for name, start in (("two", 0), ("one", 1))}
    assert set(found) == {"one", "two", "three"} and found["three"]["holm_p"] is None is found["three"]["p"]
    corrected = paired_difference.holm({name: alone[name]["p"] for name in alone})
    assert {name: facts for name, facts in found.items() if name != "three"} == {
        name: {**facts, "holm_p": corrected[name]} for name, facts in alone.items()
    }


def test_beyond_chance_is_below_5_percent_corrected_if_there_was_more_than_one_test() -> None:
    judged = paired_difference.is_beyond_chance
    assert judged({"p": 0.049}) and not judged({"p": 0.05}) and not judged({"p": None}) and not judged({})
    assert not judged({"p": 0.01, "holm_p": 0.06}) and judged({"p": 0.06, "holm_p": 0.01}) and not judged({"p": 0.01, "holm_p": None})
    assert paired_difference.beyond_chance({"a": {"p": 0.01}, "b": {"p": 0.5}}) == ["a"]
    assert paired_difference.holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0} and paired_difference.holm({}) == {}


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
