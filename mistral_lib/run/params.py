"""Reads, checks and writes the parameters of a run, and lists every fault at once. Only this module reads or writes parameter YAML.

settings.py declares the parameters, parameter_faults.py says what is wrong with values.
"""

import textwrap
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mistral_lib.run import current_file, files, parameter_faults, parameters_cell, paths, precedence
from mistral_lib.run.precedence import DEFAULTS
from mistral_lib.run.progress import say
from mistral_lib.run.settings import FITTED, Settings, is_embedded, meaning

DEMO = "demo.yaml"  # in params/: the demo's values
OTHER_FILES = {"instances.yaml", "claims_example.yaml", "skypilot.yaml"}  # in params/, beside the parameter files
AS_UTF8 = "expected a text file in UTF-8: save it as UTF-8 in your editor"


class ParameterError(ValueError):
    """Parameters that cannot be used; the message lists every fault, with file, key and what was expected."""


def validate(values: Mapping[str, Any], origin: str = "parameters", recorded: bool = False) -> Settings:
    """Settings from plain values. Errors: ParameterError that lists every fault at once; `origin` names the file in it.

    recorded: the values are those of an existing run, in which the demo's sources may stand beside one's own corpus.
    """
    faults = [parameter_faults.no_name(key) for key in values if not isinstance(key, str)]
    good = {key: value for key, value in values.items() if isinstance(key, str)}
    try:
        Settings.model_validate(good)
    except ValidationError as error:
        for fault in error.errors():
            key = str(fault["loc"][0])
            if key not in FITTED or key in good:  # one fault for a value, not one for each type that it might have
                faults.append(parameter_faults.explain(fault, key))
            good.pop(key, None)
    settings = Settings.model_validate(good)
    if "checkpoint_every_steps" not in values:
        settings = settings.model_copy(update={"checkpoint_every_steps": precedence.checkpoint_interval(settings.model_dump())})
    faults += parameter_faults.contradictions(settings, instances()) + ([] if recorded else parameter_faults.of_the_demo(settings))
    if faults:
        raise ParameterError("\n".join(f"{origin}: {fault}" for fault in faults))
    return settings if recorded else _without_the_demos_own(settings)


def _without_the_demos_own(settings: Settings) -> Settings:
    """With a corpus of one's own, demo:retention is left out of the retention texts, and the weights of the demo's domains, which is said."""
    if not settings.has_own_corpus:
        return settings
    changes: dict[str, Any] = {}
    kept = [path for path in settings.retention_paths if not is_embedded(path)]
    if kept != settings.retention_paths:
        say(
            "retention_paths: demo:retention is left out: it belongs to the demo's corpus; general_prompts measure forgetting for any corpus"
        )
        changes["retention_paths"] = kept
    if settings.domain_weights and settings.domain_weights == demo()["domain_weights"]:
        say(f"domain_weights: {settings.domain_weights} is left out: it is of the demo's domains")
        changes["domain_weights"] = {}
    return settings.model_copy(update=changes)


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
            values[key.strip()] = yaml.load(value, _Loader)
        except yaml.YAMLError:
            raise ParameterError(f"--set {override!r}: not valid YAML; expected a value as in max_steps=20 or 'columns={{a: b}}'") from None
    settings = validate(values, paths.short(path))
    if settings.has_own_corpus and path.resolve() == (paths.params() / DEMO).resolve():
        own = {name: value for name, value in settings.model_dump().items() if DEFAULTS[name] != value == demo()[name]}
        say(f"{paths.short(path)}: your corpus is used with these values of the demo: {_assignments(own)}; params/own_corpus.yaml has none")
    return settings


def recorded(path: Path) -> Settings:
    """The settings of an existing run, from the params.yaml of its folder. Errors: ParameterError."""
    return validate(read_yaml(path), paths.short(path), recorded=True)


def find_file(path: Path | str) -> Path:
    """The first existing file: relative to this directory, the workbook's home or the project. The path as given if there is none."""
    given = Path(path).expanduser()
    return next((place for place in (given, paths.home() / given, paths.project() / given) if place.is_file()), given)


class _Loader(yaml.SafeLoader):
    """YAML in which `no` is text, because `secrets: no` may mean that there are none, or that they are not searched for. A key that is true
    or false takes the text `no` for false."""


def _read_bool(loader: yaml.SafeLoader, node: yaml.Node) -> bool | str:
    return "no" if node.value.lower() == "no" else loader.construct_yaml_bool(node)


_Loader.add_constructor("tag:yaml.org,2002:bool", _read_bool)


def _read_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    """Errors: ParameterError for a key that is there twice: YAML itself takes the last value without a word."""
    lines: dict[Any, int] = {}
    for key_node, _ in node.value:
        if key_node.tag == "tag:yaml.org,2002:merge":
            continue  # <<, whose values the mapping's own ones replace
        key, line = loader.construct_object(key_node, deep=True), key_node.start_mark.line + 1
        if isinstance(key, str | int | float | bool) and key in lines:
            raise ParameterError(f"{key} is given twice, in lines {lines[key]} and {line}: delete one of them")
        if isinstance(key, str | int | float | bool):
            lines[key] = line
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _read_mapping)


