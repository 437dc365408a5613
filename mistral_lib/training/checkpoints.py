"""Checkpoints that are either whole or not there, and the best adapter so far.

Each is written under a hidden name, gets, last of all, a list of its files with their hashes, and is then renamed into
place. What is torn all the same (a power cut) is found out by its hashes and passed over.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial as partial_function
from pathlib import Path
from typing import Any

from mistral_lib.run import disk, files

SEAL = "whole.json"
PARTIAL = ".checkpoint.partial"
KEPT = 2  # the last good one, and the one before it


def seal(folder: Path) -> None:
    files.write_json(folder / SEAL, files.hashes(folder, folder))


def partial(folder: Path) -> Path:
    """Where the next checkpoint is being written."""
    return folder / PARTIAL


def is_complete(folder: Path) -> bool:
    """Whether every file is there with the hash that it was sealed with."""
    if not (folder / SEAL).is_file():
        return False
    try:
        sealed = files.read_json(folder / SEAL)
    except ValueError:
        return False
    now = files.hashes(folder, folder)
    return all(now.get(name) == fact for name, fact in sealed.items())


def step_of(folder: Path) -> int:
    return int(folder.name.rsplit("-", 1)[1])


def last_complete(folder: Path) -> Path | None:
    """The newest checkpoint below `folder` that was written to its end; None if there is none."""
    newest_first = sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)
    return next((path for path in newest_first if is_complete(path)), None)


@contextmanager
def put_in_place(folder: Path, name: str, wanted: int, what: str) -> Iterator[Path]:
    """Yields an empty folder to write into; sealed and renamed to `folder/name` if nothing went wrong.

    wanted: bytes that are asked for beforehand. Errors: DiskFull, after what was half written is gone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    kept = partial_function(_kept, folder)
    disk.require(folder, wanted, what, kept)
    partial.mkdir()
    try:
        with disk.full_reported(folder, wanted, what, kept, partial):
            yield partial
            seal(partial)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(folder / name, ignore_errors=True)  # from an attempt that came as far, and was not whole
    partial.rename(folder / name)


def _kept(folder: Path) -> str:
    last = last_complete(folder)
    return f"The checkpoint of step {step_of(last)} is complete." if last else "There is no checkpoint yet."


def tidy(folder: Path, keep: int = KEPT) -> None:
    """Remove all but the newest whole checkpoints, and those that are not whole."""
    whole = [path for path in sorted(folder.glob("checkpoint-*"), key=step_of) if (path / SEAL).is_file()]
    for path in folder.glob("checkpoint-*"):
        if path not in whole[-keep:]:
            shutil.rmtree(path, ignore_errors=True)


# -- the best adapter so far ----------------------------------------------------------------------------------------


def keep_best(model: Any, folder: Path, step: int, loss: float, wanted: int) -> None:
    """Save the adapter of this step as the best; the earlier best goes once this one stands."""
    with put_in_place(folder, f"best-{step}", wanted, f"the best adapter so far, of step {step}") as partial:
        model.save_pretrained(partial)
        files.write_json(partial / "best.json", {"step": step, "validation_loss": loss})
    for path in folder.glob("best-*"):
        if path.name != f"best-{step}":
            shutil.rmtree(path, ignore_errors=True)


def best(folder: Path) -> tuple[Path, int, float] | None:
    """The best adapter that was kept: its folder, its step and its validation loss (nats per supervised token)."""
    found = [(path, files.read_json(path / "best.json")) for path in folder.glob("best-*") if is_complete(path)]
    return min(((path, note["step"], note["validation_loss"]) for path, note in found), key=lambda item: item[2], default=None)


def load_weights(model: Any, folder: Path) -> None:
    """Put the adapter of a checkpoint, or a kept one, into the model."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))
