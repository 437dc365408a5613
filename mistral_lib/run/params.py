"""Reads, checks and writes the parameters of a run, and lists every fault at once. Only this module reads or writes parameter YAML.

settings.py declares the parameters.
"""

import difflib
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mistral_lib.run import current_file, files, parameters_cell, paths
from mistral_lib.run.settings import Settings, meaning


class ParameterError(ValueError):
    """Parameters that cannot be used; the message lists every fault, with file, key and what was expected."""


def validate(values: Mapping[str, Any], origin: str = "parameters") -> Settings:
    """Settings from plain values. Errors: ParameterError that lists every fault at once; `origin` names the file in it."""
    faults = [_no_name(key) for key in values if not isinstance(key, str)]
    good = {key: value for key, value in values.items() if isinstance(key, str)}
    try:
        Settings.model_validate(good)
    except ValidationError as error:
        for fault in error.errors():
            key = str(fault["loc"][0])
            good.pop(key, None)
            faults.append(_explain(fault, key))
    settings = Settings.model_validate(good)
    if faults := [*faults, *contradictions(settings)]:
        raise ParameterError("\n".join(f"{origin}: {fault}" for fault in faults))
    return settings


def _no_name(key: Any) -> str:
    return f"{key!r} is no parameter name: YAML reads on, off, yes and no as true/false, digits as a number, null as nothing; quote it"


def _explain(fault: Mapping[str, Any], key: str) -> str:
    if fault["type"] == "extra_forbidden":
        return unknown("parameter", key, Settings.names())
    wrong = {
        "string_pattern_mismatch": "letters, digits and . _ - are allowed, the first a letter or a digit",
        "list_type": f"a list is expected, such as [{fault['input']}]",
    }.get(fault["type"], fault["msg"])
    return f"{key} = {fault['input']!r}: {wrong} — {key} is: {meaning(key)}"


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """A fault that names the known name that is most like this one, or all of them."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"unknown {what} {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}")


def contradictions(settings: Settings) -> list[str]:
    """Faults of values that are valid alone but not together."""
    faults = []
    if (held_out := settings.validation_share + settings.test_share) >= 0.8:
        faults.append(f"validation_share + test_share = {held_out:.2f} leaves too little for training; expected less than 0.8")
    if settings.instance not in instances():
        faults.append(f"{unknown('instance', settings.instance, instances())} (params/instances.yaml)")
    faults += [f"domain_weights: {name} = {weight} is negative" for name, weight in settings.domain_weights.items() if weight < 0]
    for key in ("max_validation_tokens", "max_test_tokens", "max_probe_tokens"):
        if 0 < (limit := getattr(settings, key)) < settings.max_tokens:
            faults.append(f"{key} = {limit} is less than one block of max_tokens = {settings.max_tokens}")
    if 0 < settings.max_steps < (every := settings.checkpoint_every_steps):
        faults.append(f"checkpoint_every_steps = {every} is above max_steps = {settings.max_steps}: a killed run would start over")
    if settings.early_stopping_patience and not settings.validate_every_steps:
        faults.append(f"early_stopping_patience = {settings.early_stopping_patience} needs validations: set validate_every_steps above 0")
    if settings.max_usd and instances().get(settings.instance, {}).get("usd_per_hour") == 0:
        faults.append(f"max_usd = {settings.max_usd} is never reached: instance {settings.instance} is free; set max_hours instead")
    return faults


def load(path: Path | str, overrides: Iterable[str] = ()) -> Settings:
    """Settings from a YAML file, with `key=value` overrides read as YAML values.

    Errors: ParameterError if the file is missing or not a flat mapping; it lists every fault of the values.
    """
    path = find_file(path)
    values = read_yaml(path)
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ParameterError(f"--set {override!r}: expected key=value")
        try:
            values[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ParameterError(f"--set {override!r}: not valid YAML; expected a value as in max_steps=20 or 'columns={{a: b}}'") from None
    return validate(values, paths.short(path))


def find_file(path: Path | str) -> Path:
    """The first existing file: relative to this directory, the workbook's home or the project. The path as given if there is none."""
    given = Path(path).expanduser()
    return next((place for place in (given, paths.home() / given, paths.project() / given) if place.is_file()), given)


