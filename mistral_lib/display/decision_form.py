"""The decisions of a run as a form: values are checked at once, and saved as a parameter file for notebooks and headless runs.

The form is optional: the same values can be typed into a parameters cell or a file of params/. Run headless it shows them as text.
With corpus paths of one's own, the demo's values that nobody chose become the defaults, in the parameters that it does not show as well.
With `renting`, it also shows which machines could be rented, and the command that the decisions come to.
Each field has a label in plain words with the parameter's name beside it, and a tooltip with its meaning, limits and default.
"""

import html
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ipywidgets
from ipywidgets import Checkbox, Combobox, Dropdown, FloatText, IntText, SelectionSlider, Text, Textarea

from mistral_lib.corpus.sources import SourceFile
from mistral_lib.display import source_preview
from mistral_lib.display.run_estimate import Estimate, RentalOptions, estimates
from mistral_lib.display.widget_base import BackgroundJob, PlainTextBox, button
from mistral_lib.run import current_file, params, paths, precedence
from mistral_lib.run.params import ParameterError
from mistral_lib.run.settings import LENGTHS, Settings, limits, meaning

MODELS = ("demo:smollm2-135m-instruct", "mistralai/Mistral-7B-Instruct-v0.3")
PATHS = ("corpus_paths", "operatives_paths")
NOTEBOOK = "the values of this notebook"
LABELS = {
    "run_name": "Name of the run", "objective": "Train on", "corpus_paths": "Files and folders", "operatives_paths": "Guides, added last",
    "base_model": "Base model", "instance": "Machine", "max_tokens": "Tokens per block", "max_steps": "Training steps",
    "epochs": "Passes over the data", "max_hours": "Hours at most", "max_usd": "USD at most",
}  # fmt: skip
START = "Fill the form from this notebook, from a file of params/, or from a file that was saved before"
WIDE = {"style": {"description_width": "17em"}, "layout": {"width": "42em"}, "description_allow_html": True}
TYPED = {**WIDE, "continuous_update": False}
Estimator = Callable[[Settings, Sequence[SourceFile]], Iterator[Estimate]]
Renting = Callable[[Settings], Iterator[RentalOptions]]


