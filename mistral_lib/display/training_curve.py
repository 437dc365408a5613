"""The loss curves of a training as one figure, with those of an earlier training for comparison.

Reads log.jsonl files; knows nothing of widgets or processes.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mistral_lib.display import figure
from mistral_lib.run import Run, all_runs, files
from mistral_lib.training import training_log

SMOOTHING = 0.8  # weight of the past in the running mean of the batches' losses
FEWEST_TO_SMOOTH = 20  # steps


@dataclass(frozen=True)
class Curves:
    """The losses in a training's log, in nats per supervised token."""

    steps: list[dict[str, Any]]  # `step` events, see training_log
    validations: list[dict[str, Any]]  # measured during training
    baseline: float | None  # validation loss of the untouched base model
    final: float | None  # validation loss after the last step

    @classmethod
    def read(cls, log: Path) -> "Curves":
        events = files.read_json_lines(log)
        measured = {event["what"]: event["loss"] for event in events if event["event"] == "validation"}
        return cls(training_log.steps(events), training_log.validations(events), measured.get("baseline"), measured.get("after training"))

    def points(self) -> list[tuple[int, float]]:
        """(step, validation loss): the base model at step 0, the finite losses measured during training, and the last."""
        found = {event["step"]: event["loss"] for event in self.validations if event["loss"] is not None}
        if self.baseline is not None:
            found[0] = self.baseline
        if self.final is not None and self.steps:
            found[self.steps[-1]["step"]] = self.final
        return sorted(found.items())


def running_mean(values: list[float]) -> list[float]:
    """Exponential mean, corrected for the bias of its start.   Source: Adam, Kingma and Ba 2015, section 3."""
    return pd.Series(values).ewm(alpha=1 - SMOOTHING).mean().tolist()


def draw(curves: Curves, earlier: Curves | None = None, earlier_name: str = "earlier run") -> Axes:
    """Loss by step; an earlier training's in dashes. The figure is made without pyplot, so a notebook does not show it a second time."""
    axes = Figure(figsize=(8.6, 3.3), layout="constrained", facecolor="white").subplots()
    if earlier is not None:
        _line(axes, earlier, name=f"{earlier_name}, ")
    _line(axes, curves)
    axes.set(xlabel="optimizer step", ylabel="loss, nats per supervised token")
    axes.set_xlim(left=0, right=max([1, *(c.steps[-1]["step"] for c in (curves, earlier) if c and c.steps)]))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6")
    if axes.lines:
        axes.legend(frameon=False, fontsize="small")
    lines = [curves_text(curves), *([f"{earlier_name}, for comparison: {curves_text(earlier)}"] if earlier else [])]
    axes.figure.set_label("\n".join(lines))
    return axes


def _line(axes: Axes, curves: Curves, name: str = "") -> None:
    """One training's curves; an earlier training's, which has a name, are dashed."""
    numbers, losses = [step["step"] for step in curves.steps], [step["loss"] for step in curves.steps]
    style: dict[str, Any] = {"linestyle": "--", "alpha": 0.55} if name else {"linestyle": "-"}
    marks: dict[str, Any] = {**style, "marker": "o", "clip_on": False}
    if len(losses) >= FEWEST_TO_SMOOTH:
        if not name:
            axes.plot(numbers, losses, color=figure.TRAIN, linewidth=0.8, alpha=0.4)
        axes.plot(numbers, running_mean(losses), color=figure.TRAIN, label=f"{name}training batches, running mean", **style)
    elif losses:
        batch = {**marks, "marker": "" if name else "o"}
        axes.plot(numbers, losses, color=figure.TRAIN, markersize=3, label=f"{name}training batch", **batch)
    if points := curves.points():
        axes.plot(*zip(*points, strict=True), color=figure.VALIDATION, markersize=5, label=f"{name}validation", **marks)


def curves_text(curves: Curves) -> str:
    """One curve's numbers, for the alternative text."""
    if not curves.steps:
        return "Loss by step: no step yet."
    last, points = curves.steps[-1], curves.points()
    batches = f"training batches from {curves.steps[0]['loss']:.3f} to {last['loss']:.3f}"
    validation = f"; validation from {points[0][1]:.3f} to {points[-1][1]:.3f}" if points else ""
    return f"Loss by step, {last['step']} of {last['steps']} steps: {batches}{validation}."


def earlier_logs(this: Run) -> dict[str, Path]:
    """The logs of other trainings with at least one step, newest first: of this run's earlier trainings and of other runs."""
    own = this.folder.glob("previous/training-*/log.jsonl")
    others = (folder / "training" / "log.jsonl" for folder in all_runs() if folder.resolve() != this.folder.resolve())
    found = [path for path in (*own, *others) if path.exists() and b'"step"' in path.read_bytes()]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return {_name(path): path for path in found}


def _name(log: Path) -> str:
    """Run and time: `quick, 23 Nov 14:05:09`."""
    folder = log.parent.parent.parent if log.parent.parent.name == "previous" else log.parent.parent
    return f"{folder.name}, {datetime.fromtimestamp(log.stat().st_mtime, UTC).astimezone():%d %b %H:%M:%S}"
