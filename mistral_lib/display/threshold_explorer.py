"""The threshold explorer: move a threshold and see its effect on counts, leaks and tokens of a sample.

Run headless it shows the figures of the sample with this run's own parameters. It writes nothing: the page shows the lines
to type into the parameters cell.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets
from ipywidgets import Dropdown, FloatSlider, HBox, IntSlider, SelectionSlider

from mistral_lib.display import figure
from mistral_lib.display.widget_base import PlainTextBox
from mistral_lib.preparation import trial
from mistral_lib.preparation.trial import Sample
from mistral_lib.run import params
from mistral_lib.run.params import ParameterError
from mistral_lib.run.settings import LENGTHS, Settings

MOST_DOMAINS = 12  # with more, there are no sliders for the weights
WIDE = {"style": {"description_width": "13em"}, "layout": {"width": "32em"}}
SLIDER = {**WIDE, "continuous_update": False}
TOKENS_OF = "training tokens of "


class ThresholdExplorer(PlainTextBox):
    """`controls` holds a widget per parameter, `weights` one per domain; `table` shows the figures before and after."""

    def __init__(self, sample: Sample, settings: Settings, tokenizer: Any):
        self.sample, self.settings, self.tokenizer = sample, settings, tokenizer
        self.domains: list[str] = []
        self.before, self.error = self._prepare(settings)
        self.controls = _controls(settings)
        self.domains = [name.removeprefix(TOKENS_OF) for name in self.before if name.startswith(TOKENS_OF)]
        weighted = self.domains if len(self.domains) <= MOST_DOMAINS else []
        self.weights = {name: _weight(settings, name) for name in weighted}
        self.initial = {control: control.value for control in (*self.controls.values(), *self.weights.values())}
        self.message, self.table = ipywidgets.HTML(), ipywidgets.HTML(layout={"min_width": "46em"})
        for control in self.initial:
            control.observe(self.update, "value")
        left = ipywidgets.VBox([*self.controls.values(), *(_folded(list(self.weights.values())) if self.weights else []), self.message])
        plain = [f"{name}: {shown(value)}" for name, value in self.before.items()] or [self.error]
        super().__init__([HBox([left, self.table], layout={"flex_flow": "row wrap"})], "\n".join([self._head(), *plain]))
        self.update()

    def _prepare(self, settings: Settings) -> tuple[dict[str, float], str]:
        """(the figures of the sample, ""), or ({}, why it cannot be prepared): it may be too small for three splits."""
        try:
            return figures(trial.report(self.sample, settings, self.tokenizer), self.domains), ""
        except ValueError as error:
            return {}, f"the sample cannot be prepared: {error}"

    def _head(self) -> str:
        size = f"{self.sample.rows:,} of {self.sample.looked_at:,} rows, complete source documents"
        return size + (f"; {self.sample.unreadable:,} more cannot be read, with any threshold" if self.sample.unreadable else "")

    def changes(self) -> dict[str, Any]:
        """The parameters whose controls differ from this run's values."""
        chosen, weights = self._moved(self.controls), self._moved(self.weights)
        if weights:
            together = {**self.settings.domain_weights, **weights}
            chosen["domain_weights"] = {name: weight for name, weight in together.items() if name not in weights or weight != 1}
        return {name: value for name, value in chosen.items() if value != getattr(self.settings, name)}

    def _moved(self, controls: Mapping[str, ipywidgets.Widget]) -> dict[str, Any]:
        """The values of the controls that were moved; a slider's value is a sum of steps, so it is rounded."""
        moved = {name: control.value for name, control in controls.items() if control.value != self.initial[control]}
        return {name: round(value, 3) if isinstance(value, float) else value for name, value in moved.items()}

    def update(self, _: Any = None) -> None:
        changes = self.changes()
        self.message.value = "preparing the sample …"
        try:
            settings = params.validate({**self.settings.model_dump(), **changes}, "sliders")
        except ParameterError as error:
            self.message.value = f"<b>These values are not possible:</b> {html.escape(str(error))}"
            return
        after, error = self._prepare(settings) if changes else (self.before, self.error)
        if error:
            self.message.value = f"<b>{html.escape(error)}</b>"
            return
        self.table.value = html_table(self.before, after, self._head())
        lines = "\n".join(f"{name} = {value!r}" for name, value in changes.items())
        to_type = f"To prepare the complete corpus like this, type into the parameters cell:<pre>{html.escape(lines)}</pre>"
        self.message.value = to_type if changes else "Move a slider: the right column shows its effect."


