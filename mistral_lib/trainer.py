"""transformers' Trainer as the workbook uses it: logits only where a label is, broken steps left out, checkpoints whole or not there.

Knows one model and its blocks; knows nothing of run folders or of when a training is complete.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer

from mistral_lib import checkpoints, disk_space, likelihood
from mistral_lib.chronicle import Chronicle


class SupervisedTrainer(Trainer):
    """transformers' Trainer with logits only at supervised positions."""

    def __init__(self, in_order: bool, chronicle: Chronicle | None = None, **options: Any):
        super().__init__(callbacks=[chronicle] if chronicle else [], **options)
        self.in_order, self.chronicle = in_order, chronicle
        self.model_accepts_loss_kwargs = True  # so that the loss is divided by all supervised tokens of a step, once
        self.saving_into: Path | None = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return SequentialSampler(self.train_dataset) if self.in_order else super()._get_train_sampler(train_dataset)

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        losses, _ = likelihood.token_losses(model, inputs)
        return losses.sum() / num_items_in_batch

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Called between a step's log line and its checkpoint, when the chronicle asked for it."""
        self.chronicle.validate(self.model, self.state, self.control)
        self.control.should_evaluate = False
        return {}

    # -- broken steps -----------------------------------------------------------------------------------------------

    def _clip_grad_norm(self, model: Any) -> Any:
        """The norm before clipping; a step whose loss or gradient is no number gets no gradients, and so changes nothing."""
        norm = super()._clip_grad_norm(model)
        loss = self._tr_loss.item()
        if not (math.isfinite(loss) and math.isfinite(float(norm))):
            model.zero_grad(set_to_none=True)
            because = f"loss {loss}, gradient norm {float(norm)}"
            self.chronicle.log.write("skipped", **self.chronicle.health.skip(self.state.global_step + 1, because))
        return norm

    def _maybe_log_save_evaluate(self, tr_loss: torch.Tensor, *arguments: Any, **options: Any) -> None:
        super()._maybe_log_save_evaluate(tr_loss, *arguments, **options)
        if not torch.isfinite(tr_loss).all():
            tr_loss.zero_()  # or the sum of losses would be no number for ever after

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.saving_into) if self.saving_into else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Written into a hidden folder, sealed, and put in place. Errors: DiskFull."""
        place, name = Path(self.args.output_dir), f"checkpoint-{self.state.global_step}"
        trainable = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        wanted, what = disk_space.checkpoint_bytes(trainable), f"the checkpoint of step {self.state.global_step}"
        with checkpoints.put_in_place(place, name, wanted, what) as partial:
            self.saving_into = partial
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.saving_into = None
            for path in (partial / name).iterdir():
                path.rename(partial / path.name)
            (partial / name).rmdir()
        checkpoints.tidy(place)
