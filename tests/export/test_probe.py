"""The probe of a tiny trained run: which records it takes, what it measures, and what it refuses."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mistral_lib.evaluation.generation import read_records
from mistral_lib.export import probe, probe_measurement
from mistral_lib.export.probe import Probe, ProbeError
from mistral_lib.model import base_model, likelihood, paired_answers
from mistral_lib.preparation.audit import WEIGHTS
from mistral_lib.run import Run, files
from mistral_lib.tokens import packed_dataset


@pytest.fixture(scope="module")
def made(trained_home: Path) -> Probe:
    """Of the run, with few records."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRAL_WORKBOOK_HOME", str(trained_home))
        return probe_measurement.make(Run.existing(trained_home / "runs" / "small"), most_records=8)


def put_adapter(run: Run, change) -> None:
    """Change the adapter's tensors on disk and record the changed file as the output of training."""
    place = run.folder / "training" / "adapter" / WEIGHTS
    save_file({name: change(name, tensor) for name, tensor in load_file(place).items()}, place, metadata={"format": "pt"})
    run.complete("training", run.entry("training")["figures"])


def test_it_holds_what_base_model_and_adapter_say(made: Probe, trained_run: Run) -> None:
    assert len(made.records) == 8 and {record.domain for record in made.records} == {"red", "green"}
    assert made.evaluated_on == "16bit" == next(iter(made.likelihoods)) and made.chosen == "by seed"
    assert made.adapter_sha256 == files.sha256(trained_run.folder / "training" / "adapter" / WEIGHTS)
    gain = made.gain("16bit")
    assert gain["value"] > 0.5 and gain["low"] > 0 and gain["records"] == 8
    tokenizer = base_model.load_tokenizer(trained_run.settings.base_model)
    for record in made.records:
        text = tokenizer.decode(record.prompt_ids)
        assert record.messages[-1]["content"] in text and text.endswith("<|im_start|>assistant\n")
        assert record.answer_ids[-1] == made.end_id, "these answers are short enough to be complete"
    answers = made.answers["16bit"]
    ended = [answer.ended for answer in answers.adapter]
    assert len(made.asked) == len(answers.base) == len(ended) and set(made.asked) <= set(range(8))
    assert ended.count(False) == min(probe_measurement.UNENDED, 8 - ended.count(True)), "all that end, and two others"
    assert all(len(one.ids) <= made.max_new_tokens for one in answers.base + answers.adapter) and answers.base != answers.adapter


def test_its_log_likelihoods_are_the_losses_of_the_evaluation(made: Probe, trained_run: Run) -> None:
    """Measured another way: the packed test split, as evaluation reads it."""
    from datasets import load_from_disk

    settings = paired_answers.trained_settings(trained_run)
    model = base_model.load_adapter(settings, trained_run.folder / "training" / "adapter")
    blocks = packed_dataset.first_blocks(load_from_disk(trained_run.folder / "data" / "test"), 0)
    both = made.likelihoods["16bit"]
    for without, values in ((True, both.base), (False, both.adapter)):
        losses = {loss.record_id: loss for loss in likelihood.record_losses(model, blocks, 4, without_adapter=without)}
        for record, row in zip(made.records, values, strict=True):
            assert losses[record.record_id].tokens == len(row)
            assert -sum(row) == pytest.approx(losses[record.record_id].nats, rel=1e-4)


def test_the_seed_alone_decides_which_records(trained_run: Run) -> None:
    tokenizer, rows = base_model.load_tokenizer(trained_run.settings.base_model), read_records(trained_run.folder / "data", "test")

    def ids(seed: int) -> list[str]:
        return [record.record_id for record in probe_measurement.choose(tokenizer, rows, 10, 600, seed)]

    assert ids(1) == ids(1) != ids(2) and len(set(ids(1))) == 10
    assert [row["record_id"] for row in rows][:10] != ids(1)


def test_answers_are_cut_so_that_many_records_share_the_tokens(trained_run: Run) -> None:
    tokenizer, rows = base_model.load_tokenizer(trained_run.settings.base_model), read_records(trained_run.folder / "data", "test")
    found = probe_measurement.choose(tokenizer, rows, 100, 120, 0)
    assert {len(record.answer_ids) for record in found} == {10}
    within = probe_measurement._within(found, 100, 120)
    assert len(within) == 12 and len(probe_measurement._within(found, 5, 120)) == 5


def test_what_a_server_would_write_otherwise_is_left_out(trained_run: Run) -> None:
    tokenizer, rows = base_model.load_tokenizer(trained_run.settings.base_model), read_records(trained_run.folder / "data", "test")
    question, answer = rows[0]["messages"]
    odd = [
        {**rows[0], "messages": [{**question, "content": "What does <|im_end|> do?"}, answer]},
        {**rows[0], "messages": [{**question, "content": "word " * 400}, answer]},
        {**rows[0], "tools": [{"type": "function", "function": {"name": "look", "parameters": {}}}]},
        {**rows[0], "messages": None},
    ]
    assert [probe_measurement._record(tokenizer, row, 50) for row in odd] == [None] * 4
    assert probe_measurement._record(tokenizer, rows[0], 50) is not None
    with pytest.raises(ProbeError, match=r"none of 4 test records is a chat .* raise test_share"):
        probe_measurement.choose(tokenizer, odd, 10, 600, 0)