class DecisionForm(PlainTextBox):
    """`controls` holds a widget per decision, `start` the file to start from; `found` shows the files at the corpus paths, `rows`
    the number of their rows, `verdict` the errors or the estimate, `machines` those to rent, `message` the outcome of saving.

    estimate: memory, time and cost, each result more complete than the one before; renting: the same of machines to rent. Both run in
    the background, one after the other, and only after a decision was changed: a headless run does not wait for them.
    """

    def __init__(self, settings: Settings, estimate: Estimator = estimates, renting: Renting | None = None):
        self.notebook, self.given, self.estimate, self.renting = settings, settings, estimate, renting
        self.fitting, self.rentals = {}, RentalOptions()
        self.estimating, self.counting = BackgroundJob[Estimate | RentalOptions](), BackgroundJob[str]()
        self.start = Dropdown(options=_files(), description=_label("Start from", "", START), tooltip=START, **WIDE)
        self.controls = _controls()
        self._fill()
        self.found, self.rows, self.verdict, self.machines, self.message = (ipywidgets.HTML() for _ in range(5))
        self.save = button("save as a parameter file", self._save, icon="save", layout={"width": "16em"})
        fitting_layout = {"width": "16em", "display": "none"}
        self.use_fitting = button("use parameters that fit", self._use_fitting, icon="check", layout=fitting_layout)
        replaces = "the saved file is overwritten if it has other values; without it nothing is written then"
        self.replace = Checkbox(False, description="replace an existing file", tooltip=replaces, indent=False)
        for control in self.controls.values():
            control.observe(self.update, "value")
        self.start.observe(self._start_from, "value")
        left = ipywidgets.VBox([self.start, *self.controls.values()])
        right = ipywidgets.VBox([self.found, self.rows, self.verdict, self.use_fitting], layout={"flex": "1 1 24em", "min_width": "22em"})
        both = ipywidgets.HBox([left, right], layout={"flex_flow": "row wrap", "grid_gap": "0 1.5em"})
        super().__init__([both, self.machines, ipywidgets.HBox([self.save, self.replace]), self.message], "")
        self._check()
        self.plain = self._plain()
        self.verdict.value = "Change a value, or choose what to start from, to see memory, time and cost."

    # -- the decisions ---------------------------------------------------------------------------------------------

    def values(self) -> dict[str, Any]:
        """The decisions as parameters, in the form of a parameters cell."""
        chosen = {name: control.value for name, control in self.controls.items()}
        for name in PATHS:
            chosen[name] = [line.strip() for line in chosen[name].splitlines() if line.strip()]
        return {name: value.strip() if isinstance(value, str) else value for name, value in chosen.items()}

    def dependent_values(self) -> dict[str, Any]:
        """Parameters that follow from the decisions: a run of few steps must save its first checkpoint within them."""
        return {"checkpoint_every_steps": precedence.checkpoint_interval({**self.given.model_dump(), **self.values()})}

    def settings(self) -> Settings:
        """All parameters with these decisions. Errors: ParameterError that lists every error."""
        return params.validate({**self.given.model_dump(), **self.values(), **self.dependent_values()}, "form")

    def _fill(self, values: Mapping[str, Any] | None = None) -> None:
        """Set the controls to the given parameters, or to other values."""
        values = values or self.given.model_dump()
        self._filling = True  # one update after all values are set, not one for each
        self.controls["max_tokens"].options = _lengths(self.given, values["max_tokens"])
        for name, control in self.controls.items():
            control.value = "\n".join(values[name]) if name in PATHS else values[name]
        self._filling = False

    def _follow_corpus(self) -> None:
        """From the demo's corpus to one's own, and back: values that nobody chose become the defaults, or the demo's."""
        values, demo = self.values(), params.demo()
        paths_, before = values["corpus_paths"], {"corpus_paths": self.given.corpus_paths}
        if paths_ and precedence.is_demo(paths_) != precedence.is_demo(self.given.corpus_paths):
            shown = precedence.moved({**values, **before}, paths_, demo)
            self.given = self.given.model_copy(update=precedence.moved(self.given.model_dump(), paths_, demo))
            self._fill(shown)

    def _start_from(self, _: Any) -> None:
        try:
            self.given = params.load(self.start.value) if self.start.value else self.notebook
        except ParameterError as error:
            self.verdict.value = _html_lines("This file cannot be used:", str(error).splitlines())
            return
        self._fill()
        self.update()

    # -- checks and the estimate -----------------------------------------------------------------------------------

    def update(self, _: Any = None) -> None:
        """Check the values, show the files that were found and start the estimate. Many files take seconds to open, so it is said first."""
        if self._filling:
            return
        self._follow_corpus()
        self.found.value, self.verdict.value = "<i>opening the files …</i>", ""
        self.fitting, self.use_fitting.layout.display = {}, "none"
        self.rentals, self.machines.value = RentalOptions(), ""
        self.estimating.cancel()
        self.counting.cancel()
        settings, found = self._check()
        if settings:
            self.rows.value, self.verdict.value = "counting rows …", "estimating …"
            self.counting.start(source_preview.count_rows(found, settings), self._show_rows, lambda error: self._show_rows(str(error)))
            self.estimating.start(self._estimates(settings, found), self._show_estimate, self._show_no_estimate)

    def _check(self) -> tuple[Settings | None, list[SourceFile]]:
        """The settings, None if they have an error or a source is missing; and the files of the sources."""
        self.message.value, self.rows.value, self.replace.value = "", "", False
        try:
            settings = self.settings()
        except ParameterError as error:
            errors = [line.removeprefix("form: ") for line in str(error).splitlines()]
            self.found.value, self.verdict.value, self.save.disabled = "", _html_lines("These values are not possible:", errors), True
            return None, []
        found, lines = source_preview.preview(settings)
        self.found.value = _html("Found:" if found else "Not found:", [line.html() for line in lines])
        self.save.disabled, self.verdict.value = not found, ""
        return settings if found else None, found

    def _show_rows(self, text: str) -> None:
        self.rows.value = f"<b>{html.escape(text)}</b>"

    def _estimates(self, settings: Settings, found: Sequence[SourceFile]) -> Iterator[Estimate | RentalOptions]:
        yield from self.estimate(settings, found)
        if self.renting is not None:
            self.machines.value = "<i>comparing machines to rent …</i>"
            yield from self.renting(settings)

    def _show_estimate(self, estimate: Estimate | RentalOptions) -> None:
        if isinstance(estimate, RentalOptions):
            self.rentals, self.machines.value = estimate, estimate.page(self.values()["instance"])
            return
        self.verdict.value, self.fitting = estimate.table(), estimate.changes()
        self.use_fitting.layout.display = "" if self.fitting else "none"

    def _show_no_estimate(self, error: Exception) -> None:
        self.verdict.value = _html_lines("No estimate:", str(error).splitlines() or [type(error).__name__])

    def _use_fitting(self) -> None:
        self.given = self.given.model_copy(update=self.fitting)
        self.update()

    # -- saving ----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        settings, self.message.value = self.settings(), "<i>saving …</i>"
        path = paths.runs() / f"{settings.run_name}.yaml"
        try:
            done = params.save(settings, path, self.replace.value)
            current_file.write(path)
        except FileExistsError as error:
            self.message.value = _html_lines("Not saved:", [f"{error}. Tick the box to replace it, or choose another run_name."])
            return
        chosen = [f"{name} = {value!r}" for name, value in params.chosen(settings).items()]
        rent = self.rentals.commands.get(settings.instance, ())
        steps = (
            f"Step by step: run the cells below, then notebooks 01 to 04; they use this file until the form saves another one\n"
            f"(or the file of a run_name that is typed in the parameters cell).\n"
            f"Headless: python -m mistral_lib run {paths.short(path)}\n"
            + "".join(f"On a rented machine: {command}\n" for command in rent)
            + "Or type these values into the parameters cells:\n"
        )
        text = html.escape(steps + "\n".join(chosen or [f"none: these are {params.base_name(settings)}"]))
        self.message.value = _html_lines("Saved:", [done]) + f'<pre style="white-space:pre-wrap;line-height:1.4">{text}</pre>'

    def _plain(self) -> str:
        _, lines = source_preview.preview(self.given)
        return "\n".join([*(f"{name} = {value!r}" for name, value in self.values().items()), *(line.plain() for line in lines)])


