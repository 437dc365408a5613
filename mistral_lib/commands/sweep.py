"""A sweep file: one parameter file and the alternatives that are tried against each other. Every fault is named before anything runs.

Each alternative is a run of its own, `<sweep>-<alternative>`. How they are run: sweep_runs.py.
"""

import difflib
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_lib.run import params, paths
from mistral_lib.run.params import ParameterError
from mistral_lib.run.settings import Settings

KEYS = {
    "params_file": "the parameter file that all alternatives start from",
    "common": "parameters that all alternatives change alike",
    "grid": "parameter: [values]; every combination is an alternative",
    "alternatives": "name: {parameter: value}",
}
MOST = 200  # alternatives of one sweep; more is most likely a slip


@dataclass(frozen=True, slots=True)
class Alternative:
    name: str
    changes: dict[str, Any]  # what sets it apart from the others
    settings: Settings


@dataclass(frozen=True, slots=True)
class Sweep:
    name: str
    base: Settings  # of the parameter file, without any change
    alternatives: list[Alternative]

    @property
    def folder(self) -> Path:
        """Where the comparison is written; not a run."""
        return paths.runs() / self.name


def load(path: Path) -> Sweep:
    """Errors: ParameterError that lists every fault of the file and of all its alternatives at once."""
    path = Path(path)
    origin, values = paths.short(path.resolve()), params.read_yaml(path)
    faults = [_unknown(key) for key in values if key not in KEYS]
    faults += _wrong_kinds(values)
    base = _base(values.get("params_file"), path, faults)
    name = _slug(path.stem)
    if (paths.runs() / name / "params.yaml").exists():
        faults.append(f"runs/{name} is a run, and this sweep's comparison would be written into it; rename the sweep file")
    sound = _sound(values)
    changes = named_changes(sound["grid"], sound["alternatives"], faults)
    found = [_alternative(name, label, change, sound["common"], base, faults) for label, change in changes.items()]
    faults += _equal(one for one in found if one)
    if faults:
        raise ParameterError("\n".join(f"{origin}: {fault}" for fault in dict.fromkeys(faults)))
    return Sweep(name, base, found)


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(str(key), KEYS, n=1, cutoff=0.5)
    return f"unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else f"; the keys are {', '.join(KEYS)}")


def _wrong_kinds(values: Mapping[str, Any]) -> list[str]:
    """Faults of the file's own keys, whatever parameters they name."""
    faults = []
    for key in ("common", "grid", "alternatives"):
        if not isinstance(values.get(key) or {}, dict):
            faults.append(f"{key}: expected {KEYS[key]}, found {values[key]!r}")
    grid, named = (values.get(key) if isinstance(values.get(key), dict) else {} for key in ("grid", "alternatives"))
    for key, choices in grid.items():
        if not isinstance(choices, list) or not choices:
            faults.append(f"grid: {key} = {choices!r}: expected a list of values, such as [8, 16]")
    for name, change in named.items():
        if not isinstance(change, dict) or not change:
            faults.append(f"alternatives: {name} = {change!r}: expected {{parameter: value}}")
    if not values.get("grid") and not values.get("alternatives"):
        faults.append("no alternatives: give a grid, alternatives by name, or both")
    return faults


def _sound(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What of the file can be looked at further, so that one fault does not hide another."""
    parts = {key: values.get(key) if isinstance(values.get(key), dict) else {} for key in ("common", "grid", "alternatives")}
    grid = {key: choices for key, choices in parts["grid"].items() if isinstance(choices, list) and choices}
    named = {name: change for name, change in parts["alternatives"].items() if isinstance(change, dict)}
    return {"common": parts["common"], "grid": grid, "alternatives": named}


def _base(given: Any, path: Path, faults: list[str]) -> Settings:
    """The settings of the parameter file, which is looked for beside the sweep file and in the project."""
    if not isinstance(given, str):
        faults.append(f"params_file = {given!r}: expected {KEYS['params_file']}, such as params/demo.yaml")
        return Settings()
    places = (path.resolve().parent / given, paths.project() / given)
    try:
        return params.load(next((place for place in places if place.is_file()), Path(given)))
    except ParameterError as error:
        faults += [f"params_file: {line}" for line in str(error).splitlines()]
        return Settings()


def named_changes(grid: Mapping[str, list], named: Mapping[str, dict], faults: list[str]) -> dict[str, dict[str, Any]]:
    """The changes of every alternative by its name: the grid's combinations first, then those that have a name."""
    cells = [dict(zip(grid, cell, strict=True)) for cell in itertools.product(*grid.values())] if grid else []
    if len(cells) + len(named) > MOST:
        faults.append(f"{len(cells) + len(named):,} alternatives, expected at most {MOST}: leave values out of the grid")
        return {}
    found: dict[str, dict[str, Any]] = {}
    for name, change in [*((label(cell), cell) for cell in cells), *named.items()]:
        if (slug := _slug(str(name))) in found:
            faults.append(f"two alternatives would be named {slug!r}; rename one of them")
        found[slug] = change
    return found


def label(change: Mapping[str, Any]) -> str:
    return "_".join(f"{key}-{value:g}" if isinstance(value, float) else f"{key}-{value}" for key, value in change.items())


def _slug(text: str) -> str:
    """A text as a part of a run's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._") or "x"


def _alternative(
    sweep: str, name: str, change: dict[str, Any], common: dict[str, Any], base: Settings, faults: list[str]
) -> Alternative | None:
    run_name = f"{sweep}-{name}"
    if "run_name" in {*change, *common}:
        faults.append("run_name is given by the sweep itself (<sweep>-<alternative>); take it out")
    try:
        return Alternative(name, change, params.validate({**base.model_dump(), **common, **change, "run_name": run_name}, "alternative"))
    except ParameterError as error:
        faults += [line.removeprefix("alternative: ") for line in str(error).splitlines()]
        return None


def _equal(found: Any) -> list[str]:
    """Alternatives with equal parameters."""
    seen: dict[str, str] = {}
    faults = []
    for one in found:
        key = params.to_yaml(one.settings.model_copy(update={"run_name": "x"}))
        if key in seen:
            faults.append(f"{seen[key]!r} and {one.name!r} are the same parameters; take one of them out")
        seen.setdefault(key, one.name)
    return faults
