"""Saves the adapter and proves that it is worth keeping: finite, changed by the training, and as good on disk as in memory.

Knows a model and a folder; train.py measures the losses. The folder is what one hands on, so its files name no path of this machine.
"""

from itertools import chain
from pathlib import Path
from typing import Any

import torch

from mistral_lib.model import adapter_readme, base_model
from mistral_lib.run import disk, files, hardware, sealed
from mistral_lib.run.settings import Settings
from mistral_lib.training.optimizer_steps import Ended

SAME_LOSS = 1e-3  # relative: how closely the reloaded adapter must repeat the validation loss


class TrainingFailedError(RuntimeError):
    """The result of a training did not pass the checks; the message says what was seen, expected and to do."""


def verify(model: Any, initial: str) -> None:
    """Errors: TrainingFailedError if the adapter holds NaN or infinity, or is the initial one, whose hash is `initial`."""
    weights = {name: p for name, p in model.named_parameters() if "lora_" in name}
    broken = [name for name, p in weights.items() if not torch.isfinite(p).all()]
    if broken:
        raise TrainingFailedError(
            f"{len(broken)} of {len(weights)} adapter tensors hold NaN or infinity ({broken[0]}, ...); lower learning_rate and train again"
        )
    if base_model.adapter_hash(model) == initial:
        raise TrainingFailedError(
            "the adapter is what it was before training; check that the data has supervised tokens and learning_rate is not tiny"
        )


def trained_on(blocks: Any, supervised_tokens: int, ended: Ended, blocks_per_step: int) -> dict[str, int]:
    """The training in numbers, as the adapter's folder holds them."""
    return {
        "records": len(set(chain.from_iterable(blocks["record_ids"]))),
        "blocks": len(blocks),
        "block_tokens": len(blocks[0]["input_ids"]),
        "supervised_tokens": supervised_tokens,
        "steps": ended.steps,
        "adapter_step": ended.adapter_step,
        "blocks_per_step": blocks_per_step,
    }


def save(model: Any, settings: Settings, folder: Path, initial: str, numbers: dict[str, int]) -> Path:
    """Save the adapter with its provenance and a README. numbers: `trained_on`. Errors: TrainingFailedError, DiskFullError."""
    verify(model, initial)
    trainable, _ = model.get_nb_trainable_parameters()
    disk.require(folder, disk.adapter_bytes(trainable), "the adapter", "The checkpoints are complete.")
    with sealed.new_folder(folder / "adapter") as new:
        name, commit = base_model.portable_id(settings.base_model)
        config = model.peft_config["default"]
        config.base_model_name_or_path, config.revision = name, commit
        model.save_pretrained(new, save_embedding_layers=False)  # with its default, peft asks the hub for a model of that name
        provenance = {
            "base_model": name, "base_revision": commit, "base_identity": base_model.fingerprint(settings.base_model),
            "initial_adapter_sha256": initial, "weights_sha256": files.sha256(new / "adapter_model.safetensors"), "trained_on": numbers,
            "dtype": hardware.choose_dtype(settings.dtype)[0], "parameters": {**settings.stage("training"), "base_model": name},
        }  # fmt: skip
        files.write_json(new / "provenance.json", provenance)
        files.write_text(new / "README.md", adapter_readme.text(settings, provenance))
    return folder / "adapter"


def require_same(repeated: float, expected: float) -> None:
    """Errors: TrainingFailedError if the adapter read back from disk has another validation loss than the trained one."""
    if not abs(repeated - expected) <= SAME_LOSS * expected:
        raise TrainingFailedError(
            f"the adapter read back from disk has a validation loss of {repeated:.5f}, the trained one had {expected:.5f}: "
            "what was saved is not what was trained; check the disk and the peft version"
        )
