"""The optimizer steps of a training: from the last whole checkpoint to the end, with a smaller micro batch where memory ran out.

Knows one model and its blocks; what is measured before and after, and what makes a training complete, stands in training.py.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, default_data_collator

from mistral_lib.model import likelihood
from mistral_lib.run import hardware
from mistral_lib.run.settings import Settings
from mistral_lib.training import checkpoints, distributed, largest_batch, out_of_memory, training_log, workload
from mistral_lib.training.out_of_memory import BatchShape
from mistral_lib.training.stop_signal import Stopped, StopSignal
from mistral_lib.training.stopping_rules import Health, Spending
from mistral_lib.training.trainer import SupervisedTrainer
from mistral_lib.training.training_callback import TrainingCallback
from mistral_lib.training.training_log import TrainingLog


class OptimizerSteps:
    """What Training does between its first measurement and its last."""

    settings: Settings
    place: Path  # of the checkpoints
    log: TrainingLog
    stop: StopSignal
    spending: Spending
    shape: BatchShape  # micro batch and accumulation as they are now
    trainable: int  # parameters
    stopped_by: str | None
    measure: Callable[..., list[likelihood.RecordLoss]]

    def shrink(self, why: str) -> None:
        """Go on with a smaller micro batch. Errors: OutOfMemory if there is none."""
        self.shape = out_of_memory.shrunk(self.shape, why, self.settings, self.log)

    def try_largest(self, model: Any, blocks: Any, counts: Any) -> None:
        """Shrink until the fullest batch fits, before any time is spent on steps."""

        def attempt() -> dict[str, Any]:
            self.log.write("trying", what="the fullest batch", **dataclasses.asdict(self.shape))
            return largest_batch.tried(self.trainer(model, blocks), model, blocks, counts, self.shape.micro_batch_size)

        self.log.write("largest_batch", **out_of_memory.retry_on_out_of_memory(attempt, self.shrink))

    def step_to_the_end(self, model: Any, blocks: Any, baseline: float) -> tuple[int, int]:
        """All steps, with a smaller micro batch where memory ran out; the model then holds the best adapter.

        Returns the number of steps, and the step that the adapter is of.
        """
        start = {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}

        def attempt() -> int:
            with torch.no_grad():
                for name, p in model.named_parameters():
                    if name in start:
                        p.copy_(start[name])
            return self.step(model, blocks, baseline)

        steps = out_of_memory.retry_on_out_of_memory(attempt, self.shrink, together=distributed.count() > 1)
        best = checkpoints.best(self.place) if self.settings.validate_every_steps else None
        if best and best[1] != steps:
            checkpoints.load_weights(model, best[0])
        return steps, best[1] if best else steps

    def step(self, model: Any, blocks: Any, baseline: float) -> int:
        """Train from the last whole checkpoint, or from the start; returns the number of steps."""
        checkpoints.tidy(self.place)
        last = checkpoints.last_complete(self.place)
        self.log.write("started", from_step=checkpoints.step_of(last) if last else 0, **dataclasses.asdict(self.shape))
        callback = self.callback(model, blocks, baseline)
        with self.stop.after_saving():
            ended = last and callback.ended_at(last, model)
            distributed.from_first(lambda: (self.shape, None if ended else str(last or "")))
            if ended:
                reached = checkpoints.step_of(last)
            else:
                trainer = self.trainer(model, blocks, callback)
                trainer.train(resume_from_checkpoint=str(last) if last else None)
                reached = trainer.state.global_step
        self.stopped_by = callback.stopped_by
        if self.stop.requested:
            raise Stopped(f"told to stop; saved at step {reached}")
        return reached

    def callback(self, model: Any, blocks: Any, baseline: float) -> TrainingCallback:
        skipped = len(training_log.skipped(self.log.events()))
        worst = max(baseline, math.log(model.config.vocab_size))
        health = Health(self.settings, self.steps_planned(blocks), worst, skipped)
        tokens = self.effective_batch() * len(blocks[0]["input_ids"])
        return TrainingCallback(
            self.settings, self.log, self.stop, self.spending, health, self.place,
            lambda model, when: likelihood.mean(self.measure(model, when)), tokens, self.trainable,
        )  # fmt: skip

    def steps_planned(self, blocks: Any) -> int:
        return workload.steps(self.settings, len(blocks), self.effective_batch())

    def effective_batch(self) -> int:
        """Blocks of an optimizer step, all processes together."""
        return self.shape.micro_batch_size * self.shape.gradient_accumulation_steps * distributed.count()

    def trainer(self, model: Any, blocks: Any, callback: TrainingCallback | None = None) -> SupervisedTrainer:
        return SupervisedTrainer(
            in_order=self.settings.order == "operatives_last", callback=callback, stop=self.stop,
            model=model, args=self.arguments(), data_collator=default_data_collator,
            train_dataset=blocks.select_columns(list(likelihood.COLUMNS)),
        )  # fmt: skip

    def arguments(self) -> TrainingArguments:
        s, cuda = self.settings, hardware.device() == "cuda"
        dtype = hardware.choose_dtype(s.dtype)[0]
        return TrainingArguments(
            output_dir=str(self.place), seed=s.seed, data_seed=s.seed, report_to="none", disable_tqdm=True,
            per_device_train_batch_size=self.shape.micro_batch_size, gradient_accumulation_steps=self.shape.gradient_accumulation_steps,
            max_steps=s.max_steps or -1, num_train_epochs=s.epochs, learning_rate=s.learning_rate, lr_scheduler_type="cosine",
            warmup_steps=s.warmup_share, activation_checkpointing=s.activation_checkpointing, use_cpu=not cuda,
            **mixed_precision(hardware.device(), dtype), dataloader_pin_memory=cuda,
            logging_steps=1, logging_nan_inf_filter=False, save_strategy="steps", save_steps=s.checkpoint_every_steps,
            remove_unused_columns=False, label_names=["labels"],
        )  # fmt: skip


def mixed_precision(device: str, dtype: str) -> dict[str, bool]:
    """The trainer's flags: on a GPU products run in `dtype` beside float32 LoRA weights, float16 with a loss scale; a CPU needs none."""
    return {"bf16": device == "cuda" and dtype == "bfloat16", "fp16": device == "cuda" and dtype == "float16"}
