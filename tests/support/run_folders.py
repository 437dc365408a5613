"""Run folders as a run leaves them, with checkpoints sealed by the library itself, without a training."""

import os
from pathlib import Path

from mistral_lib.run import files, sealed

LARGE = 9 * 2**20  # bytes; above what is uploaded in one piece


def checkpoint(folder: Path, step: int, size: int = 1000, name: str = "checkpoint") -> Path:
    """A complete checkpoint."""
    place = folder / "training" / "checkpoints" / f"{name}-{step}"
    with sealed.new_folder(place) as new:
        (new / "adapter_model.safetensors").write_bytes(os.urandom(size))
        files.write_json(new / "trainer_state.json", {"global_step": step})
        sealed.seal(new)
    return place


def run_folder(folder: Path, steps: tuple[int, ...] = (4, 8)) -> Path:
    """A run in the middle of its training."""
    files.write_json(folder / "manifest.json", {"stages": {"data": {"status": "complete"}, "training": {"status": "running"}}})
    files.write_text(folder / "params.yaml", "run_name: quick\n")
    files.write_bytes(folder / "data" / "records.parquet", os.urandom(2000))
    files.append_json_line(folder / "training" / "log.jsonl", {"event": "step", "step": 1})
    files.write_text(folder / ".evaluation.measured" / "test.jsonl", "{}\n")
    (folder / ".lock").write_text("{}")
    files.write_text(folder / "training" / ".progress.json", "{}")
    files.write_text(folder / ".evaluation.partial" / "half.json", "{")
    files.write_text(folder / "training" / "checkpoints" / ".checkpoint-12.partial" / "adapter_model.safetensors", "half")
    for step in steps:
        checkpoint(folder, step)
    return folder
