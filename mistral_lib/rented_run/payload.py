"""What a run needs on its machine beside the code: parameters, corpus files, base model, optional packages.

The machine has a workbook's home as well, and each file lies at the same path below it, so that the parameters mean the same there and
the audit of the fetched run finds the same sources here. s3://, hf:// and demo: sources stay addresses, which the machine reads itself.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mistral_lib.aws import names
from mistral_lib.corpus import exclusions, hub_datasets
from mistral_lib.corpus.source_files import Expansion
from mistral_lib.corpus.sources import OPTIONAL
from mistral_lib.model.model_folder import SMALL_FILES, WEIGHT_FILES
from mistral_lib.run import disk, files, params, paths
from mistral_lib.run.settings import Settings, is_embedded

SOURCES = ("corpus_paths", "operatives_paths", "retention_paths")
TRACKERS = {"none": None, "tensorboard": "tensorboard"}  # what the machine can report to, and the optional packages for it
MODEL_FILES = (*SMALL_FILES, *WEIGHT_FILES)


class PayloadError(ValueError):
    """A run that a machine could not do as it is; the message lists every fault."""


@dataclass(frozen=True, slots=True)
class Payload:
    """Files by their paths below the home of the machine."""

    settings: Settings  # with paths that mean the same on the machine
    corpus: dict[str, Path]
    base_model: dict[str, Path] | None = None  # by the path inside the model's folder; None: the machine fetches it, or has it
    notes: tuple[str, ...] = ()  # what the machine does otherwise than the parameter file says
    extras: tuple[str, ...] = ()  # optional packages of pyproject.toml
    needs_token: bool = False  # something comes from the hub, which may ask for one

    @property
    def params(self) -> bytes:
        return params.to_yaml(self.settings).encode()


@dataclass(slots=True)
class _Found:
    files: dict[str, Path] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def of(settings: Settings, machine_type: str, model_folder: Path | None = None) -> Payload:
    """The payload of a run. machine_type: an EC2 type. model_folder: a local base model to upload. Errors: PayloadError."""
    found, values = _Found(), {}
    for key in SOURCES:
        values[key] = [_source(found, key, source, settings) for source in getattr(settings, key)]
    values |= _single_files(found, settings)
    name, model = _model(found, settings.base_model, model_folder)
    values |= {"base_model": name, "instance": _instance(found, settings.instance, machine_type)}
    if settings.report_to not in TRACKERS:
        found.faults.append(
            f"report_to: {settings.report_to} needs its package and your login on the machine, and neither is sent; expected one of "
            f"{', '.join(TRACKERS)} (TensorBoard's files come back with the results)"
        )
    if found.faults:
        raise PayloadError("\n".join(found.faults))
    sent = settings.model_copy(update=values)
    found.notes += _rights_needed(sent)
    return Payload(sent, found.files, model, tuple(found.notes), _extras(sent, machine_type), _from_hub(sent, model))


def _source(found: _Found, key: str, source: str, settings: Settings) -> str:
    """The source as the machine finds it; its files are added to `found`."""
    plain = source.removeprefix(OPTIONAL)
    if is_embedded(plain) or plain.startswith(("s3://", hub_datasets.SCHEME)):
        return source
    below = _below_home(found, key, plain)
    if below is None:
        return source
    try:
        expanded = list(Expansion(key.removesuffix("_paths"), Counter(), settings.ocr).files(below))
    except (OSError, ValueError) as error:
        found.faults.append(f"{key}: {plain!r}: {error}")
        return source
    if not expanded and not source.startswith(OPTIONAL):
        found.faults.append(f"{key}: {plain!r}: no file there to read; correct the path, or write '{OPTIONAL}{plain}'")
    for file in expanded:
        found.files[_relative(file.path)] = file.path
    return source.replace(plain, below)


def _single_files(found: _Found, settings: Settings) -> dict[str, Any]:
    """The exclusion file and own lm-eval tasks, as parameters for the machine."""
    values: dict[str, Any] = {}
    if settings.exclude_file:
        values["exclude_file"] = _one_file(found, "exclude_file", settings.exclude_file)
    elif (written := exclusions.place(settings)).is_file():
        found.files[_relative(written)] = written
    own = [task for task in settings.lm_eval_tasks if task.endswith(".yaml")]
    if own:
        values["lm_eval_tasks"] = [_one_file(found, "lm_eval_tasks", task) if task in own else task for task in settings.lm_eval_tasks]
    return values


def _one_file(found: _Found, key: str, name: str) -> str:
    below = _below_home(found, key, name)
    if below and not (paths.home() / below).is_file():
        found.faults.append(f"{key}: {name!r}: no such file (relative paths start at the workbook's folder)")
    elif below:
        found.files[below] = paths.home() / below
    return below or name


def _below_home(found: _Found, key: str, name: str) -> str | None:
    """The path relative to the home. A path outside has no place on the machine, which is a fault."""
    place = Path(os.path.normpath(paths.home() / Path(name).expanduser()))
    if place.is_relative_to(paths.home()):
        return str(place.relative_to(paths.home()))
    link = paths.corpora() / re.sub(r"[*?\[].*", "", place.name or "corpus").strip(".-_ ") if place.name else paths.corpora() / "corpus"
    found.faults.append(
        f"{key}: {name!r} is outside the workbook's folder ({paths.home()}), and the machine has only files below it: "
        f"mkdir -p {paths.corpora()} && ln -s {place} {link}, then write {link.relative_to(paths.home())} instead"
    )
    return None


def _relative(path: Path) -> str:
    return os.path.relpath(os.path.normpath(path), paths.home())


def _model(found: _Found, name: str, uploaded: Path | None) -> tuple[str, dict[str, Path] | None]:
    """`base_model` for the machine, and the files to upload."""
    from mistral_lib.model import base_model

    local = paths.home() / Path(name).expanduser()
    if uploaded is None and (name.startswith("s3://") or is_embedded(name) or (base_model.is_hub_id(name) and not local.is_dir())):
        return name, None
    if uploaded is None:
        size = files.size_text(disk.used_bytes(local)) if local.is_dir() else "no such folder"
        found.faults.append(
            f"base_model: {name!r} is a folder on this computer ({size}): give --upload-model {name} to send it, or set base_model to its "
            "name on the hub or to an s3:// prefix"
        )
        return name, None
    folder = Path(os.path.normpath(paths.home() / uploaded.expanduser()))
    sent = {path.name: path for path in _model_files(folder)} if folder.is_dir() else {}
    if not sent:
        found.faults.append(f"--upload-model {uploaded}: no model there ({folder}); expected a folder with config.json and *.safetensors")
    inside = folder.is_relative_to(paths.home())
    below = str(folder.relative_to(paths.home())) if inside else f"{paths.models().name}/{folder.name}"
    if below != name:
        found.notes.append(f"base_model: {name} is {below} on the machine, the uploaded folder")
    return below, sent


def _model_files(folder: Path) -> Iterator[Path]:
    """The files of a model that the workbook loads, without `consolidated*`, which holds the same weights again."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in MODEL_FILES) and not path.name.startswith("consolidated"):
            yield path


