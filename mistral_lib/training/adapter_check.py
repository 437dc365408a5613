"""Saves the adapter and proves that it is worth keeping: finite, changed by the training, and as good on disk as in memory.

Knows a model and a folder; train.py measures the losses.
"""

from pathlib import Path
from typing import Any

import torch

from mistral_lib.model import base_model
from mistral_lib.run import disk, files, sealed
from mistral_lib.run.settings import Settings

SAME_LOSS = 1e-3  # relative: how closely the reloaded adapter must repeat the validation loss


class TrainingFailed(RuntimeError):
    """The result of a training did not pass the checks; the message says what was seen, expected and to do."""


def verify(model: Any, initial: str) -> None:
    """Errors: TrainingFailed if the adapter holds NaN or infinity, or is the initial one, whose hash is `initial`."""
    weights = {name: p for name, p in model.named_parameters() if "lora_" in name}
    broken = [name for name, p in weights.items() if not torch.isfinite(p).all()]
    if broken:
        raise TrainingFailed(
            f"{len(broken)} of {len(weights)} adapter tensors hold NaN or infinity ({broken[0]}, ...); lower learning_rate and train again"
        )
    if base_model.adapter_hash(model) == initial:
        raise TrainingFailed(
            "the adapter is what it was before training; check that the data has supervised tokens and learning_rate is not tiny"
        )


def save(model: Any, settings: Settings, folder: Path, initial: str) -> Path:
    """Save the adapter with its provenance. Errors: TrainingFailed, DiskFull."""
    verify(model, initial)
    trainable, _ = model.get_nb_trainable_parameters()
    disk.require(folder, disk.adapter_bytes(trainable), "the adapter", "The checkpoints are complete.")
    with sealed.new_folder(folder / "adapter") as new:
        model.save_pretrained(new)
        weights = files.sha256(new / "adapter_model.safetensors")
        provenance = {"base_model": settings.base_model, "base_identity": base_model.fingerprint(settings.base_model),
                      "initial_adapter_sha256": initial, "weights_sha256": weights, "parameters": settings.stage("training")}  # fmt: skip
        files.write_json(new / "provenance.json", provenance)
    return folder / "adapter"


def require_same(repeated: float, expected: float) -> None:
    """Errors: TrainingFailed if the adapter read back from disk has another validation loss than the trained one."""
    if not abs(repeated - expected) <= SAME_LOSS * expected:
        raise TrainingFailed(
            f"the adapter read back from disk has a validation loss of {repeated:.5f}, the trained one had {expected:.5f}: "
            "what was saved is not what was trained; check the disk and the peft version"
        )
