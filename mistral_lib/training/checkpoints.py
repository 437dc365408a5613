"""Checkpoints that are complete or not there, and the best adapter so far."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from mistral_lib.run import disk, files, sealed

KEPT = 2  # the last complete one, and the one before it


def step_of(folder: Path) -> int:
    return int(folder.name.rsplit("-", 1)[1])


def last_complete(folder: Path) -> Path | None:
    """The newest complete checkpoint below `folder`; None if there is none."""
    newest_first = sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)
    return next((path for path in newest_first if sealed.is_complete(path)), None)


@contextmanager
def new_checkpoint(place: Path, needed: int, what: str) -> Iterator[Path]:
    """Yields an empty folder to write into; it stands at `place`, complete, when the block ends.

    needed: bytes that must be free. Errors: DiskFullError; the partial folder is deleted then.
    """
    kept = partial(_kept, place.parent)
    with sealed.new_folder(place) as folder:
        disk.require(place.parent, needed, what, kept)
        with disk.full_reported(place.parent, needed, what, kept, folder):
            yield folder
            sealed.seal(folder)


def _kept(folder: Path) -> str:
    last = last_complete(folder)
    return f"The checkpoint of step {step_of(last)} is complete." if last else "There is no checkpoint yet."


def tidy(folder: Path) -> None:
    """Delete all but the newest complete checkpoints, and what a killed process left half-written."""
    listed = [path for path in sorted(folder.glob("checkpoint-*"), key=step_of) if (path / sealed.FILES).is_file()]
    for path in [*folder.glob("checkpoint-*"), *folder.glob(".*.partial")]:
        if path not in listed[-KEPT:]:
            shutil.rmtree(path, ignore_errors=True)


# -- the best adapter so far ----------------------------------------------------------------------------------------


def keep_best(model: Any, folder: Path, step: int, loss: float) -> None:
    """Save the adapter of this step as the best, then delete the earlier best."""
    needed = disk.adapter_bytes(model.get_nb_trainable_parameters()[0])
    with new_checkpoint(folder / f"best-{step}", needed, f"the best adapter so far, of step {step}") as new:
        model.save_pretrained(new)
        files.write_json(new / "best.json", {"step": step, "validation_loss": loss})
    for path in folder.glob("best-*"):
        if path.name != f"best-{step}":
            shutil.rmtree(path, ignore_errors=True)


def best(folder: Path) -> tuple[Path, int, float] | None:
    """The best adapter that was kept: its folder, its step and its validation loss (nats per supervised token)."""
    found = [(path, files.read_json(path / "best.json")) for path in folder.glob("best-*") if sealed.is_complete(path)]
    return min(((path, note["step"], note["validation_loss"]) for path, note in found), key=lambda item: item[2], default=None)


def load_weights(model: Any, folder: Path) -> None:
    """Put the adapter of a checkpoint, or a kept one, into the model."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
