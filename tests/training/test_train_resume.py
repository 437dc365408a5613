"""A training that resumes with other parameters, or is only verified again."""

import math
import shutil
from collections.abc import Callable

from datasets import load_from_disk

from mistral_lib.display import run_estimate
from mistral_lib.preparation import stage_inputs
from mistral_lib.run import Run, files
from mistral_lib.training import train, workload
from mistral_lib.training.training_log import TrainingLog
from tests.support.disturbed_training import events


def test_steps_and_measurements_are_as_planned_if_passes_end_within_a_step(opened: Callable[..., Run]) -> None:
    passes = {"max_steps": 0, "epochs": 2.0, "micro_batch_size": 8, "gradient_accumulation_steps": 5}
    run = opened(**passes, validate_every_steps=4)
    blocks = len(load_from_disk(run.folder / "data" / "train"))
    assert 1 <= blocks % 40 <= 20, "otherwise rounding once for both passes would give the same number of steps"
    result, work = train.train(run), workload.work_of(run.settings)
    estimate = run_estimate.Estimate(run.settings, work, (1.0, 2.0))
    planned = dict(estimate.rows())["steps"].split(" optimizer")[0]
    assert result["steps"] == work.steps == int(planned) == workload.steps(run.settings, blocks) == 2 * math.ceil(blocks / 40)
    least, most = workload.measurements(work.validations)
    assert work.validations == len(result["validation_curve"]) == 2 and least <= len(events(run, "measuring")) <= most == 5


def test_a_finished_training_is_only_verified_again_if_no_parameter_of_its_steps_changed(
    opened: Callable[..., Run], gpu_not_asked_for: None
) -> None:
    run = opened(checkpoint_every_steps=4)
    first = train.train(run)
    assert workload.measurements(workload.work_of(run.settings).validations) == (3, 3) and len(events(run, "measuring")) == 3
    weights = run.folder / "training" / "adapter" / "adapter_model.safetensors"
    trained = files.sha256(weights)
    step = {name: value for name, value in events(run, "step")[-1].items() if name not in ("event", "time")}
    TrainingLog(run.folder / "training" / "log.jsonl").write("step", **{**step, "peak_memory_mib": 10**6})  # a made-up peak
    priced = opened(instance="g5.xlarge", checkpoint_every_steps=5)
    assert train.can_resume(run.folder / "training", priced.changes("training", stage_inputs.hashes(priced, "training")))
    assert not train.can_resume(run.folder / "training", ["learning_rate: 0.005 became 0.004"])
    again = train.train(priced)
    shutil.rmtree(weights.parent)
    repaired = train.train(priced)
    with priced.lock("test"):
        priced.record("training", status="running")  # as after a kill once result.json was written
    last = train.train(priced)
    for result in (again, repaired, last):
        assert result["validation_loss"] == first["validation_loss"] and result["steps"] == 6 and priced.status("training") == "complete"
    assert last["peak_memory_mib"] == 10**6, "the largest of all attempts"
    assert again["usd"] > 0 and files.sha256(weights) == trained and last["attempts"] == 4
    assert len(events(priced, "step")) == 7 and len(events(priced, "started")) == 4
    kept = sorted(str(path.relative_to(priced.folder / "previous")).partition("/")[2] for path in priced.folder.glob("previous/*/*"))
    assert kept == ["adapter", "adapter", "result.json", "result.json", "result.json"]
    shutil.rmtree(priced.folder / "training" / "checkpoints")
    weights.unlink()
    assert train.train(priced)["attempts"] == 1, "there is nothing to resume from: it is trained again, and the earlier log is kept"
    assert files.sha256(weights) == trained and len(list(priced.folder.glob("previous/*/log.jsonl"))) == 1


def test_a_raised_patience_resumes_and_the_best_adapter_stays_the_best(opened: Callable[..., Run]) -> None:
    wild = {"max_steps": 30, "validate_every_steps": 1, "learning_rate": 0.3, "warmup_share": 0.0}
    first = train.train(opened(**wild, early_stopping_patience=2))
    run = opened(**wild, early_stopping_patience=4, checkpoint_every_steps=5)
    more = train.train(run)
    curve = {int(step): loss for step, loss in more["validation_curve"].items()}
    assert first["stopped_by"] == "early_stopping" and more["steps"] >= first["steps"] + 1
    assert [event["from_step"] for event in events(run, "started")] == [0, first["steps"]]
    assert list(curve) == list(range(1, more["steps"] + 1)) and more["adapter_of_step"] == min(curve, key=curve.get)
    assert {str(step): curve[step] for step in range(1, first["steps"] + 1)} == first["validation_curve"]
    assert more["stopped_by"] == ("early_stopping" if more["steps"] < 30 else None)
    saved = [event["step"] for event in events(run, "checkpoint") if event["step"] > first["steps"]]
    assert saved == [step for step in range(first["steps"] + 1, more["steps"] + 1) if step % 5 == 0 or step == more["steps"]]