def _instance(found: _Found, named: str, machine_type: str) -> str:
    """`instance` for the machine: its own type, whose price counts. `cpu` stays: it says that the run needs no GPU."""
    if named == machine_type or machine_type not in params.instances():
        return named
    if named == "cpu":
        if params.instances()[machine_type]["gpu"] != "none":
            found.notes.append(
                f"instance: cpu stays, so the run does not insist on the GPU of {machine_type}: without a usable one it trains on the CPU. "
                f"To insist on it, give --set instance={machine_type}"
            )
        return named
    found.notes.append(f"instance: {named} is {machine_type} on the machine, since that is what was launched")
    return machine_type


def _sources(settings: Settings) -> list[str]:
    return [source.removeprefix(OPTIONAL) for key in SOURCES for source in getattr(settings, key)]


def _rights_needed(settings: Settings) -> list[str]:
    """What an administrator has to allow, since the machine's role reads its own part of the run's bucket alone."""
    buckets = {address.split("/")[2] for address in (*_sources(settings), settings.base_model) if address.startswith("s3://")}
    role = names.of(settings.run_name).role
    return [
        f"bucket {name}: the machine reads it itself; allow its role {role} s3:ListBucket and s3:GetObject there"
        for name in sorted(buckets)
    ]


def _extras(settings: Settings, machine_type: str) -> tuple[str, ...]:
    """Which optional packages the run needs: fused kernels need an Ampere or newer GPU, which is one with bfloat16."""
    known = params.instances().get(machine_type, {})
    needed = {
        "gpu": settings.instance != "cpu" and known.get("dtype") == "bfloat16",
        "lm-eval": bool(settings.lm_eval_tasks),
        "s3": any(address.startswith("s3://") for address in (*_sources(settings), settings.base_model)),
        TRACKERS[settings.report_to]: True,
    }
    return tuple(name for name, wanted in needed.items() if wanted and name)


def _from_hub(settings: Settings, model: dict[str, Path] | None) -> bool:
    """Whether the machine reads the hub: the base model, or a data set."""
    if any(address.startswith(hub_datasets.SCHEME) for address in _sources(settings)):
        return True
    return model is None and not is_embedded(settings.base_model) and not settings.base_model.startswith("s3://")
