"""The preparation cockpit: move a threshold and see what it would do to counts, leak and tokens, on a sample.

Headless it is the table of the sample under this run's own parameters. Nothing is written: what is found good here is
typed into the parameters cell, as the cockpit spells it out.
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

MOST_DOMAINS = 12  # of more, the weights are typed in the parameters cell
WIDE = {"style": {"description_width": "13em"}, "layout": {"width": "32em"}, "continuous_update": False}


class ThresholdExplorer(PlainTextBox):
    """`controls` holds a widget per parameter, `weights` one per domain; `table` shows the outcome."""

    def __init__(self, sample: Sample, settings: Settings, tokenizer: Any):
        self.sample, self.settings, self.tokenizer = sample, settings, tokenizer
        self.domains: list[str] = []
        self.before, self.fault = self._tried(settings)
        self.controls = _controls(settings)
        self.domains = [name.removeprefix(TOKENS_OF) for name in self.before if name.startswith(TOKENS_OF)]
        weighed = self.domains if len(self.domains) <= MOST_DOMAINS else []
        self.weights = {name: _weight(settings, name) for name in weighed}
        self.unmoved, self.unmoved_weights = _values(self.controls), _values(self.weights)
        self.message, self.table = ipywidgets.HTML(), ipywidgets.HTML(layout={"min_width": "46em"})
        for control in (*self.controls.values(), *self.weights.values()):
            control.observe(self.update, "value")
        left = ipywidgets.VBox([*self.controls.values(), *(_folded(list(self.weights.values())) if self.weights else []), self.message])
        plain = [f"{name}: {shown(value)}" for name, value in self.before.items()] or [self.fault]
        super().__init__([HBox([left, self.table], layout={"flex_flow": "row wrap"})], "\n".join([self._head(), *plain]))
        self.update()

    def _tried(self, settings: Settings) -> tuple[dict[str, float], str]:
        """The figures of the sample, or none and why: a sample may be too small for three splits where the whole is not."""
        try:
            return figures(trial.report(self.sample, settings, self.tokenizer), self.domains), ""
        except ValueError as error:
            return {}, f"the sample cannot be prepared: {error}"

    def _head(self) -> str:
        of = f"{self.sample.rows:,} of {self.sample.looked_at:,} rows, whole source documents"
        return of + (f"; {self.sample.unreadable:,} more cannot be read, whatever is chosen here" if self.sample.unreadable else "")

    def changes(self) -> dict[str, Any]:
        """The parameters whose controls were moved from what this run says."""
        chosen, weights = _moved(self.controls, self.unmoved), _moved(self.weights, self.unmoved_weights)
        if weights:
            together = {**self.settings.domain_weights, **weights}
            chosen["domain_weights"] = {name: weight for name, weight in together.items() if name not in weights or weight != 1}
        return {name: value for name, value in chosen.items() if value != getattr(self.settings, name)}

    def update(self, _: Any = None) -> None:
        changes = self.changes()
        self.message.value = "preparing the sample …"
        try:
            settings = params.validate({**self.settings.model_dump(), **changes}, "sliders")
        except ParameterError as error:
            self.message.value = f"<b>This cannot be:</b> {html.escape(str(error))}"
            return
        after, fault = self._tried(settings) if changes else (self.before, self.fault)
        if fault:
            self.message.value = f"<b>{html.escape(fault)}</b>"
            return
        self.table.value = html_table(self.before, after, self._head())
        lines = "\n".join(f"{name} = {value!r}" for name, value in changes.items())
        typed = f"To prepare the whole corpus like this, type in the parameters cell:<pre>{html.escape(lines)}</pre>"
        self.message.value = typed if changes else "Move a slider: the right column shows what it would do."


def _values(controls: Mapping[str, ipywidgets.Widget]) -> dict[str, Any]:
    return {name: control.value for name, control in controls.items()}


def _moved(controls: Mapping[str, ipywidgets.Widget], unmoved: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the controls that do not stand where they began; a slider's sums of steps without what rounding adds to them."""
    moved = {name: value for name, value in _values(controls).items() if value != unmoved[name]}
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in moved.items()}