def _controls() -> dict[str, ipywidgets.Widget]:
    """A widget per decision, without its value."""
    controls = {
        "run_name": Text(**TYPED),
        "objective": Dropdown(options=["answers", "documents", "both"], **WIDE),
        **{name: Textarea(rows=2, placeholder="one path a line", **TYPED) for name in PATHS},
        "base_model": Combobox(options=MODELS, **TYPED),
        "instance": Dropdown(options=list(params.instances()), **WIDE),
        "max_tokens": SelectionSlider(options=LENGTHS, **TYPED),
        "max_steps": IntText(**TYPED),
        **{name: FloatText(step=0.5, **TYPED) for name in ("epochs", "max_hours", "max_usd")},
    }
    for name, control in controls.items():
        control.tooltip = f"{meaning(name)}. {limits(name)}; default: {json.dumps(params.default(name))}"
        control.description = _label(LABELS[name], name, control.tooltip)
    return controls


def _label(words: str, name: str, tooltip: str) -> str:
    """A field's label. The tooltip is part of it, because a text field with a label does not show its own."""
    small = f' <span style="opacity:.8;font-size:85%">{name}</span>' if name else ""
    return f'<span title="{html.escape(tooltip, quote=True)}">{words}{small}</span>'


def _files() -> list[tuple[str, str]]:
    """What a form may start from: this notebook, the files of params/ and the saved files."""
    places = [*paths.params().glob("*.yaml"), *paths.runs().glob("*.yaml")]
    names = [paths.short(path) for path in sorted(places) if path.name not in params.OTHER_FILES]
    return [(NOTEBOOK, ""), *((name, name) for name in names)]


def _lengths(settings: Settings, shown: int) -> list[int]:
    """The block lengths that fit at least once into the measured held-out tokens, and the one that is shown."""
    most = min((n for n in (settings.max_validation_tokens, settings.max_test_tokens) if n), default=LENGTHS[-1])
    return sorted({*(length for length in LENGTHS if length <= most), shown})


def _html_lines(head: str, lines: list[str]) -> str:
    return _html(head, [html.escape(line) for line in lines])


def _html(head: str, lines: list[str]) -> str:
    """The head and lines of HTML below each other."""
    return f'<div style="line-height:1.4;overflow-wrap:anywhere"><b>{html.escape(head)}</b><br>{"<br>".join(lines)}</div>'
