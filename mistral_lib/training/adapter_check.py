"""The proof that a training has come to something: the adapter on disk is finite, changed, and as good as the one in memory.

Knows a model and a folder; what was measured is handed in.
"""

import shutil
from pathlib import Path
from typing import Any

import torch

from mistral_lib.model import base_model, likelihood
from mistral_lib.model.likelihood import RecordLoss
from mistral_lib.run import disk, files
from mistral_lib.run.settings import Settings
from mistral_lib.training import training_log

SAME_LOSS = 1e-3  # relative: how closely the reloaded adapter must repeat the validation loss


class TrainingFailed(RuntimeError):
    """A training whose result cannot be vouched for; the message says what was seen, expected and to do."""


def verify(model: Any, initial: str) -> None:
    """Errors: TrainingFailed if the adapter holds a value that is no number, or is what it was before training."""
    weights = {name: p for name, p in model.named_parameters() if "lora_" in name}
    broken = [name for name, p in weights.items() if not torch.isfinite(p).all()]
    if broken:
        raise TrainingFailed(
            f"{len(broken)} of {len(weights)} adapter tensors hold NaN or infinity ({broken[0]}, ...); lower learning_rate and train anew"
        )
    if base_model.adapter_hash(model) == initial:
        raise TrainingFailed(
            "the adapter is what it was before training; check that the data has supervised tokens and learning_rate is not tiny"
        )


def save(model: Any, settings: Settings, folder: Path, initial: str) -> Path:
    """The adapter with its provenance, written beside its place and renamed. Errors: TrainingFailed, DiskFull."""
    verify(model, initial)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    disk.require(folder, disk.adapter_bytes(trainable), "the adapter", "The checkpoints are whole. ")
    partial, place = files.fresh_folder(folder / ".adapter.partial"), folder / "adapter"
    model.save_pretrained(partial)
    weights = files.sha256(partial / "adapter_model.safetensors")
    provenance = {"base_model": settings.base_model, "base_identity": base_model.identity(settings.base_model),
                  "initial_adapter_sha256": initial, "weights_sha256": weights, "parameters": settings.stage("training")}  # fmt: skip
    files.write_json(partial / "provenance.json", provenance)
    shutil.rmtree(place, ignore_errors=True)  # of an attempt that was cut off before it was complete
    partial.rename(place)
    return place


def require_same(repeated: float, expected: float) -> None:
    """Errors: TrainingFailed if the adapter read back from disk has another validation loss than the trained one."""
    if not abs(repeated - expected) <= SAME_LOSS * expected:
        raise TrainingFailed(
            f"the adapter read back from disk has a validation loss of {repeated:.5f}, the trained one had {expected:.5f}: "
            "what was saved is not what was trained; check the disk and the peft version"
        )


# -- training/result.json: what a training came to, and what happened on the way -----


def losses(before: list[RecordLoss], after: list[RecordLoss], reloaded: float) -> dict[str, Any]:
    """Base against adapter on the validation records, in all and by domain (nats per supervised token)."""
    base, adapter = likelihood.by_domain(before), likelihood.by_domain(after)
    return {
        "validation_loss": {"base": likelihood.mean(before), "adapter": likelihood.mean(after), "adapter_reloaded": reloaded},
        "domains": {
            domain: {"base": likelihood.mean(base[domain]), "adapter": likelihood.mean(adapter[domain]), "records": len(base[domain])}
            for domain in base
        },
        "validation_records": len(before),
        "validation_supervised_tokens": sum(loss.tokens for loss in before),
    }


def way(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What happened on the way, from the log's events."""
    return {
        "validation_curve": {str(event["step"]): event["loss"] for event in training_log.validations(events)},
        "attempts": sum(event["event"] == "process" for event in events),
        "out_of_memory": sum(event["event"] == "out_of_memory" for event in events),
        "skipped_steps": len(training_log.skipped(events)),
    }


def logged_peak_mib(events: list[dict[str, Any]]) -> int:
    """The most memory that any attempt has noted, MiB: the last one may have had nothing left to do but to verify."""
    return max((event["peak_memory_mib"] for event in events if "peak_memory_mib" in event), default=0)
