"""For eyes and fingers: ipywidgets that fall back to plain text wherever no widget can be shown.

Their plain form stands in plain_text_widget.py.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
from matplotlib.figure import Figure

from mistral_lib import plots, trainer_process
from mistral_lib.plain_text_widget import PlainTextBox


def describe(record: Mapping[str, Any], longest: int = 700) -> str:
    """One record as text: where it is from, then its messages or its document, cut at `longest` characters each."""
    head = f"{record['source']} · {record['domain']} · came as {record['shape']}"
    parts = [f"[{m['role']}] {m['content']}" for m in record["messages"]] if record["messages"] else [record["text"]]
    return "\n".join([head, *(part if len(part) <= longest else part[:longest] + " …" for part in parts)])


def record_browser(records: Sequence[Mapping[str, Any]]) -> ipywidgets.VBox:
    """Step through records: choose a domain, move with the slider or the arrow keys. `records`: mappings with source,
    domain, shape, messages or text."""
    names = ["all domains", *sorted({record["domain"] for record in records})]
    domain = ipywidgets.Dropdown(options=names, description="domain")
    place = ipywidgets.IntSlider(min=1, max=len(records), description="record", continuous_update=False)
    text = ipywidgets.HTML()

    def chosen() -> list[Mapping[str, Any]]:
        return [record for record in records if domain.value in ("all domains", record["domain"])]

    def show(_: Any = None) -> None:
        text.value = _preformatted(describe(chosen()[min(place.value, place.max) - 1]))

    def refill(_: Any) -> None:
        place.value, place.max = 1, len(chosen())
        show()

    place.observe(show, "value")
    domain.observe(refill, "value")
    show()
    return PlainTextBox(
        [ipywidgets.HBox([domain, place]), text], f"{len(records)} records to browse; the first:\n{describe(records[0], 300)}"
    )


def _preformatted(text: str) -> str:
    return f'<pre style="white-space:pre-wrap;line-height:1.4;max-height:24em;overflow:auto">{html.escape(text)}</pre>'


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
