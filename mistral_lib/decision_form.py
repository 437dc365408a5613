"""The decisions of a run as a form: what is chosen is checked at once, and saved as the file that headless runs take.

Nothing needs it: the same values can be typed into a parameters cell or a file of params/. Headless it is those values as text.
"""

import html
from collections.abc import Callable
from typing import Any

import ipywidgets
from ipywidgets import Button, Checkbox, Combobox, Dropdown, IntText, SelectionSlider, Text, Textarea

from mistral_lib import home, params, sources
from mistral_lib.params import ParameterError
from mistral_lib.plain_text_widget import PlainTextBox
from mistral_lib.records import Unmappable, map_row
from mistral_lib.settings import Settings, meaning

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
MODELS = ("demo:smollm2-135m-instruct", "mistralai/Mistral-7B-Instruct-v0.3")
SHOWN = 8  # files of a kind that are named
LOOKED_AT = 200  # files of which the first row is read
NO_RECORD = "no record"
WIDE = {"style": {"description_width": "9em"}, "layout": {"width": "44em"}}


class DecisionForm(PlainTextBox):
    """`controls` holds a widget per decision; `found` what is at the corpus paths, `verdict` faults or the estimate.

    estimate: what fits, how long it takes and what it costs, as text; it is asked whenever a decision changes, not before:
    a plan takes seconds, and nobody waits for it where no form is shown.
    """

    def __init__(self, settings: Settings, estimate: Callable[[Settings], str] | None = None):
        self.given, self.estimate = settings, estimate
        self.controls = _controls(settings)
        self.found, self.verdict, self.said = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self.save = Button(description="save as a parameter file", icon="save", layout={"width": "16em"})
        self.replace = Checkbox(False, description="replace the file that is there", indent=False)
        for control in self.controls.values():
            control.observe(self.update, "value")
        self.save.on_click(lambda _: self._save())
        rows = [*self.controls.values(), self.found, self.verdict, ipywidgets.HBox([self.save, self.replace]), self.said]
        super().__init__(rows, "")
        self._check()
        self.plain = self._plain()

    def values(self) -> dict[str, Any]:
        """The decisions as parameters, in the form of a parameters cell."""
        chosen = {name: control.value for name, control in self.controls.items()}
        for name in ("corpus_paths", "operatives_paths"):
            chosen[name] = [line.strip() for line in chosen[name].splitlines() if line.strip()]
        return {name: value.strip() if isinstance(value, str) else value for name, value in chosen.items()}

    def settings(self) -> Settings:
        """All parameters with these decisions. Errors: ParameterError that lists every fault."""
        return params.validate({**self.given.model_dump(), **self.values()}, "form")

    def update(self, _: Any = None) -> None:
        """Check what is chosen, say what is found and what it would take."""
        settings = self._check()
        if settings and self.estimate:
            self.verdict.value = self._estimated(settings)

    def _check(self) -> Settings | None:
        """The settings if a run could take them: free of faults, and all its sources there."""
        self.said.value, self.replace.value = "", False
        try:
            settings = self.settings()
        except ParameterError as error:
            self.found.value, self.verdict.value = "", _lines("This cannot be:", str(error).splitlines())
            self.save.disabled = True
            return None
        there, lines = what_is_found(settings)
        self.found.value = _lines("Found:" if there else "Not found:", lines)
        self.save.disabled, self.verdict.value = not there, ""
        return settings if there else None

    def _estimated(self, settings: Settings) -> str:
        self.verdict.value = "estimating …"
        try:
            return f"<b>Estimate:</b><pre>{html.escape(self.estimate(settings))}</pre>"
        except (ValueError, RuntimeError, OSError) as error:  # such as: nothing is known of the data yet
            return _lines("No estimate:", str(error).splitlines())

    def _save(self) -> None:
        settings = self.settings()
        path = home.runs() / f"{settings.run_name}.yaml"
        try:
            done = params.save(settings, path, self.replace.value)
        except FileExistsError as error:
            self.said.value = _lines("Not saved:", [f"{error}. Tick the box to replace it, or choose another run_name."])
            return
        chosen = [f"{name} = {value!r}" for name, value in self.values().items() if value != Settings.model_fields[name].default]
        steps = f"Headless: python -m mistral_lib run {home.short(path)}\nStep by step, in the parameters cells where they stand:\n"
        self.said.value = (
            _lines("Saved:", [done]) + f"<pre>{html.escape(steps + chr(10).join(chosen or ['nothing: these are the defaults']))}</pre>"
        )

    def _plain(self) -> str:
        _, lines = what_is_found(self.given)
        return "\n".join([*(f"{name} = {value!r}" for name, value in self.values().items()), *lines])