def _controls(settings: Settings) -> dict[str, ipywidgets.Widget]:
    lengths = sorted({*LENGTHS, settings.max_tokens})
    return {
        "near_duplicate_threshold": FloatSlider(
            settings.near_duplicate_threshold,
            min=min(0.35, settings.near_duplicate_threshold),
            max=1,
            step=0.05,
            description="near_duplicate_threshold",
            **WIDE,
        ),
        "shortest_answer": IntSlider(
            settings.shortest_answer, min=1, max=max(500, settings.shortest_answer), description="shortest_answer", **WIDE
        ),
        "max_tokens": SelectionSlider(options=lengths, value=settings.max_tokens, description="max_tokens", **WIDE),
        "long_records": Dropdown(
            options=["split", "truncate", "reject"], value=settings.long_records, description="long_records", **_fixed()
        ),
        "operatives_share": FloatSlider(settings.operatives_share, min=0, max=1, step=0.01, description="operatives_share", **WIDE),
    }


def _weight(settings: Settings, domain: str) -> FloatSlider:
    weight = settings.domain_weights.get(domain, 1.0)
    return FloatSlider(weight, min=0, max=max(3, weight), step=0.1, description=domain, **WIDE)


def _folded(weights: list[FloatSlider]) -> list[ipywidgets.Widget]:
    """A button and the sliders that it shows and hides."""
    button = ipywidgets.ToggleButton(description="how often each domain is trained on", icon="caret-down", layout={"width": "32em"})
    box = ipywidgets.VBox(weights, layout={"display": "none"})
    button.observe(lambda change: setattr(box.layout, "display", "" if change["new"] else "none"), "value")
    return [button, box]


def _fixed() -> dict[str, Any]:
    return {name: value for name, value in WIDE.items() if name != "continuous_update"}


TOKENS_OF = "training tokens of "


def figures(report: Mapping[str, Any], domains: Sequence[str] = ()) -> dict[str, int | float]:
    """The figures of data/report.json that these parameters move, by name. domains: as figure_style.largest names them."""
    tokens = report["mixture"]["after"]
    by_domain = figure.as_named(tokens, domains) if domains else figure.largest(tokens)
    usual = report["leaked_by_a_random_split"]
    return {
        "rows": report["records_read"],
        "records kept": report["records_kept"],
        **{f"rejected: {reason}": count for reason, count in report["rejected"].items()},
        "exact duplicates": report["duplicates_exact"],
        "near-duplicates": report["duplicates_near"] or 0,
        **{f"{split} records": count for split, count in report["split_sizes"].items()},
        "leaked, text or answer": report["leaked_exact"],
        "leaked, near-duplicate": report["leaked_near"] or 0,
        "leaked, document": report["leaked_document"],
        "leaked by a random 80/20 split, text or answer": usual["exact"] + usual["answer"],
        "leaked by a random 80/20 split, near-duplicate": usual["near"],
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
    """Both columns beside each other; what differs stands in bold with the difference."""
    rows = []
    for name in dict.fromkeys([*before, *after]):
        was, is_ = before.get(name, 0), after.get(name, 0)
        change = f"<b>{'+' if is_ > was else '−'}{shown(abs(is_ - was))}</b>" if is_ != was else ""
        cells = "".join(f'<td style="text-align:right;padding:0 0.7em">{cell}</td>' for cell in (shown(was), shown(is_), change))
        rows.append(f"<tr><td>{html.escape(name)}</td>{cells}</tr>")
    heads = "".join(
        f'<th style="text-align:right;padding:0 0.7em">{head}</th>' for head in ("as this run says", "as the sliders say", "change")
    )
    head = f"<caption>{html.escape(caption)}</caption><tr><th></th>{heads}</tr>"
    return f'<table style="line-height:1.35">{head}{"".join(rows)}</table>'