def read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        folders = (paths.params(), paths.runs())
        there = {folder: sorted({p.name for p in folder.glob("*.yaml")} - {"instances.yaml"}) for folder in folders}
        holds = "; ".join(f"{paths.short(folder)}/ holds {', '.join(names)}" for folder, names in there.items() if names)
        raise ParameterError(f"{path}: no such parameter file; {holds}")
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ParameterError(f"{paths.short(path)}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ParameterError(f"{paths.short(path)}: expected lines of `key: value`, found {type(values).__name__}")
    return values


def instances() -> dict[str, dict[str, Any]]:
    """The machines of params/instances.yaml: memory in GiB, price in USD per hour with its date."""
    return read_yaml(paths.params() / "instances.yaml")


def to_yaml(settings: Settings) -> str:
    """The settings as a parameter file: every value with its meaning as a comment."""
    lines = []
    for name in settings.names():
        value = yaml.safe_dump(getattr(settings, name), default_flow_style=True, width=10_000).split("\n")[0]
        lines.append(f"{name}: {value}  # {meaning(name)}")
    return "\n".join(lines) + "\n"


def save(settings: Settings, path: Path, replace: bool = False) -> str:
    """Write a parameter file atomically; returns a text that says what was done.

    Errors: FileExistsError if the file exists with other values and `replace` is not set; the message names what differs.
    """
    text = to_yaml(settings)
    if path.exists() and path.read_text() == text:
        return f"{paths.short(path)} has exactly these values already"
    if path.exists() and not replace:
        there = read_yaml(path)
        differing = [name for name in settings.names() if there.get(name) != getattr(settings, name)]
        difference = ", ".join(differing) or "its comments differ"
        raise FileExistsError(f"{paths.short(path)} exists with other values: {difference}; nothing was written")
    did = "replaced" if path.exists() else "written"
    files.write_text(path, text)
    return f"{paths.short(path)} {did}: {len(settings.names())} parameters"


def non_defaults(settings: Settings) -> list[str]:
    """The names of the parameters that are not the defaults."""
    return [name for name in settings.names() if getattr(settings, name) != default(name)]


# -- the parameters of a notebook -----------------------------------------------------------------------------------

FILE = "params_file"  # the only name in a parameters cell that is no parameter of a run
NONE = "none"


def from_notebook(names: Mapping[str, Any]) -> Settings:
    """Settings of a notebook: typed values, over the saved file, over what the run folder records, over the defaults.

    In a batch papermill's values count and no saved file is looked for. Step by step, the file that the form saved last replaces
    every value of the parameters cell that is still the default. A value that another notebook's cell changed since is kept.

    names: the notebook's `globals()`. Their `In` is the source of the cells run so far; a parameters cell (typed, or injected by
    papermill) holds only `name = literal`. Its unknown names are refused, because papermill only warns about them.
    Errors: ParameterError.
    """
    injected, assigned = parameters_cell.injected(names.get("In", [])), parameters_cell.assigned(names.get("In", []))
    values = {name: names[name] for name in [*Settings.names(), *sorted(assigned - {FILE, *Settings.names()})] if name in names}
    path = _parameter_file(names.get(FILE, ""), values.get("run_name", default("run_name")), batch=bool(injected))
    if path is None:
        return validate({**_record(values.get("run_name", default("run_name"))), **values}, "parameters cell")
    saved = validate(read_yaml(path), paths.short(path)).model_dump()
    typed = {name: value for name, value in values.items() if name in injected or value != default(name)}
    run_name = typed.get("run_name", saved["run_name"])
    earlier_typed = _record(run_name) if current_file.record_is_newer(path, run_name) else {}
    replaced = {name: saved[name] for name in values.keys() - typed.keys()}
    settings = validate({**saved, **earlier_typed, **replaced, **typed}, "parameters cell")
    print(_sources(path, {name: value for name, value in replaced.items() if value != default(name)}, typed))
    return settings


def _parameter_file(chosen: str, run_name: Any, batch: bool) -> Path | None:
    """The parameter file that counts: the chosen one; in a batch no other; else that of the typed run, or the form's last one."""
    if chosen and chosen != NONE:
        return find_file(chosen)
    if chosen == NONE or batch:
        return None
    if run_name != default("run_name"):
        path = paths.runs() / f"{run_name}.yaml"
        return path if path.is_file() else None
    path = current_file.find()
    if path is not None and not path.is_file():
        raise ParameterError(
            f"{paths.short(path)} is missing; the form of notebook 00 saved it last (runs/.current). Save it there again, "
            f'or set {FILE} = "{NONE}" in the parameters cell to use no file'
        )
    return path


def _record(run_name: Any) -> dict[str, Any]:
    """The parameters that the run folder records; empty if there is no such run."""
    path = paths.runs() / str(run_name) / "params.yaml"
    return read_yaml(path) if path.is_file() else {}


def _sources(path: Path, replaced: Mapping[str, Any], typed: Mapping[str, Any]) -> str:
    """A text that names the file that counts, the defaults that it replaces, and the typed values."""
    lines = [f"Parameters from {paths.short(path)}; they replace these defaults of this cell: {_assignments(replaced) or 'none'}."]
    lines += [f"Typed in this cell, and stronger than the file: {_assignments(typed)}."] if typed else []
    lines += [f'A typed value that is not the default wins; {FILE} = "{NONE}" uses no file.']
    return "\n".join(textwrap.fill(line, 110, subsequent_indent="    ", break_long_words=False) for line in lines)


def _assignments(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {values[name]!r}" for name in Settings.names() if name in values)


def default(name: str) -> Any:
    """The default of a parameter; for an unknown name a value that equals nothing."""
    return Settings.model_fields[name].default if name in Settings.model_fields else object()
