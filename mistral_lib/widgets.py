"""For eyes and fingers: ipywidgets that fall back to plain text wherever no widget can be shown.

Their plain form stands in plain_text_widget.py.
"""

from typing import Any

import ipywidgets
from matplotlib.figure import Figure

from mistral_lib import plots, trainer_process
from mistral_lib.plain_text_widget import PlainTextBox


class TrainingMonitor(PlainTextBox):
    """A progress bar, one line of figures and the loss curve, redrawn whenever it is called with the curve so far."""

    def __init__(self) -> None:
        self.progress = ipywidgets.IntProgress(min=0, max=1, layout={"width": "98%"})
        self.line = ipywidgets.HTML("the trainer loads the base model and measures the baseline …")
        self.curve = ipywidgets.Image(format="png", layout={"max_width": "800px"})
        super().__init__([self.progress, self.line, self.curve], "(live view of the training: progress, figures, loss curve)")

    def __call__(self, curve: list[dict[str, Any]]) -> None:
        if not curve:
            return
        last = curve[-1]
        self.progress.max, self.progress.value = last["steps"], last["step"]
        left = (last["steps"] - last["step"]) * (curve[-1]["time"] - curve[0]["time"]) / max(1, len(curve) - 1)
        self.line.value = f"{trainer_process.line(last)}  about {left:.0f} s left"
        axes = Figure(figsize=(8, 3.4), layout="constrained").subplots()  # not of pyplot's, which would show it a second time
        self.curve.value = plots.png(plots.loss_curve(curve, axes=axes).figure)