def _controls(settings: Settings) -> dict[str, ipywidgets.Widget]:
    threshold, shortest = settings.near_duplicate_threshold, settings.shortest_answer
    controls = {
        "near_duplicate_threshold": FloatSlider(threshold, min=min(0.35, threshold), max=1, step=0.05, **SLIDER),
        "shortest_answer": IntSlider(shortest, min=1, max=max(500, shortest), **SLIDER),
        "max_tokens": SelectionSlider(options=sorted({*LENGTHS, settings.max_tokens}), value=settings.max_tokens, **SLIDER),
        "long_records": Dropdown(options=["split", "truncate", "reject"], value=settings.long_records, **WIDE),
        "operatives_share": FloatSlider(settings.operatives_share, min=0, max=1, step=0.01, **SLIDER),
    }
    for name, control in controls.items():
        control.description = name
    return controls


def _weight(settings: Settings, domain: str) -> FloatSlider:
    weight = settings.domain_weights.get(domain, 1.0)
    return FloatSlider(weight, min=0, max=max(3, weight), step=0.1, description=domain, **SLIDER)


def _folded(weights: list[FloatSlider]) -> list[ipywidgets.Widget]:
    """A button and the sliders that it shows and hides."""
    button = ipywidgets.ToggleButton(description="weight of each domain", icon="caret-down", layout={"width": "32em"})
    box = ipywidgets.VBox(weights, layout={"display": "none"})
    button.observe(lambda change: setattr(box.layout, "display", "" if change["new"] else "none"), "value")
    return [button, box]


def figures(report: Mapping[str, Any], domains: Sequence[str] = ()) -> dict[str, int | float]:
    """The figures of data/report.json that depend on these parameters, by name. domains: names from figure.largest."""
    tokens = report["mixture"]["after"]
    by_domain = figure.as_named(tokens, domains) if domains else figure.largest(tokens)
    random_split = report["leaked_by_a_random_split"]
    return {
        "rows": report["records_read"],
        "records kept": report["records_kept"],
        **{f"rejected: {reason}": count for reason, count in report["rejected"].items()},
        "exact duplicates": report["duplicates_exact"],
        "near-duplicates": report["duplicates_near"] or 0,
        **{f"{split} records": count for split, count in report["split_sizes"].items()},
        "leaked, text or answer": report["leaked_exact"],
        "leaked, prompt": report["leaked_prompt"],
        "leaked, near-duplicate": report["leaked_near"] or 0,
        "leaked, document": report["leaked_document"],
        "leaked by a random 80/20 split, text or answer": random_split["exact"] + random_split["answer"],
        "leaked by a random 80/20 split, near-duplicate": random_split["near"],
        **{f"{split} tokens": count for split, count in report["tokens"].items()},
        "supervised training tokens": report["supervised_tokens"]["train"],
        "tokens lost to length": report["tokens_lost_to_length"],
        "windows": sum(report["windows"].values()),
        "training blocks": report["blocks"]["train"],
        "fill of the training blocks": report["fill"]["train"],
        **{f"{TOKENS_OF}{domain}": count for domain, count in by_domain.items()},
    }


def shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def html_table(before: Mapping[str, float], after: Mapping[str, float], caption: str) -> str:
    """Both columns, and the difference in bold if there is one."""
    rows = []
    for name in dict.fromkeys([*before, *after]):
        was, is_ = before.get(name, 0), after.get(name, 0)
        change = f"<b>{'+' if is_ > was else '−'}{shown(abs(is_ - was))}</b>" if is_ != was else ""
        cells = "".join(f'<td style="text-align:right;padding:0 0.7em">{cell}</td>' for cell in (shown(was), shown(is_), change))
        rows.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    heads = "".join(f'<th style="text-align:right;padding:0 0.7em">{head}</th>' for head in ("this run", "with the sliders", "change"))
    head = f"<caption>{html.escape(caption)}</caption><tr><th></th>{heads}</tr>"
    return f'<table style="line-height:1.35">{head}{"".join(rows)}</table>'
