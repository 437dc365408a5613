"""The fit plan: its advice works, and its hours and tokens are those of the run."""

import math
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mistral_lib.corpus.sources import SourceError
from mistral_lib.model import base_model, model_shapes, step_memory
from mistral_lib.model.step_memory import MIB, Step
from mistral_lib.run import Run, files, params, paths
from mistral_lib.training import fit_plan, plan_table, workload

MISTRAL = "mistralai/Mistral-7B-Instruct-v0.3"


def test_mistral_7b_is_planned_on_every_machine_without_weights() -> None:
    settings = params.load(paths.params() / "g4dn_mistral_7b.yaml")
    work = workload.work_of(settings, tokens=2_000_000)
    began = time.process_time()
    t4, a10g = (fit_plan.best(settings, work, name) for name in ("g4dn.xlarge", "g5.xlarge"))
    assert time.process_time() - began < 60
    assert t4.fits and a10g.fits and t4.dtype == "float16" and a10g.dtype == "bfloat16"
    for fit in (t4, a10g):
        assert workload.effective_batch(fit.settings) == workload.effective_batch(settings)
        assert fit.peak == sum(fit.parts.values()) and 0 < fit.usd[0] < fit.usd[1] and fit.advice == ""
    assert sum(a10g.seconds) < sum(t4.seconds)
    assert "fits" in plan_table.text([t4, a10g], work) and plan_table.rows([t4])[0]["spare_gib"] > 0


def test_the_plan_of_a_run_that_does_not_fit_names_what_to_change() -> None:
    settings = params.load(paths.params() / "g4dn_mistral_7b.yaml", ["quantization=none"])
    fit = fit_plan.best(settings, workload.work_of(settings, tokens=2_000_000), "g4dn.xlarge")
    assert not fit.fits and "GiB too much even with micro_batch_size: 1" in fit.advice and "quantization: nf4" in fit.advice


def test_a_block_that_is_too_long_gets_the_length_that_fits() -> None:
    settings = params.load(paths.params() / "g4dn_mistral_7b.yaml", ["max_tokens=32768", "max_validation_tokens=0"])
    fit = fit_plan.best(settings, workload.work_of(settings, tokens=2_000_000), "g4dn.xlarge")
    assert not fit.fits and "it fits with max_tokens: " in fit.advice


@pytest.mark.long
def test_two_changes_that_help_only_together_are_named_together() -> None:
    settings = params.load(paths.params() / "g4dn_mistral_7b.yaml", ["quantization=none", "max_tokens=32768", "max_validation_tokens=0"])
    work = workload.work_of(settings, tokens=2_000_000)
    advice = fit_plan.best(settings, work, "g4dn.xlarge").advice
    length = int(re.search(r"it fits with quantization: nf4 and max_tokens: (\d+) together \(now 32768\)$", advice)[1])
    advised = settings.model_copy(update={"quantization": "nf4", "max_tokens": length})
    assert fit_plan.best(advised, work, "g4dn.xlarge").fits and length < 32768
    for alone in ({"quantization": "nf4"}, {"max_tokens": length}, {"quantization": "nf4", "max_tokens": 2 * length}):
        assert not fit_plan.best(settings.model_copy(update=alone), work, "g4dn.xlarge").fits


