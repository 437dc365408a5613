"""A training's log as TensorBoard event files, for those who compare runs there. Needs the extra: pip install tensorboard."""

import shutil
from pathlib import Path

from mistral_lib.run import Run
from mistral_lib.training import training_log

STEP_FIGURES = ("loss", "gradient_norm", "learning_rate", "tokens_per_second", "peak_memory_mib", "usd")


def export(run: Run) -> Path:
    """Write runs/<name>/tensorboard/ anew from log.jsonl, at the times at which things happened; returns the folder.

    Errors: ModuleNotFoundError without tensorboard; FileNotFoundError for a training that has not begun.
    """
    log = run.folder / "training" / "log.jsonl"
    if not log.exists():
        raise FileNotFoundError(f"{run.folder.name}: no training/log.jsonl yet, so there is nothing to export; start the training first")
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        raise ModuleNotFoundError("tensorboard is not installed; it is an extra: pip install tensorboard") from None
    folder = run.folder / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        for step in training_log.steps(log):
            for name in STEP_FIGURES:
                if step.get(name) is not None:
                    writer.add_scalar(f"training/{name}", step[name], step["step"], step["time"])
        for measured in training_log.validations(log):
            if measured["loss"] is not None:
                writer.add_scalar("validation/loss", measured["loss"], measured["step"], measured["time"])
    return folder
