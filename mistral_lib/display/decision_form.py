"""The decisions of a run as a form: what is chosen is checked at once, and saved as the file that headless runs and notebooks take.

Nothing needs it: the same values can be typed into a parameters cell or a file of params/. Headless it is those values as text.
"""

import html
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ipywidgets
from ipywidgets import Button, Checkbox, Combobox, Dropdown, FloatText, IntText, SelectionSlider, Text, Textarea

from mistral_lib.corpus.sources import SourceFile
from mistral_lib.display import source_preview
from mistral_lib.display.run_estimate import Estimate, estimates
from mistral_lib.display.widget_base import BackgroundJob, PlainTextBox
from mistral_lib.run import current_file, params, paths
from mistral_lib.run.params import ParameterError
from mistral_lib.run.settings import LENGTHS, Settings, meaning

MODELS = ("demo:smollm2-135m-instruct", "mistralai/Mistral-7B-Instruct-v0.3")
PATHS = ("corpus_paths", "operatives_paths")
DECISIONS = ("run_name", "objective", *PATHS, "base_model", "instance", "max_tokens", "max_steps", "epochs", "max_hours", "max_usd")
AS_GIVEN = "the values of this notebook"
WIDE = {"style": {"description_width": "9em"}, "layout": {"width": "36em"}}
Estimator = Callable[[Settings, Sequence[SourceFile]], Iterator[Estimate]]


class DecisionForm(PlainTextBox):
    """`controls` holds a widget per decision, `start` what they start from; `found` says what is at the corpus paths, `rows` how many
    rows that is, `verdict` what is wrong or what it would take.

    estimate: what fits, how long it takes and what it costs, more complete with every result. It is asked beside the page whenever
    a decision changes, not before: nobody waits for it where no form is shown.
    """

    def __init__(self, settings: Settings, estimate: Estimator = estimates):
        self.notebook, self.given, self.estimate, self.way = settings, settings, estimate, {}
        self.estimating, self.counting = BackgroundJob[Estimate](), BackgroundJob[str]()
        self.start = Dropdown(options=_files(), description="start from", **WIDE)
        self.controls = _controls(settings)
        self.found, self.rows, self.verdict, self.said = (ipywidgets.HTML() for _ in range(4))
        self.save = Button(description="save as a parameter file", icon="save", layout={"width": "16em"})
        self.take = Button(description="take the way that fits", icon="check", layout={"width": "16em", "display": "none"})
        self.replace = Checkbox(False, description="replace the file that is there", indent=False)
        self._connect()
        left = ipywidgets.VBox([self.start, *self.controls.values()])
        right = ipywidgets.VBox([self.found, self.rows, self.verdict, self.take], layout={"flex": "1 1 24em", "min_width": "22em"})
        both = ipywidgets.HBox([left, right], layout={"flex_flow": "row wrap", "grid_gap": "0 1.5em"})
        super().__init__([both, ipywidgets.HBox([self.save, self.replace]), self.said], "")
        self._check()
        self.plain = self._plain()
        self.verdict.value = "Change a value, or choose what to start from, to see what it would take."

    def _connect(self) -> None:
        self._filling = False
        for control in self.controls.values():
            control.observe(self.update, "value")
        self.start.observe(lambda _: self._start_from(), "value")
        self.save.on_click(lambda _: self._save())
        self.take.on_click(lambda _: self._take())

    # -- the decisions ---------------------------------------------------------------------------------------------

    def values(self) -> dict[str, Any]:
        """The decisions as parameters, in the form of a parameters cell."""
        chosen = {name: control.value for name, control in self.controls.items()}
        for name in PATHS:
            chosen[name] = [line.strip() for line in chosen[name].splitlines() if line.strip()]
        return {name: value.strip() if isinstance(value, str) else value for name, value in chosen.items()}

    def followers(self) -> dict[str, Any]:
        """What has to follow the decisions: a run of few steps cannot save its first checkpoint after more."""
        steps, every = self.controls["max_steps"].value, self.given.checkpoint_every_steps
        return {"checkpoint_every_steps": steps} if 0 < steps < every else {}

    def settings(self) -> Settings:
        """All parameters with these decisions. Errors: ParameterError that lists every fault."""
        return params.validate({**self.given.model_dump(), **self.values(), **self.followers()}, "form")

    def _start_from(self) -> None:
        try:
            self.given = params.load(self.start.value) if self.start.value else self.notebook
        except ParameterError as error:
            self.verdict.value = _lines("This file cannot be used:", str(error).splitlines())
            return
        self._filling = True  # one look when all are set, not one for each
        self.controls["max_tokens"].options = _lengths(self.given)
        for name, control in self.controls.items():
            value = getattr(self.given, name)
            control.value = "\n".join(value) if name in PATHS else value
        self._filling = False
        self.update()

    # -- what is seen of them --------------------------------------------------------------------------------------

    def update(self, _: Any = None) -> None:
        """Check what is chosen, say what is found and what it would take."""
        if self._filling:
            return
        self.way, self.take.layout.display = {}, "none"
        self.estimating.cancel()
        self.counting.cancel()
        settings, found = self._check()
        if settings:
            self.rows.value, self.verdict.value = "counting rows …", "estimating …"
            self.counting.start(source_preview.counted(found, settings), self._show_rows, lambda error: self._show_rows(str(error)))
            self.estimating.start(self.estimate(settings, found), self._show_estimate, self._show_no_estimate)

    def _check(self) -> tuple[Settings | None, list[SourceFile]]:
        """The settings if a run could take them, free of faults and all its sources there; and these."""
        self.said.value, self.rows.value, self.replace.value = "", "", False
        try:
            settings = self.settings()
        except ParameterError as error:
            faults = [line.removeprefix("form: ") for line in str(error).splitlines()]
            self.found.value, self.verdict.value, self.save.disabled = "", _lines("This cannot be:", faults), True
            return None, []
        found, lines = source_preview.what_is_found(settings)
        self.found.value = _lines("Found:" if found else "Not found:", lines)
        self.save.disabled, self.verdict.value = not found, ""
        return settings if found else None, found

    def _show_rows(self, words: str) -> None:
        self.rows.value = f"<b>{html.escape(words)}</b>"

    def _show_estimate(self, estimate: Estimate) -> None:
        self.verdict.value, self.way = estimate.table(), estimate.changes()
        self.take.layout.display = "" if self.way else "none"

    def _show_no_estimate(self, error: Exception) -> None:
        self.verdict.value = _lines("No estimate:", str(error).splitlines() or [type(error).__name__])

    def _take(self) -> None:
        self.given = self.given.model_copy(update=self.way)
        self.update()

    # -- what becomes of them --------------------------------------------------------------------------------------

    def _save(self) -> None:
        settings = self.settings()
        path = paths.runs() / f"{settings.run_name}.yaml"
        try:
            done = params.save(settings, path, self.replace.value)
            current_file.write(path)
        except FileExistsError as error:
            self.said.value = _lines("Not saved:", [f"{error}. Tick the box to replace it, or choose another run_name."])
            return
        chosen = [f"{name} = {getattr(settings, name)!r}" for name in params.non_defaults(settings)]
        steps = (
            f"Step by step: run the cells below, then notebooks 01 to 04; they take this file until the form saves another one\n"
            f"(a run_name that is typed in a parameters cell names its own file).\n"
            f"Headless: python -m mistral_lib run {paths.short(path)}\nTyped instead, in the parameters cells where they stand:\n"
        )
        text = html.escape(steps + "\n".join(chosen or ["nothing: these are the defaults"]))
        self.said.value = _lines("Saved:", [done]) + f'<pre style="white-space:pre-wrap;line-height:1.4">{text}</pre>'

    def _plain(self) -> str:
        _, lines = source_preview.what_is_found(self.given)
        return "\n".join([*(f"{name} = {value!r}" for name, value in self.values().items()), *lines])