def read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        folders = (paths.params(), paths.runs())
        there = {folder: sorted({p.name for p in folder.glob("*.yaml")} - OTHER_FILES) for folder in folders}
        holds = "; ".join(f"{paths.short(folder)}/ holds {', '.join(names)}" for folder, names in there.items() if names)
        raise ParameterError(f"{path}: no such parameter file; {holds}")
    try:
        values = yaml.load(_text(path), _Loader)
    except ParameterError as error:
        raise ParameterError(f"{paths.short(path)}: {error}") from None
    except yaml.YAMLError as error:
        raise ParameterError(f"{paths.short(path)}: not valid YAML: {error}") from None
    if values is None:
        raise ParameterError(f"{paths.short(path)}: the file has no parameters; expected lines of `key: value`")
    if not isinstance(values, dict):
        raise ParameterError(f"{paths.short(path)}: expected lines of `key: value`, found {type(values).__name__}")
    return values


def _text(path: Path) -> str:
    """Errors: ParameterError if it is not UTF-8."""
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4]:  # with its mark, and without it
        raise ParameterError(f"the file is UTF-16 or UTF-32; {AS_UTF8}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ParameterError(f"line {line} has the byte 0x{data[error.start]:02x}, which is not UTF-8; {AS_UTF8}") from None


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


@lru_cache(maxsize=1)
def demo() -> Mapping[str, Any]:
    """The values of params/demo.yaml."""
    return validate(read_yaml(paths.params() / DEMO), DEMO).model_dump()


def chosen(settings: Settings) -> dict[str, Any]:
    """The parameters that are not those of `base_name`: what must be typed into a parameters cell for such a run."""
    return precedence.chosen(settings.model_dump(), demo())


def base_name(settings: Settings) -> str:
    """What a run's other parameters are: those of the demo for its corpus, the defaults for one's own."""
    return "the defaults" if settings.has_own_corpus else f"params/{DEMO}"


# -- the parameters of a notebook -----------------------------------------------------------------------------------

FILE = "params_file"  # the only name in a parameters cell that is no parameter of a run
NONE = "none"


def from_notebook(names: Mapping[str, Any]) -> Settings:
    """Settings of a notebook: typed values, over the saved file, over what the run folder records, over the demo or the defaults.

    In a batch papermill's values count and no saved file is looked for. Step by step, the file that the form saved last replaces
    every value of the parameters cell that is still the demo's. A value that another notebook's cell changed since is kept.
    With a corpus of one's own, values of the demo that nobody chose are the defaults, which is printed.

    names: the notebook's `globals()`. Their `In` is the source of the cells run so far; a parameters cell (typed, or injected by
    papermill) holds only `name = literal`. Its unknown names are refused, because papermill only warns about them.
    Errors: ParameterError.
    """
    injected, assigned = parameters_cell.injected(names.get("In", [])), parameters_cell.assigned(names.get("In", []))
    cell = {name: names[name] for name in [*Settings.names(), *sorted(assigned - {FILE, *Settings.names()})] if name in names}
    run_name = cell.get("run_name", demo()["run_name"])
    path = _parameter_file(names.get(FILE, ""), run_name, batch=bool(injected))
    if path is None:
        combined = precedence.over_record(cell, injected, _record(run_name), demo())
    else:
        saved = validate(read_yaml(path), paths.short(path)).model_dump()
        run_name = run_name if "run_name" in injected or run_name != demo()["run_name"] else saved["run_name"]
        record = _record(run_name) if current_file.record_is_newer(path, run_name) else {}
        combined = precedence.over_file(cell, injected, saved, record, demo())
    settings = validate(combined.values, "parameters cell")
    if path is not None or combined.replaced:
        print(_sources(path, cell, combined))
    return settings


def _parameter_file(chosen: str, run_name: Any, batch: bool) -> Path | None:
    """The parameter file that counts: the chosen one; in a batch no other; else that of the typed run, or the form's last one."""
    if chosen and chosen != NONE:
        return find_file(chosen)
    if chosen == NONE or batch:
        return None
    if run_name != demo()["run_name"]:
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


def _sources(path: Path | None, cell: Mapping[str, Any], combined: precedence.Combined) -> str:
    """A text that names the file that counts, the demo's values in this cell that are replaced, and the typed values."""
    replaced = _assignments(combined.replaced, cell) or "none"
    if path is None:
        lines = [f"With a corpus of your own, values of the demo in this cell do not count; in their place: {replaced}."]
    else:
        lines = [f"Parameters from {paths.short(path)}; they replace these values of the demo in this cell: {replaced}."]
        lines += [f"Typed in this cell, and stronger than the file: {_assignments(combined.typed)}."] if combined.typed else []
        lines += [f'A typed value that is not the demo\'s wins; {FILE} = "{NONE}" uses no file.']
    return "\n".join(textwrap.fill(line, 110, subsequent_indent="    ", break_long_words=False) for line in lines)


def _assignments(values: Mapping[str, Any], instead_of: Mapping[str, Any] | None = None) -> str:
    of = {name: f" (not {instead_of[name]!r})" if instead_of else "" for name in values}
    return ", ".join(f"{name} = {values[name]!r}{of[name]}" for name in Settings.names() if name in values)


def default(name: str) -> Any:
    """The default of a parameter; for an unknown name a value that equals nothing."""
    return Settings.model_fields[name].default if name in Settings.model_fields else object()
