"""The optimizer steps of a training: from the last complete checkpoint to the end, with a smaller micro batch after out of memory.

Knows one model and its blocks; train.py measures before and after, and decides whether the training is complete.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, default_data_collator

from mistral_lib.model import likelihood
from mistral_lib.run import hardware
from mistral_lib.run.settings import Settings
from mistral_lib.training import checkpoints, largest_batch, out_of_memory, trackers, training_log, workload
from mistral_lib.training.out_of_memory import BatchShape
from mistral_lib.training.processes import distributed, shared_run
from mistral_lib.training.stopping import DivergenceCheck, Spending, Stopped, StopSignal
from mistral_lib.training.trainer import SupervisedTrainer
from mistral_lib.training.training_callback import TrainingCallback
from mistral_lib.training.training_log import TrainingLog


@dataclass(frozen=True)
class Ended:
    """The end of the steps. The model then holds the adapter of `adapter_step`: the best one, or the last."""

    steps: int
    adapter_step: int
    stopped_by: str | None  # early_stopping, max_hours or max_usd; None: all steps were made


class OptimizerSteps:
    """Trains a model on packed blocks. `measure(model, what)` returns the validation loss in nats per supervised token.

    shape: micro batch, accumulation and recomputed layers; they change after out of memory. checkpoint_folder: where the checkpoints are.
    """

    def __init__(
        self, settings: Settings, checkpoint_folder: Path, log: TrainingLog, stop: StopSignal, spending: Spending, shape: BatchShape,
        measure: Callable[[Any, str], float],
    ):  # fmt: skip
        self.settings, self.checkpoint_folder, self.log, self.stop, self.spending = settings, checkpoint_folder, log, stop, spending
        self.shape, self.measure = shape, measure

    def shrink(self, why: str) -> None:
        """Use a smaller micro batch from now on. Errors: OutOfMemoryError if there is none."""
        self.shape = out_of_memory.shrunk(self.shape, why, self.settings, self.log)

    def effective_batch(self) -> int:
        """Blocks of an optimizer step, all processes together."""
        return self.shape.micro_batch_size * self.shape.gradient_accumulation_steps * distributed.count()

    def planned(self, blocks: Any) -> int:
        """Optimizer steps of the complete training."""
        return workload.steps(self.settings, len(blocks), self.effective_batch())

    def try_largest(self, model: Any, blocks: Any, counts: Any) -> None:
        """Shrink until the fullest batch fits, before any time is spent on steps. counts: supervised tokens of each block."""

        def attempt() -> dict[str, Any]:
            self.log.write("trying", what="the fullest batch", **dataclasses.asdict(self.shape))
            return largest_batch.tried(self.trainer(model, blocks), model, blocks, counts, self.shape.micro_batch_size)

        self.log.write("largest_batch", **out_of_memory.retry_on_out_of_memory(attempt, self.shrink))

    def train(self, model: Any, blocks: Any, baseline: float) -> Ended:
        """Make all steps, and put the best adapter into the model. baseline: the base model's validation loss."""
        start = {name: p.detach().cpu().clone() for name, p in model.named_parameters() if p.requires_grad}

        def attempt() -> tuple[int, str | None]:
            with torch.no_grad():
                for name, p in model.named_parameters():
                    if name in start:
                        p.copy_(start[name])
            return self.from_last_checkpoint(model, blocks, baseline)

        steps, stopped_by = out_of_memory.retry_on_out_of_memory(attempt, self.shrink, together=distributed.count() > 1)
        best = checkpoints.best(self.checkpoint_folder) if self.settings.validate_every_steps else None
        if best and best[1] != steps:
            checkpoints.load_weights(model, best[0])
        return Ended(steps, best[1] if best else steps, stopped_by)

    def from_last_checkpoint(self, model: Any, blocks: Any, baseline: float) -> tuple[int, str | None]:
        """Train from the last complete checkpoint, or from the start; the number of steps, and the rule that ended them.

        transformers restores adapter, optimizer, schedule, random state and place in the data from the checkpoint; what it must not
        restore, `TrainingCallback.on_train_begin` corrects. Errors: Stopped.
        """
        checkpoints.tidy(self.checkpoint_folder)
        last, steps = checkpoints.last_complete(self.checkpoint_folder), self.planned(blocks)
        self.log.write("started", from_step=checkpoints.step_of(last) if last else 0, steps=steps, **dataclasses.asdict(self.shape))
        callback = self.callback(model, blocks, baseline, steps)
        with self.stop.during(stepping=True):
            ended = last and callback.ended_at(last, model)
            distributed.from_first(lambda: (self.shape, None if ended else last.name if last else ""))
            if ended:
                reached = checkpoints.step_of(last)
            else:
                if last:
                    shared_run.share_checkpoint(self.checkpoint_folder, last.name)
                trainer = self.trainer(model, blocks, callback)
                trainer.train(resume_from_checkpoint=str(last) if last else None)
                reached = trainer.state.global_step
        if self.stop.requested:
            raise Stopped(f"stop signal received; saved at step {reached}")
        return reached, callback.stopped_by

    def assist(self, model: Any, blocks: Any) -> None:
        """In a process other than the first: its share of the steps, from the checkpoint and with the batch that the first one names."""

        def attempt() -> None:
            self.shape, last = distributed.from_first(lambda: None)
            if last:
                shared_run.share_checkpoint(self.checkpoint_folder, last)
            if last is not None:
                with self.stop.during(stepping=True):
                    self.trainer(model, blocks).train(resume_from_checkpoint=str(self.checkpoint_folder / last) if last else None)

        out_of_memory.retry_on_out_of_memory(attempt, lambda why: None, together=True)

    def callback(self, model: Any, blocks: Any, baseline: float, steps: int) -> TrainingCallback:
        skipped = len(training_log.skipped(self.log.events()))
        uniform_loss = max(baseline, math.log(model.config.vocab_size))
        divergence = DivergenceCheck(self.settings, steps, uniform_loss, skipped)
        tokens = self.effective_batch() * len(blocks[0]["input_ids"])
        return TrainingCallback(
            self.settings, self.log, self.stop, self.spending, divergence, self.checkpoint_folder, self.measure, tokens, baseline
        )

    def trainer(self, model: Any, blocks: Any, callback: TrainingCallback | None = None) -> SupervisedTrainer:
        autocast = autocast_type(hardware.device(), hardware.choose_dtype(self.settings.dtype)[0])
        return SupervisedTrainer(
            self.stop, callback, autocast, model=model, args=self.arguments(self.planned(blocks), reporting=callback is not None),
            data_collator=default_data_collator, train_dataset=blocks.select_columns(list(likelihood.COLUMNS)),
        )  # fmt: skip

    def arguments(self, steps: int, reporting: bool = False) -> TrainingArguments:
        s, cuda = self.settings, hardware.device() == "cuda"
        dtype, every = hardware.choose_dtype(s.dtype)[0], int(self.shape.activation_checkpointing)
        tracker = trackers.arguments(s, self.checkpoint_folder.parent) if reporting else {"report_to": []}
        made = TrainingArguments(
            output_dir=str(self.checkpoint_folder), seed=s.seed, data_seed=s.seed, disable_tqdm=True, **tracker,
            per_device_train_batch_size=self.shape.micro_batch_size, gradient_accumulation_steps=self.shape.gradient_accumulation_steps,
            max_steps=steps, num_train_epochs=s.epochs,  # steps decides; the epochs are for the trackers
            learning_rate=s.learning_rate, lr_scheduler_type="cosine",
            warmup_steps=s.warmup_share,  # transformers reads a value below 1 as a share of all steps
            activation_checkpointing=bool(every), activation_checkpointing_kwargs={"every_n_layers": every} if every else None,
            use_cpu=not cuda,
            fp16=cuda and dtype == "float16",  # for the loss scale; autocast is entered by `likelihood.training_losses`
            dataloader_pin_memory=cuda,
            logging_steps=1, logging_nan_inf_filter=False, save_strategy="steps", save_steps=s.checkpoint_every_steps,
            remove_unused_columns=False, label_names=["labels"],
            train_sampling_strategy="sequential" if s.order == "operatives_last" else "random",
        )  # fmt: skip
        # With several GPUs and one process, transformers would multiply the batch and copy the model to each of them (DataParallel).
        made._n_gpu = min(made.n_gpu, 1)
        return made


def autocast_type(device: str, dtype: str) -> torch.dtype | None:
    """The type of the products of a training step, whose LoRA weights are float32: on a GPU `dtype`; None, no autocast, on a CPU."""
    return getattr(torch, dtype) if device == "cuda" and dtype != "float32" else None