def _controls(settings: Settings) -> dict[str, ipywidgets.Widget]:
    text = {name: {"value": getattr(settings, name), "description": name, "tooltip": meaning(name), **WIDE} for name in DECISIONS}
    for name in PATHS:
        text[name] |= {"value": "\n".join(getattr(settings, name)), "rows": 2, "placeholder": "one path a line"}
    for name in DECISIONS:
        text[name] |= {"continuous_update": False} if name not in ("objective", "instance") else {}
    return {
        "run_name": Text(**text["run_name"]),
        "objective": Dropdown(options=["answers", "documents", "both"], **text["objective"]),
        "corpus_paths": Textarea(**text["corpus_paths"]),
        "operatives_paths": Textarea(**text["operatives_paths"]),
        "base_model": Combobox(options=MODELS, **text["base_model"]),
        "instance": Dropdown(options=list(params.instances()), **text["instance"]),
        "max_tokens": SelectionSlider(options=_lengths(settings), **text["max_tokens"]),
        "max_steps": IntText(**text["max_steps"]),
        "epochs": FloatText(step=0.5, **text["epochs"]),
        "max_hours": FloatText(step=0.5, **text["max_hours"]),
        "max_usd": FloatText(step=0.5, **text["max_usd"]),
    }


def _files() -> list[tuple[str, str]]:
    """What a form may start from: this notebook, the files that come with the workbook, those that were saved."""
    places = [*paths.params().glob("*.yaml"), *paths.runs().glob("*.yaml")]
    names = [paths.short(path) for path in sorted(places) if path.name != "instances.yaml"]
    return [(AS_GIVEN, ""), *((name, name) for name in names)]


def _lengths(settings: Settings) -> list[int]:
    """Block lengths of which the held-out tokens that are measured hold at least one."""
    most = min((n for n in (settings.max_validation_tokens, settings.max_test_tokens) if n), default=LENGTHS[-1])
    return sorted({*(length for length in LENGTHS if length <= most), settings.max_tokens})


def _lines(head: str, lines: list[str]) -> str:
    return f'<div style="line-height:1.4"><b>{html.escape(head)}</b><br>' + "<br>".join(html.escape(line) for line in lines) + "</div>"
