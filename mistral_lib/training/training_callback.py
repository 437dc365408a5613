"""What happens between the steps of a training: a log line, a validation, the best adapter kept, a stop that saves.

Knows the trainer's callbacks and the stopping rules; knows nothing of run folders or of when a training is complete.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from mistral_lib.run import allocator, hardware
from mistral_lib.run.settings import Settings
from mistral_lib.training import checkpoints, stopping, trackers, training_log
from mistral_lib.training.stopping import DivergenceCheck, Spending, Stopped, StopSignal
from mistral_lib.training.training_log import TrainingLog


class TrainingCallback(TrainerCallback):
    """Logs, validates and stops one attempt of a training.

    measure(model, what): returns the validation loss in nats per supervised token. baseline: that of the base model.
    """

    def __init__(
        self, settings: Settings, log: TrainingLog, stop: StopSignal, spending: Spending, divergence: DivergenceCheck,
        checkpoint_folder: Path, measure: Callable[[Any, str], float], tokens_per_step: int, baseline: float,
    ):  # fmt: skip
        self.settings, self.log, self.stop, self.spending, self.divergence = settings, log, stop, spending, divergence
        self.checkpoint_folder, self.measure, self.tokens_per_step, self.baseline = checkpoint_folder, measure, tokens_per_step, baseline
        self.reached_rule = partial(stopping.reached_rule, settings, spending)
        *earlier, started = log.events()
        self.reported = trackers.reported_earlier(earlier, settings.report_to)
        self.validations = training_log.validations([*earlier, started])
        self.stopped_by: str | None = None
        self.report: Callable[[dict[str, float]], None] = lambda figures: None  # the trainer's log, once there is a trainer
        self.step_began = time.perf_counter()

    # -- the trainer's callbacks, in their order within a step ------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        state.save_steps = args.save_steps  # transformers would use the checkpoint's, even if the parameter was changed
        if not state.global_step:
            self.report({"eval_loss": self.baseline})
        elif self._due(state):
            self.validate(model, state, control)  # a stop came between checkpoint and validation
        self.step_began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        allocator.release_free_memory()
        if self.stop.requested:
            control.should_save = control.should_training_stop = True
            return control
        self._stop_if_a_rule_is_reached(state, control)
        control.should_evaluate = self._due(state) or bool(self.settings.validate_every_steps and control.should_training_stop)
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:
            return
        self.spending.step_seconds.append(logs["step_seconds"])
        self.log.write(
            "step", step=state.global_step, steps=state.max_steps, loss=_finite(logs["loss"]), gradient_norm=_finite(logs.get("grad_norm")),
            learning_rate=logs["learning_rate"], tokens_per_second=logs["tokens_per_second"], seconds=round(logs["step_seconds"], 3),
            peak_memory_mib=logs["peak_memory_mib"], eta_seconds=round(self._seconds_left(state), 1), usd=logs["usd"],
            **{name: logs[name] for name in ("gradient_scale",) if name in logs},
        )  # fmt: skip
        if math.isfinite(logs["loss"]):
            self.divergence.step(state.global_step, logs["loss"])
        self.step_began = time.perf_counter()

    def figures(self) -> dict[str, float]:
        """What a step's line has besides transformers' loss, gradient norm and learning rate: seconds, tokens/s, MiB, USD."""
        seconds = time.perf_counter() - self.step_began
        return {
            "step_seconds": seconds,
            "tokens_per_second": round(self.tokens_per_step / seconds, 1),
            "peak_memory_mib": hardware.peak_memory_mib(),
            "usd": round(self.spending.usd(), 4),
        }

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.log.write("checkpoint", step=state.global_step)
        self.step_began = time.perf_counter()

    # -- validation -------------------------------------------------------------------------------------------------

    def validate(self, model: Any, state: Any, control: Any) -> None:
        """Measure the validation loss, keep the adapter if it is the best so far, and stop if a rule is reached."""
        if self.stop.requested:
            return
        began, step = time.perf_counter(), state.global_step
        try:
            with self.stop.during(stepping=False):
                loss = self.measure(model, f"after step {step}")
        except Stopped:  # in the middle: the step is saved, and measured when the training resumes
            control.should_save = control.should_training_stop = True
            return
        kept = checkpoints.best(self.checkpoint_folder)
        best = math.isfinite(loss) and (kept is None or loss < kept[2] or kept[1] == step)
        if best:
            checkpoints.keep_best(model, self.checkpoint_folder, step, loss)
        seconds = time.perf_counter() - began
        self.log.write("validation", what=f"after step {step}", step=step, loss=_finite(loss), best=best, seconds=round(seconds, 3))
        self.validations.append({"step": step, "loss": _finite(loss)})
        self.report({"eval_loss": loss})
        self._stop_if_a_rule_is_reached(state, control)
        self.step_began = time.perf_counter()

    def _due(self, state: Any) -> bool:
        """Whether this step's validation loss is to be measured, and has not been."""
        step, every = state.global_step, self.settings.validate_every_steps
        due = bool(every) and (step % every == 0 or step >= state.max_steps)
        return due and all(event["step"] != step for event in self.validations)

    # -- the end of the steps ----------------------------------------------------------------------------------------------------

    def _stop_if_a_rule_is_reached(self, state: Any, control: Any) -> None:
        found = self.reached_rule(state.global_step, self.validations)
        if found and self.stopped_by is None and state.global_step < state.max_steps:
            self.stopped_by = found[0]
            self.log.write("stopping", by=found[0], step=state.global_step, because=found[1])
        if found:
            control.should_save = control.should_training_stop = True

    def ended_at(self, checkpoint: Path, model: Any) -> bool:
        """Whether the steps had ended at this checkpoint, so that only saving and verifying is missing; the model then gets its weights."""
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        found, all_done = self.reached_rule(state.global_step, self.validations), state.global_step >= state.max_steps
        if found and not all_done:
            self.stopped_by = found[0]
        if found or all_done:
            checkpoints.load_weights(model, checkpoint)
            if self._due(state):
                self.validate(model, state, TrainerControl())
        return bool(found or all_done)

    def _seconds_left(self, state: Any) -> float:
        steps, every = state.max_steps - state.global_step, self.settings.validate_every_steps
        return self.spending.seconds_left(steps, math.ceil(steps / every) if every else 0)


def _finite(value: float | None) -> float | None:
    """None for NaN and infinity, which JSON does not have."""
    return float(value) if value is not None and math.isfinite(value) else None
