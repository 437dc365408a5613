"""transformers' Trainer as the workbook uses it: logits only where a label is, a log line per step, sealed checkpoints, and a stop that saves.

Knows one model and its blocks; knows nothing of run folders or of when a training is complete.
"""

import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerCallback

from mistral_lib import checkpoints, hardware, likelihood
from mistral_lib.training_log import TrainingLog


class Stopped(KeyboardInterrupt):
    """The process was told to stop, and saved."""


class StopSignal:
    """SIGTERM and SIGINT: between steps a wish that the trainer honours after saving, elsewhere an end at once."""

    def __init__(self) -> None:
        self.wished = False
        self.stepping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: Any) -> None:
        self.wished = True
        if not self.stepping:
            raise Stopped(signal.Signals(number).name)


class SupervisedTrainer(Trainer):
    """transformers' Trainer with logits only at supervised positions."""

    def __init__(self, in_order: bool, **options: Any):
        super().__init__(**options)
        self.in_order = in_order
        self.model_accepts_loss_kwargs = True  # so that the loss is divided by all supervised tokens of a step, once

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset) if self.in_order else super()._get_train_sampler(train_dataset)

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        losses, _ = likelihood.token_losses(model, inputs)
        return losses.sum() / num_items_in_batch


class Chronicle(TrainerCallback):
    """Writes a log line per step, seals each checkpoint, and passes a wish to stop on to the trainer."""

    def __init__(self, log: TrainingLog, stop: StopSignal, tokens_per_step: int, usd_per_hour: float):
        self.log, self.stop = log, stop
        self.tokens_per_step, self.usd_per_hour = tokens_per_step, usd_per_hour
        self.began = self.step_began = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:
            return
        now = time.perf_counter()
        self.log.write(
            "step", step=state.global_step, steps=state.max_steps, loss=logs["loss"], gradient_norm=logs.get("grad_norm"),
            learning_rate=logs["learning_rate"], tokens_per_second=round(self.tokens_per_step / (now - self.step_began), 1),
            peak_memory_mib=hardware.peak_memory_mib(), usd=round((now - self.began) / 3600 * self.usd_per_hour, 4),
        )  # fmt: skip
        self.step_began = now

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if self.stop.wished:
            control.should_save = control.should_training_stop = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        checkpoints.seal(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        self.log.write("checkpoint", step=state.global_step)
