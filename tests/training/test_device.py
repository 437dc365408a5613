"""The device that was meant: a run for an instance with a GPU is not trained or evaluated on this machine's CPU; of several GPUs one is used."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from mistral_lib.display.training_dashboard import Dashboard
from mistral_lib.evaluation import evaluate
from mistral_lib.model import base_model
from mistral_lib.preparation import explore, prepare, stage_inputs
from mistral_lib.run import Run, cuda_device, hardware
from mistral_lib.run.cuda_device import NoUsableGpuError
from mistral_lib.training import fit_plan, out_of_memory, stopping, train, trainer_process, training_log, workload
from mistral_lib.training.optimizer_steps import OptimizerSteps
from mistral_lib.training.processes import distributed
from tests.support.corpora import other
from tests.support.disturbed_training import events, log_of

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def forbid(patch: pytest.MonkeyPatch, *places: tuple[Any, str]) -> None:
    """None of these may be called from now on."""
    for module, name in places:

        def fail(*_: Any, name: str = name, **__: Any) -> None:
            pytest.fail(f"{name} was called")

        patch.setattr(module, name, fail)


def test_training_for_a_gpu_stops_before_anything_is_loaded_in_every_process(opened: Callable[..., Run], monkeypatch) -> None:
    run = opened(instance="g5.xlarge")
    with monkeypatch.context() as patch:
        forbid(patch, (base_model, "load_base"), (base_model, "folder"), (stage_inputs, "hashes"), (distributed, "join"))
        forbid(patch, (trainer_process.subprocess, "Popen"))
        with pytest.raises(NoUsableGpuError, match=r"^training for instance g5\.xlarge \(A10G\) needs a usable CUDA device"):
            train.train(run)
        page = Dashboard(run)
        with pytest.raises(NoUsableGpuError):
            page.start()
        with pytest.raises(NoUsableGpuError):
            trainer_process.start(run)
        patch.setenv("RANK", "1")
        patch.setenv("WORLD_SIZE", "2")
        with pytest.raises(NoUsableGpuError):
            train.train(run)
    assert not (run.folder / "training").exists() and run.status("training") == "not started"


def test_exploring_preparing_and_planning_run_anywhere(settings) -> None:
    rented = Run.open(settings.model_copy(update={"instance": "g5.xlarge"}))
    explore.explore(rented)
    prepare.prepare(rented)
    assert rented.status("data") == "complete"
    assert fit_plan.as_set(rented.settings, workload.work_of(rented.settings)).gpu == "A10G"


def test_evaluation_stops_before_the_model_and_finished_work_is_read_on_any_machine(trained_run: Run, monkeypatch) -> None:
    rented = other(trained_run, instance="g5.xlarge")
    with monkeypatch.context() as patch:
        patch.setattr(cuda_device, "fault", lambda compute=True: None)
        trained = train.train(rented)
    with monkeypatch.context() as patch:
        forbid(patch, (base_model, "load_base"), (base_model, "load_tokenizer"), (stage_inputs, "hashes"))
        with pytest.raises(NoUsableGpuError, match=r"^evaluation for instance g5\.xlarge"):
            evaluate.evaluate(rented)
    assert train.train(rented) == trained, "nothing is left to do, so no GPU is needed"
    stage = evaluate.Evaluation(rented, rented.folder / "x", None)
    forbid(monkeypatch, (base_model, "load_base"))
    with pytest.raises(NoUsableGpuError):
        _ = stage.model


@pytest.mark.parametrize("count", [1, 3])
def test_of_several_gpus_in_one_process_one_is_used_and_the_log_says_so(
    opened: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """transformers would wrap the model in DataParallel and multiply the batch by the number of GPUs."""
    run = opened()
    steps = OptimizerSteps(
        run.settings, run.folder / "training" / "checkpoints", training_log.TrainingLog(None), stopping.StopSignal(),
        stopping.Spending(0, 0), out_of_memory.requested_shape(run.settings), lambda model, what: 0.0,
    )  # fmt: skip
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(hardware, "device", lambda: "cuda")
    plain = TrainingArguments(output_dir=str(run.folder / "x"), report_to=[])
    made = steps.arguments(6)
    assert (plain.n_gpu, made.n_gpu) == (count, 1)
    assert made.train_batch_size == made.per_device_train_batch_size == run.settings.micro_batch_size
    said = cuda_device.several_unused()
    assert said == (
        f"1 of {count} GPUs is used; all: torchrun --nproc_per_node {count} -m mistral_lib train <run folder>" if count > 1 else ""
    )
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert cuda_device.several_unused() == ""


def test_the_line_about_loading_names_the_gpus_that_are_not_used(opened: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened(max_steps=2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(base_model, "load_base", lambda settings: (_ for _ in ()).throw(RuntimeError("enough")))
    with pytest.raises(RuntimeError, match="enough"):
        train.train(run)
    assert training_log.line(events(run, "loading")[0]).endswith(
        "; 1 of 2 GPUs is used; all: torchrun --nproc_per_node 2 -m mistral_lib train <run folder>"
    )
    assert log_of(run)[-1]["event"] == "failed"


def test_a_training_that_does_not_fit_names_the_other_processes_on_the_card(monkeypatch: pytest.MonkeyPatch, opened) -> None:
    run = opened(micro_batch_size=2)
    holder = cuda_device.Holder(4711, "the kernel of 04_evaluate_adapter.ipynb", 6144)
    monkeypatch.setattr(cuda_device, "holders", lambda: [holder])
    log = training_log.TrainingLog(run.folder / "training" / "log.jsonl")
    log.path.parent.mkdir()
    shape = out_of_memory.requested_shape(run.settings)
    smaller = out_of_memory.shrunk(shape, "OutOfMemoryError: no", run.settings, log)
    event = events(run, "out_of_memory")[0]
    named = "Also on the card: process 4711 (the kernel of 04_evaluate_adapter.ipynb) with 6,144 MiB"
    assert event["others"].startswith(named) and named in training_log.line(event)
    with pytest.raises(
        out_of_memory.OutOfMemoryError,
        match=r"^OutOfMemoryError: no; a single block.*does not fit\. Also on the card: process 4711 .* In this",
    ):
        out_of_memory.shrunk(smaller, "OutOfMemoryError: no", run.settings, log)
