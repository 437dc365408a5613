"""transformers' Trainer as the workbook uses it: logits only for labels, broken steps skipped, checkpoints complete or not there.

Knows one model and its blocks; knows nothing of run folders or of when a training is complete.
"""

import math
import tempfile
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from transformers import PrinterCallback, Trainer, TrainerCallback

from mistral_lib.model import likelihood
from mistral_lib.run import allocator, disk, sealed
from mistral_lib.training import checkpoints, out_of_memory
from mistral_lib.training.processes import distributed
from mistral_lib.training.stopping import StopSignal
from mistral_lib.training.training_callback import TrainingCallback


class SupervisedTrainer(Trainer):
    """transformers' Trainer with logits only at supervised positions. Of several processes, only the first one has a callback.

    autocast: as in `likelihood.training_losses`.
    """

    def __init__(self, stop: StopSignal, callback: TrainingCallback | None = None, autocast: torch.dtype | None = None, **options: Any):
        allocator.keep_for_reuse()
        _answer_with_losses(options["model"], autocast)
        self.outcome = StepOutcome(self)
        own = [callback] if callback else []
        super().__init__(callbacks=[self.outcome, distributed.SharedStopRequest(stop), *own, distributed.StartTogether()], **options)
        self.callback = callback
        self.remove_callback(PrinterCallback)  # it prints raw dictionaries; the log prints a line for each event
        if callback:
            callback.report = self.log
        self.model_accepts_loss_kwargs = True  # the loss is divided once, by all supervised tokens of a step
        self.saving_into: Path | None = None
        self.shortage: str | None = None  # out of memory in this process, among several

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        losses = model(**{name: inputs[name] for name in likelihood.COLUMNS})
        # the number counts the supervised tokens of all processes, whose gradients are then averaged
        return losses.sum() / num_items_in_batch * self.accelerator.num_processes

    def floating_point_ops(self, inputs: Any) -> int:
        """Not used, and it would count the model's parameters at every step."""
        return 0

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Called between a step's log line and its checkpoint, if the callback requested it."""
        if self.callback:
            self.callback.validate(self.model, self.state, self.control)
        self.control.should_evaluate = False
        distributed.share_decisions(self.control)
        return {}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Hand a step's figures, or a validation loss, to the trackers and to our own callback.

        Left out: what an earlier attempt has reported, and transformers' summary, whose means are wrong after a resume.
        """
        if "train_runtime" in logs or self.callback is None:
            return
        if "loss" in logs:
            logs.update({**self.callback.figures(), **self.outcome.scale()})
        if ("step" if "loss" in logs else "validation", self.state.global_step) in self.callback.reported:
            self.callback.on_log(self.args, self.state, self.control, logs)
        else:
            super().log(logs, start_time)

    # -- several processes ----------------------------------------------------------------------------------------------

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Several processes make their gradients without communication: one that runs out of memory must not leave the others waiting
        in a backward pass. At the end of the step the gradients are averaged, or all processes give up."""
        if not isinstance(model, DistributedDataParallel):
            return super().training_step(model, inputs, num_items_in_batch)
        if self.shortage is None:
            try:
                with model.no_sync():
                    return super().training_step(model, inputs, num_items_in_batch)
            except (MemoryError, RuntimeError, OSError) as error:
                if not out_of_memory.is_shortage(error):
                    raise
                self.shortage = out_of_memory.describe(error)
        return torch.zeros((), device=self.args.device)

    def _average_or_give_up(self, model: Any) -> None:
        """Errors: SharedShortageError in every process if any ran out of memory."""
        if distributed.any_of(self.shortage is not None):
            short = {rank: why for rank, why in enumerate(distributed.gathered(self.shortage)) if why}
            raise out_of_memory.SharedShortageError(
                "; ".join(f"process {rank} of {distributed.count()}: {why}" for rank, why in short.items())
            )
        distributed.average_gradients(model.parameters())

    # -- broken steps -----------------------------------------------------------------------------------------------

    def _clip_grad_norm(self, model: Any) -> Any:
        """The norm before clipping. If the loss or the norm is not finite, the gradients are dropped, and the step changes nothing."""
        if isinstance(model, DistributedDataParallel):
            self._average_or_give_up(model)
        norm = super()._clip_grad_norm(model)
        if self.outcome.is_broken(self._tr_loss.item(), float(norm)):
            model.zero_grad(set_to_none=True)
        return norm

    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, *arguments: Any, **options: Any) -> None:
        distributed.share_decisions(self.control)
        super()._maybe_log_save_evaluate(tr_loss, *arguments, **options)
        if not torch.isfinite(tr_loss).all():
            tr_loss.zero_()  # or the sum of losses would never be finite again

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.saving_into) if self.saving_into else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Written into a hidden folder, sealed, and renamed into place. Errors: DiskFullError; DivergedError if the adapter is not finite."""
        place, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        if not distributed.is_first():
            return self._save_into(sealed.partial(place / name), model, trial)
        weights = [p for p in self.model.parameters() if p.requires_grad]
        if not all(torch.isfinite(p).all() for p in weights):
            raise self.callback.divergence.broken_adapter(self.state.global_step, checkpoints.last_complete(place))
        trainable = sum(p.numel() for p in weights)
        needed, what = disk.checkpoint_bytes(trainable), f"the checkpoint of step {self.state.global_step}"
        with checkpoints.new_checkpoint(place / name, needed, what) as new:
            self._save_into(new, model, trial)
            for path in (new / name).iterdir():
                path.rename(new / path.name)
            (new / name).rmdir()
        checkpoints.tidy(place)

    def _save_into(self, folder: Path, model: Any, trial: Any) -> None:
        """The first process writes; the others take part, because it writes their random states too."""
        distributed.wait()  # until the folder exists
        self.saving_into = folder
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.saving_into = None
        distributed.wait()  # until everything is written

    def _save_rng_state(self, output_dir: str) -> None:
        """The random states of all processes, written by the first one: the others may have no access to its folder."""
        if distributed.count() == 1:
            return super()._save_rng_state(output_dir)
        with tempfile.TemporaryDirectory() as own:
            super()._save_rng_state(own)
            written = {path.name: path.read_bytes() for path in Path(own).iterdir()}
        for states in distributed.gathered(written):
            for name, content in states.items() if distributed.is_first() else ():
                (Path(output_dir) / name).write_bytes(content)


class StepOutcome(TrainerCallback):
    """Whether an optimizer step changed the weights: one that did not is counted, and the learning-rate schedule waits for it.

    In float16 the gradient scaler also decides: it lowers its scale if it found a gradient that is not finite. Whether the optimizer was
    called says nothing, because the fused AdamW is called and skips by itself.
    """

    def __init__(self, trainer: SupervisedTrainer):
        self.trainer = trainer
        self.because: str | None = None  # why this step changes nothing
        self.used: float | None = None  # the scale by which this step's loss was multiplied

    def scale(self) -> dict[str, float]:
        """The gradient scale of this step; empty without a scaler, as in all compute types but float16."""
        return {} if self.used is None else {"gradient_scale": self.used}

    def is_broken(self, loss: float, norm: float) -> bool:
        """Call it before the optimizer: whether loss or gradient norm are not finite in any process."""
        scaler = self.trainer.accelerator.scaler
        self.used = scaler.get_scale() if scaler is not None else None
        broken = distributed.any_of(not (math.isfinite(loss) and math.isfinite(norm)))
        self.because = f"loss {loss}, gradient norm {norm}" if broken else None
        return broken

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """transformers calls it between the optimizer and the schedule. Errors: DivergedError if too many steps were skipped."""
        trainer, scaler = self.trainer, self.trainer.accelerator.scaler
        if self.because is None and scaler is not None and (lowered := scaler.get_scale()) < self.used:
            self.because = f"a gradient overflowed in float16: the gradient scale fell from {self.used:g} to {lowered:g}"
        trainer.optimizer._is_overflow = self.because is not None  # what transformers asks before it moves the schedule on
        if self.because and trainer.callback:
            skipped = trainer.callback.divergence.skip(state.global_step + 1, self.because)
            trainer.callback.log.write("skipped", **skipped, **self.scale())


def _answer_with_losses(model: Any, autocast: torch.dtype | None) -> None:
    """Make the model's forward return its token losses: DistributedDataParallel shares the gradients of that forward.
    Frozen weights are the same in every process and are not sent."""

    def losses(self: Any, **batch: torch.Tensor) -> torch.Tensor:
        return likelihood.training_losses(self, batch, autocast)

    model.forward = MethodType(losses, model)
    frozen = [name for name, value in (*model.named_parameters(), *model.named_buffers()) if not value.requires_grad]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, frozen)
