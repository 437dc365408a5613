"""Experiment trackers: `report_to` sends a training's figures to TensorBoard, MLflow, Weights & Biases or Trackio as well.

transformers' own callbacks report; they read where to, and under which name, from TrainingArguments and the environment.
Source: transformers.integrations.integration_utils
"""

import importlib.util
import os
from pathlib import Path
from typing import Any

from mistral_lib.run import files, paths
from mistral_lib.run.settings import Settings

NONE = "none"
PROJECT = "mistral-workbook"  # the runs' project (W&B, Trackio) or experiment (MLflow)
FOLDER = "tensorboard"  # below training/; not a part of the result


def require(report_to: str) -> None:
    """Errors: ModuleNotFoundError if the tracker's package is not installed; the message has the pip command."""
    if report_to != NONE and importlib.util.find_spec(report_to) is None:
        raise ModuleNotFoundError(
            f"report_to = {report_to!r} needs the package {report_to}, which is not installed: pip install {report_to}, or set report_to: {NONE}"
        )


def arguments(settings: Settings, folder: Path) -> dict[str, Any]:
    """The TrainingArguments that name the tracker and the run; the environment gets what the callbacks read from there.

    folder: training/ of the run. A value that the user's environment has already stays, but for TensorBoard's folder.
    """
    if settings.report_to == NONE:
        return {"report_to": []}
    if settings.report_to == "mlflow":
        import mlflow

        mlflow.end_run()  # a run per attempt: within one it refuses parameters that changed, such as a smaller micro batch
    first = files.read_json_lines(folder / "log.jsonl")[:1]
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / FOLDER)
    os.environ["WANDB_RUN_ID"] = files.digest([settings.run_name, first])[:16]  # the same one when this training resumes
    defaults = {
        "WANDB_PROJECT": PROJECT, "WANDB_DIR": str(paths.home()), "WANDB_RESUME": "allow", "MLFLOW_EXPERIMENT_NAME": PROJECT,
        "MLFLOW_TRACKING_URI": f"sqlite:///{paths.home() / 'mlflow.db'}",
    }  # fmt: skip
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    return {"report_to": [settings.report_to], "run_name": settings.run_name, "project": PROJECT}


def reported_earlier(events: list[dict[str, Any]], report_to: str) -> set[tuple[str, int]]:
    """What was reported to the same tracker: ("step" or "validation", step). Steps made again after a kill are not reported again."""
    found: set[tuple[str, int]] = set()
    same = False
    for event in events:
        if event["event"] == "process":
            same = event.get("report_to") == report_to
        elif same and event["event"] == "started":
            found.add(("validation", 0))  # the base model's, reported when the steps begin
        elif same and event["event"] in ("step", "validation") and "step" in event:
            found.add((event["event"], event["step"]))
    return found