def test_a_model_without_listed_sizes_is_refused_with_what_to_do(home, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(base_model.BaseModelError, match="no such folder"):
        model_shapes.config_of("./nowhere")
    (home / "models" / "empty").mkdir(parents=True)
    with pytest.raises(base_model.BaseModelError, match=r"config\.json"):
        model_shapes.config_of("models/empty")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(base_model.BaseModelError, match=r"HF_HUB_OFFLINE is set.*Sizes are listed for: mistralai/Mistral-7B-v0\.1"):
        model_shapes.config_of("somebody/some-model")


def test_the_embedded_model_has_the_sizes_that_are_listed() -> None:
    from mistral_lib.model import demo_model

    listed = model_shapes.config_of(demo_model.NAME)
    real = files.read_json(demo_model.folder() / "config.json")
    for name in (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
    ):
        assert getattr(listed, name) == real[name]


def test_tokens_are_counted_if_data_are_prepared(prepared: Run) -> None:
    report = files.read_json(prepared.folder / "data" / "report.json")
    work = workload.work_of(prepared.settings)
    assert work.train_tokens == 8 * prepared.settings.micro_batch_size * prepared.settings.max_tokens  # max_steps: 8
    assert work.supervised_share == report["supervised_tokens"]["train"] / report["tokens"]["train"] and "counted" in work.origin
    complete = workload.work_of(prepared.settings.model_copy(update={"max_steps": 0, "epochs": 2.0}))
    assert complete.train_tokens == 2 * report["blocks"]["train"] * prepared.settings.max_tokens


def test_validation_tokens_are_computed_from_stated_training_tokens() -> None:
    shares = {"max_validation_tokens": 0, "validation_share": 0.1, "test_share": 0.3}
    work = workload.work_of(params.Settings(run_name="nowhere", **shares), tokens=600_000)
    assert work.validation_tokens == pytest.approx(100_000, abs=1), "a tenth of a million, of which six tenths are trained on"
    few = workload.work_of(params.Settings(run_name="nowhere", **{**shares, "max_validation_tokens": 5000}), tokens=600_000)
    assert few.validation_tokens == 5000


def test_without_data_the_tokens_are_guessed_from_the_files(settings: params.Settings, corpus: Path) -> None:
    work, size = workload.work_of(settings.model_copy(update={"max_steps": 0})), sum(path.stat().st_size for path in corpus.iterdir())
    tokens = int(size / 4 * 0.7)
    assert work.origin.startswith(f"about {tokens:,} training tokens, guessed from {files.size_text(size)};")
    assert work.steps == work.steps_of_a_pass == math.ceil(math.ceil(tokens / (workload.FILL * 128)) / 2)
    assert workload.work_of(settings, source_files=[]).origin.startswith("about 1 training tokens"), "the files that the caller has"
    with pytest.raises(
        SourceError, match=r"corpus_paths: 'corpora/nowhere'.*no such file[\s\S]*`python -m mistral_lib plan <file> --tokens"
    ):
        workload.work_of(settings.model_copy(update={"corpus_paths": ["corpora/nowhere"]}))


def test_an_explored_corpus_gives_an_estimate(settings: params.Settings) -> None:
    from mistral_lib.preparation import explore

    explore.explore(Run.open(settings))
    estimated = workload.work_of(settings.model_copy(update={"max_steps": 0, "max_validation_tokens": 0}))
    assert "estimated from corpus/inventory.json" in estimated.origin and estimated.train_tokens > 0
    trained = int(estimated.origin.split()[1].replace(",", ""))
    assert estimated.validation_tokens == pytest.approx(trained * 0.15 / 0.7, abs=1), "shares of the same rows"


def test_operations_of_mistral_7b() -> None:
    config = model_shapes.config_of(MISTRAL)
    assert model_shapes.linear_parameters(config) == 6_979_321_856
    assert workload.forward_flops(config, 1, 0.0) == pytest.approx(2 * 6.98e9, rel=0.001)
    assert workload.step_flops(config, 512, 1.0, True) == 1.5 * workload.step_flops(config, 512, 1.0, False)


def test_the_plan_includes_the_time_of_every_validation() -> None:
    settings = params.load(paths.params() / "g5_mistral_7b.yaml", ["quantization=none"])
    work = workload.work_of(settings, tokens=2_000_000)
    assert (work.steps, work.validations) == (252, 6) and work.validation_tokens == 131_072
    never = workload.work_of(settings.model_copy(update={"validate_every_steps": 0}), tokens=2_000_000)
    fit, once = fit_plan.as_set(settings, work), fit_plan.as_set(settings, never)
    measuring = work.validation_tokens * workload.forward_flops(model_shapes.config_of(MISTRAL), 2048, work.supervised_share)
    slow, fast = (rate * 1e12 for rate in params.instances()["g5.xlarge"]["attained_tflops"])
    more = [longer - shorter for longer, shorter in zip(fit.seconds, once.seconds, strict=True)]
    assert more == pytest.approx([5 * measuring / fast, 6 * measuring / slow]), "8 or 9 measurements in place of 3"


def test_on_a_cpu_a_fixed_size_is_added_to_the_tensors(tiny_model: str) -> None:
    step = Step(tiny_model, max_tokens=128, micro_batch_size=2, checkpointing=False, quantization="none", dtype="float32", device="cpu")
    parts = fit_plan.parts_of(step)
    assert sum(parts.values()) == step_memory.peak(step).total + round(1.2 * 2**30) and "CUDA context" not in parts


def test_the_plan_is_scored_against_what_was_measured(prepared: Run) -> None:
    work = workload.work_of(prepared.settings)
    fit = fit_plan.as_set(prepared.settings, work)
    planned = sum(fit.phases[fit_plan.STEP].values())
    result = {"peak_memory_mib": round(planned / MIB), "seconds": sum(fit.seconds) / 2, "usd": 0.0}
    memory, seconds, _ = plan_table.score(prepared.settings, work, result)
    assert memory["within_plan"] and memory["off"] == pytest.approx(0, abs=0.001) and seconds["within_plan"]
    memory, seconds, _ = plan_table.score(
        prepared.settings, work, {"peak_memory_mib": 2 * result["peak_memory_mib"], "seconds": 1e9, "usd": 0.0}
    )
    assert not memory["within_plan"] and memory["off"] == pytest.approx(1.0, abs=0.01) and not seconds["within_plan"]
    for factor, within in ((1.19, True), (1.21, False), (0.81, True), (0.79, False)):
        memory, *_ = plan_table.score(prepared.settings, work, {**result, "peak_memory_mib": planned / MIB * factor})
        assert memory["within_plan"] == within, "on a CPU the plan may be off by a fifth"
    rented = prepared.settings.model_copy(update={"instance": "g5.xlarge"})
    low, high = fit_plan.as_set(rented, work).usd
    for measured, off in ((2 * high, 1.0), (low / 2, -0.5), ((low + high) / 2, 0.0)):
        usd = plan_table.score(rented, work, {"peak_memory_mib": 1, "seconds": 1.0, "usd": measured})[2]
        assert usd["what"].endswith("USD") and usd["off"] == pytest.approx(off) and usd["within_plan"] == (off == 0)


def test_a_notebook_shows_the_plan_in_two_lines_and_its_score_in_percent(prepared: Run) -> None:
    work = workload.work_of(prepared.settings)
    fit = fit_plan.as_set(prepared.settings, work)
    line = plan_table.time_and_money(prepared.settings, work)
    assert line == f"{work.origin}; {plan_table.span(*(seconds / 60 for seconds in fit.seconds))} minutes, 0.00 – 0.00 USD"
    assert plan_table.memory_line(fit) == f"needs {fit.peak / 2**30:.2f} GiB of {fit.available / 2**30:.2f} GiB: fits"
    full = replace(fit, available=fit.peak - 1)
    assert not full.fits and "python -m mistral_lib plan" in plan_table.memory_line(full)
    result = {"peak_memory_mib": 2 * sum(fit.phases[fit_plan.STEP].values()) / MIB, "seconds": sum(fit.seconds) / 2, "usd": 0.0}
    assert plan_table.score_table(prepared.settings, work, result)["off"].to_list() == ["+100%", "+0%", "+0%"]


def test_the_command_prints_what_fits_and_fails_without_a_corpus(settings: params.Settings, home) -> None:
    import subprocess
    import sys

    file = home / "small.yaml"
    file.write_text(params.to_yaml(settings))
    command = [sys.executable, "-m", "mistral_lib", "plan", str(file), "--tokens", "100000"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "for 100,000 training tokens, stated" in done.stdout and "g5.xlarge" in done.stdout and "weights in NF4" in done.stdout
    assert "8 optimizer steps (set by max_steps); one pass over the data takes 403. Few" in done.stdout
    assert "A domain is judged from" in done.stdout and "The verdict `ship` needs:\n- better overall" in done.stdout
    guessed = subprocess.run(command[:-2], capture_output=True, text=True)
    assert guessed.returncode == 0 and "training tokens, guessed from" in guessed.stdout
    nothing = subprocess.run([*command[:-2], "--set", "corpus_paths=[corpora/nowhere]"], capture_output=True, text=True)
    assert nothing.returncode == 1 and "corpora/nowhere" in nothing.stderr and "--tokens 2000000" in nothing.stderr
