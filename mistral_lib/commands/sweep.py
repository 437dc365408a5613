"""A sweep file: one parameter file and the alternatives that are tried against each other. Every fault is named before anything runs.

Each alternative is a run of its own, `<sweep>-<alternative>`. How they are run: sweep_runs.py.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_lib.run import parameter_faults, params, paths
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
    faults = [parameter_faults.unknown("key", str(key), KEYS) for key in values if key not in KEYS]
    common, grid, named = (_mapping(values, key, faults) for key in ("common", "grid", "alternatives"))
    if not values.get("grid") and not values.get("alternatives"):
        faults.append("no alternatives: give a grid, alternatives by name, or both")
    grid = _filled("grid", grid, list, "a list of values, such as [8, 16]", faults)
    named = _filled("alternatives", named, dict, "{parameter: value}", faults)
    base = _base(values.get("params_file"), path, faults)
    name = _slug(path.stem)
    if (paths.runs() / name / "params.yaml").exists():
        faults.append(f"runs/{name} is a run, and this sweep's comparison would be written into it; rename the sweep file")
    found = [_alternative(name, label, change, common, base, faults) for label, change in named_changes(grid, named, faults).items()]
    faults += _equal(one for one in found if one)
    if faults:
        raise ParameterError("\n".join(f"{origin}: {fault}" for fault in dict.fromkeys(faults)))
    return Sweep(name, base, found)


def _mapping(values: Mapping[str, Any], key: str, faults: list[str]) -> dict[str, Any]:
    found = values.get(key) or {}
    if isinstance(found, dict):
        return found
    faults.append(f"{key}: expected {KEYS[key]}, found {found!r}")
    return {}


def _filled(key: str, entries: dict[str, Any], kind: type, expected: str, faults: list[str]) -> dict[str, Any]:
    """The entries that can be looked at further, so that one fault does not hide another: of this kind, and not empty."""
    wrong = [name for name, value in entries.items() if not isinstance(value, kind) or not value]
    faults += [f"{key}: {name} = {entries[name]!r}: expected {expected}" for name in wrong]
    return {name: value for name, value in entries.items() if name not in wrong}


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