def test_the_prompts_with_the_shortest_answers_are_asked(trained_run: Run) -> None:
    tokenizer, rows = base_model.load_tokenizer(trained_run.settings.base_model), read_records(trained_run.folder / "data", "test")
    found = probe_measurement.choose(tokenizer, rows, 20, 1200, 0)
    asked = probe_measurement.to_ask(found)
    lengths = [len(record.answer_ids) for record in found]
    assert len(asked) == 8 and asked == sorted(asked)
    assert max(lengths[number] for number in asked) <= min(length for number, length in enumerate(lengths) if number not in asked)


def test_it_is_read_as_it_was_written(made: Probe, tmp_path: Path) -> None:
    assert probe.load(probe.save(made, tmp_path)) == made
    assert [path.name for path in tmp_path.iterdir()] == ["probe.json"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda values: values.update(format=0), "format 0, expected 2"),
        (lambda values: values.pop("seed"), "cannot be read"),
        (lambda values: values["records"][0].pop("domain"), "cannot be read"),
        (lambda values: values["likelihoods"]["16bit"]["adapter"].pop(), "the adapter on 16bit weights are incomplete"),
        (lambda values: values["likelihoods"]["16bit"]["base"][0].__setitem__(0, None), "the base on 16bit weights are incomplete or not finite"),
        (lambda values: values.update(evaluated_on="nf4"), "none measured as evaluated"),
        (lambda values: values["answers"]["16bit"]["adapter"].pop(), "greedy answers are missing"),
        (lambda values: values.update(answers={}), "greedy answers are missing"),
    ],
)  # fmt: skip
def test_a_damaged_probe_is_refused(made: Probe, tmp_path: Path, change, fault: str) -> None:
    values = files.read_json(probe.save(made, tmp_path))
    change(values)
    files.write_json(tmp_path / "probe.json", values)
    with pytest.raises(ProbeError, match=fault):
        probe.load(tmp_path / "probe.json")


def test_no_probe_and_half_a_probe_are_refused(made: Probe, tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="no probe there"):
        probe.load(tmp_path / "probe.json")
    path = probe.save(made, tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ProbeError, match="cannot be read"):
        probe.load(path)


def test_the_probe_of_another_adapter_is_refused(made: Probe, trained_run: Run) -> None:
    probe.require_of_run(made, trained_run)
    put_adapter(trained_run, lambda name, tensor: tensor * 2)
    with pytest.raises(ProbeError, match=f"the probe is of the adapter {made.adapter_sha256[:12]}"):
        probe.require_of_run(made, trained_run)


def test_without_a_gain_beyond_chance_records_are_chosen_by_it(trained_run: Run) -> None:
    """An adapter whose effect is random, and too few records for an interval."""
    torch.manual_seed(0)
    put_adapter(trained_run, lambda name, tensor: torch.randn_like(tensor) * 0.02 if "lora_B" in name else tensor)
    found, wider = (probe_measurement.make(trained_run, most_records=most) for most in (4, 16))
    gains = [(sum(a) - sum(b)) / len(a) for b, a in zip(found.likelihoods["16bit"].base, found.likelihoods["16bit"].adapter, strict=True)]
    assert found.chosen == "by gain" and len(found.records) == 4
    assert gains == sorted(gains, reverse=gains[0] > 0)
    assert abs(found.gain("16bit")["value"]) > abs(wider.gain("16bit")["value"])


def test_a_run_in_nf4_is_measured_on_both_weights(trained_run: Run) -> None:
    """The same adapter, as if it had been trained on NF4 weights."""
    trained_run.record("training", parameters={**trained_run.entry("training")["parameters"], "quantization": "nf4"})
    found = probe_measurement.make(trained_run, most_records=5)
    assert found.evaluated_on == "nf4" and list(found.likelihoods) == ["nf4", "16bit"]
    nf4, plain = found.likelihoods["nf4"], found.likelihoods["16bit"]
    assert nf4.base != plain.base and nf4.adapter != plain.adapter
    asked = len(found.asked)
    assert len(found.answers["nf4"].base) == asked > 0 and not found.answers["16bit"].base and len(found.answers["16bit"].adapter) == asked
    assert list(probe_measurement.make(trained_run, weights=[], most_records=5).likelihoods) == ["nf4"]


def test_an_adapter_with_nan_is_refused(trained_run: Run) -> None:
    put_adapter(trained_run, lambda name, tensor: tensor * float("nan"))
    with pytest.raises(ProbeError, match="not finite"):
        probe_measurement.make(trained_run, most_records=5)
