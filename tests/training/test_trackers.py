"""What experiment trackers receive of a training, and what they must not change."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from mistral_lib.preparation import stage_inputs
from mistral_lib.run import Run
from mistral_lib.training import train, training_log
from tests.support.disturbed_training import after_step, events, log_of

FIGURES = {"loss", "grad_norm", "learning_rate", "tokens_per_second", "step_seconds", "peak_memory_mib", "usd", "epoch"}


class Recorder(TrainerCallback):
    """Replaces transformers' TensorBoard callback: it uses the same folder, and keeps the figures that it gets."""

    received: list[tuple[int, dict[str, Any]]]

    def __init__(self) -> None:
        Path(os.environ["TENSORBOARD_LOGGING_DIR"]).mkdir(exist_ok=True)
        (Path(os.environ["TENSORBOARD_LOGGING_DIR"]) / "events").write_text("figures")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        Recorder.received.append((state.global_step, dict(logs)))


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[int, dict[str, Any]]]:
    """The pairs of step and figures that the tracker gets."""
    (tmp_path / "installed" / "tensorboard").mkdir(parents=True)
    (tmp_path / "installed" / "tensorboard" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "installed")
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Recorder)
    Recorder.received = []
    return Recorder.received


def fail(_: Any) -> None:
    raise KeyError("as if it had been killed")


def test_a_tracker_gets_every_step_and_validation_once_also_after_a_resume(
    opened: Callable[..., Run], received: list[tuple[int, dict[str, Any]]], gpu_not_asked_for: None
) -> None:
    run = opened(report_to="tensorboard", validate_every_steps=2, instance="g5.xlarge")
    with after_step(4, fail), pytest.raises(KeyError):
        train.train(run)
    result = train.train(run)
    assert [event["from_step"] for event in events(run, "started")] == [0, 2], "step 3 was made twice"
    steps = {step: figures for step, figures in received if "loss" in figures}
    measured = {step: figures["eval_loss"] for step, figures in received if "eval_loss" in figures}
    assert [step for step, figures in received if "loss" in figures] == [1, 2, 3, 4, 5, 6]
    assert [step for step, figures in received if "eval_loss" in figures] == [0, 2, 4, 6] and len(received) == 10
    assert all(set(figures) == FIGURES for figures in steps.values())
    assert measured[0] == result["validation_loss"]["base"]
    assert {str(step): loss for step, loss in measured.items() if step} == result["validation_curve"]
    for event in training_log.steps(log_of(run)):
        sent = steps[event["step"]]
        assert sent["loss"] == pytest.approx(event["loss"], rel=1e-6) and sent["learning_rate"] == event["learning_rate"]
        if event["step"] > 3:
            assert (sent["tokens_per_second"], sent["usd"]) == (event["tokens_per_second"], event["usd"])
        assert sent["usd"] > 0 and sent["peak_memory_mib"] > 0


def test_neither_the_choice_of_a_tracker_nor_its_files_make_a_finished_training_stale(
    opened: Callable[..., Run], received: list[tuple[int, dict[str, Any]]]
) -> None:
    run = opened(report_to="tensorboard", max_steps=2)
    train.train(run)
    folder = run.folder / "training" / "tensorboard"
    assert (folder / "events").is_file() and received
    assert not [name for name in run.entry("training")["outputs"] if "tensorboard" in name]
    shutil.rmtree(folder)
    silent = opened(report_to="none", max_steps=2)
    assert silent.reasons_to_run("training", stage_inputs.hashes(silent, "training")) == []


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_loaded(
    opened: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(report_to="wandb")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ModuleNotFoundError, match=r"report_to = 'wandb'.*pip install wandb"):
        train.train(run)
    assert run.status("training") == "not started" and not (run.folder / "training").exists()


def test_tensorboard_itself_shows_the_figures(opened: Callable[..., Run]) -> None:
    pytest.importorskip("tensorboard", reason="an extra: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = opened(report_to="tensorboard", validate_every_steps=2)
    with after_step(4, fail), pytest.raises(KeyError):
        train.train(run)
    result = train.train(run)
    shown = EventAccumulator(str(run.folder / "training" / "tensorboard")).Reload()
    assert [point.step for point in shown.Scalars("train/loss")] == [1, 2, 3, 4, 5, 6]
    curve = {str(point.step): point.value for point in shown.Scalars("eval/loss") if point.step}
    assert curve == pytest.approx(result["validation_curve"], rel=1e-5)
