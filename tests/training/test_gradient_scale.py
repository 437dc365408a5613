"""float16's gradient scaler in a training: steps that it skips are counted, change no weight and hold the learning-rate schedule.

A CPU has the same scaler and the same fused AdamW; transformers only offers float16 on a GPU, so the test puts the scaler in place.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Trainer

from mistral_lib.display import training_dashboard
from mistral_lib.run import Run
from mistral_lib.training import stopping, train, training_log, training_status
from mistral_lib.training.trainer import SupervisedTrainer
from tests.support.disturbed_training import change_gradients, events


@pytest.fixture
def with_scaler(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], list[torch.amp.GradScaler]]:
    """Gives every trainer a gradient scaler that starts at this scale, as accelerate does in float16. Returns the scalers, as they come."""
    made, create = [], SupervisedTrainer.create_accelerator_and_postprocess

    def install(scale: float) -> list[torch.amp.GradScaler]:
        def with_float16(trainer: SupervisedTrainer) -> None:
            create(trainer)
            made.append(torch.amp.GradScaler("cpu", init_scale=scale))
            trainer.accelerator.scaler = made[-1]
            trainer.accelerator.unscale_gradients = lambda: trainer.accelerator.scaler.unscale_(trainer.optimizer.optimizer)

        monkeypatch.setattr(SupervisedTrainer, "create_accelerator_and_postprocess", with_float16)
        return made

    return install


class Watch:
    """Keeps the weights and the place in the schedule after each optimizer step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.weights, self.places, self.optimizers = [], [], []
        go_on = SupervisedTrainer._maybe_log_save_evaluate

        def after_step(trainer: SupervisedTrainer, *arguments: Any, **options: Any) -> None:
            if trainer.state.global_step > len(self.places):  # transformers calls it once more at the end of an epoch
                self.weights.append(torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters() if p.requires_grad]))
                self.places.append(trainer.lr_scheduler.last_epoch)
                self.optimizers.append(trainer.optimizer.optimizer)
            go_on(trainer, *arguments, **options)

        monkeypatch.setattr(SupervisedTrainer, "_maybe_log_save_evaluate", after_step)

    def unchanged(self) -> list[bool]:
        """For each step after the first, whether it left the weights as they were."""
        return [torch.equal(before, after) for before, after in zip(self.weights, self.weights[1:], strict=False)]


def test_an_overflow_at_scale_2_to_40_is_counted_and_changes_neither_weights_nor_schedule(
    opened: Callable[..., Run], with_scaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    scalers, watch, run = with_scaler(2.0**40), Watch(monkeypatch), opened(max_steps=40, warmup_share=0.0, checkpoint_every_steps=40)
    in_float16 = change_gradients(lambda number, gradient: gradient.half().float())
    with in_float16, pytest.raises(stopping.DivergedError, match=r"step 8: .*skipped 8 steps in a row and 8 in total"):
        train.train(run)
    assert run.status("training") == "failed" and scalers[-1].get_scale() == 2.0**32
    skipped, steps = events(run, "skipped"), events(run, "step")
    assert [event["step"] for event in skipped] == [event["in_a_row"] for event in skipped] == list(range(1, 8))
    assert [event["gradient_scale"] for event in skipped] == [2.0**exponent for exponent in range(40, 33, -1)]
    assert all(event["loss"] and event["gradient_norm"] is None for event in steps), "the loss was finite: only gradients overflowed"
    assert watch.places == [0] * 7 and all(watch.unchanged()) and len(watch.weights) == 7
    assert {event["learning_rate"] for event in steps} == {run.settings.learning_rate}
    assert watch.optimizers[0].defaults["fused"], "it skips by itself, and accelerate believes that the step was made"


@pytest.mark.parametrize("scale", [256.0, None], ids=["float16", "float32"])
def test_one_infinite_gradient_skips_one_step_which_holds_the_schedule(
    opened: Callable[..., Run], with_scaler, monkeypatch: pytest.MonkeyPatch, scale: float | None
) -> None:
    """Its loss is finite. Only in float16 the log, the status and the page have a gradient scale."""
    if scale:
        with_scaler(scale)
    watch, run = Watch(monkeypatch), opened(warmup_share=0.0)
    with change_gradients(lambda number, gradient: gradient * math.inf if number == 4 else gradient):  # the trial, 1, 2, and then step 3
        result = train.train(run)
    assert (result["status"], result["skipped_steps"], [event["step"] for event in events(run, "skipped")]) == ("complete", 1, [3])
    assert watch.unchanged() == [False, True, False, False, False] and watch.places == [1, 2, 2, 3, 4, 5]
    steps, now = events(run, "step"), training_status.status(run)
    assert steps[2]["loss"] is not None and steps[2]["gradient_norm"] is None
    page, text = training_dashboard.figures(now), training_status.describe(now)
    assert page["skipped steps"] == "1"
    if scale:
        assert [event["gradient_scale"] for event in steps] == [256.0] * 3 + [128.0] * 3
        assert training_log.line(steps[5]).endswith("gradient scale 128") and "gradient scale 128  " in text
        assert page["gradient scale"] == "128 (float16)" and now.gradient_scale == 128.0
    else:
        assert not any("gradient_scale" in event for event in steps) and "gradient scale" not in {*page, text}


def test_a_skip_that_only_the_scaler_noticed_is_counted_by_the_fall_of_its_scale(
    opened: Callable[..., Run], with_scaler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the norm were taken elsewhere: it is finite, and the scaler alone stops the step."""
    with_scaler(256.0)
    watch, run, norm = Watch(monkeypatch), opened(warmup_share=0.0, max_steps=4), Trainer._clip_grad_norm
    monkeypatch.setattr(Trainer, "_clip_grad_norm", lambda trainer, model: norm(trainer, model).nan_to_num(1.0, 1.0))
    with change_gradients(lambda number, gradient: gradient * math.inf if number == 4 else gradient):
        result = train.train(run)
    assert (result["status"], result["skipped_steps"]) == ("complete", 1) and watch.places == [1, 2, 2, 3]
    assert "the gradient scale fell from 256 to 128" in events(run, "skipped")[0]["because"]