def planned(settings: Settings) -> str:
    """Fit, hours and USD of these decisions on their instance. Errors: ValueError where nothing is known of the data yet."""
    from mistral_lib import fit_plan, plan_table, planned_work

    work = planned_work.work_of(settings)
    return plan_table.text([fit_plan.best(settings, work, settings.instance)], work)


def _controls(settings: Settings) -> dict[str, ipywidgets.Widget]:
    names = ("run_name", "objective", "corpus_paths", "operatives_paths", "base_model", "instance", "max_tokens", "max_steps")
    text = {name: {"value": getattr(settings, name), "description": name, "tooltip": meaning(name), **WIDE} for name in names}
    for name in ("corpus_paths", "operatives_paths"):
        text[name] |= {"value": "\n".join(getattr(settings, name)), "rows": 2, "placeholder": "one path a line", "continuous_update": False}
    return {
        "run_name": Text(**text["run_name"], continuous_update=False),
        "objective": Dropdown(options=["answers", "documents", "both"], **text["objective"]),
        "corpus_paths": Textarea(**text["corpus_paths"]),
        "operatives_paths": Textarea(**text["operatives_paths"]),
        "base_model": Combobox(options=MODELS, continuous_update=False, **text["base_model"]),
        "instance": Dropdown(options=list(params.instances()), **text["instance"]),
        "max_tokens": SelectionSlider(options=_lengths(settings), continuous_update=False, **text["max_tokens"]),
        "max_steps": IntText(continuous_update=False, **text["max_steps"]),
    }


def _lengths(settings: Settings) -> list[int]:
    """Block lengths of which the held-out tokens that are measured hold at least one."""
    most = min((n for n in (settings.max_validation_tokens, settings.max_test_tokens) if n), default=LENGTHS[-1])
    return sorted({*(length for length in LENGTHS if length <= most), settings.max_tokens})


def what_is_found(settings: Settings) -> tuple[bool, list[str]]:
    """Whether all that the run needs is there, and in words what is."""
    try:
        found = sources.resolve(settings)
    except sources.SourceError as error:
        return False, str(error).splitlines()
    size = sum(file.size for file in found.files) / 2**20
    by_first_row: dict[str, list[str]] = {}
    for file in found.files[:LOOKED_AT]:
        by_first_row.setdefault(first_row(file, settings), []).append(file.name)
    lines = [f"{len(found.files):,} files, {size:,.2f} MiB; how the first row of each would be understood:"]
    ordered = sorted(by_first_row.items(), key=lambda one: (not one[0].startswith(NO_RECORD), -len(one[1])))  # what needs a decision first
    lines += [f"{outcome}: {_named(names)}" for outcome, names in ordered]
    lines += [f"not looked at: {len(found.files) - LOOKED_AT:,} more files"] if len(found.files) > LOOKED_AT else []
    return True, lines + [str(absent) for absent in found.absent]


def _named(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def first_row(file: sources.SourceFile, settings: Settings) -> str:
    """How the first row of a file would be understood: its shape, or why it is no record."""
    row = next(sources.rows(file, salvage=settings.salvage, pdf_characters=settings.pdf_characters))
    try:
        if row.problem:
            raise Unmappable(row.problem)
        return map_row(row.value, row.source, columns=settings.columns).shape
    except Unmappable as problem:
        keys = f" with the keys {', '.join(map(str, row.value))}: say with `columns` which is what" if isinstance(row.value, dict) else ""
        return f"{NO_RECORD} ({problem}{keys})"


def _lines(head: str, lines: list[str]) -> str:
    return f'<div style="line-height:1.4"><b>{html.escape(head)}</b><br>' + "<br>".join(html.escape(line) for line in lines) + "</div>"
