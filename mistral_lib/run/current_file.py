"""runs/.current: the parameter file that the form of notebook 00 saved last. Only the form writes it; `runs rename` keeps it right."""

from pathlib import Path
from typing import Any

from mistral_lib.run import files, paths


def write(parameter_file: Path) -> None:
    """Make a file in runs/ the current one. Its content and that of the run folder are noted, so that later changes are recognized."""
    note = {"file": parameter_file.name, "sha256": files.sha256(parameter_file), "run_sha256": _hash(_record(parameter_file.stem))}
    files.write_json(_place(), note)


def find() -> Path | None:
    """The current file, there or not; None if the form never saved one."""
    return paths.runs() / _note()["file"] if _note() else None


def record_is_newer(parameter_file: Path, run_name: str) -> bool:
    """Whether the run folder's params.yaml changed since the form saved this file: a value was typed in a notebook.

    False if the file is not the current one or was edited since: then the file counts.
    """
    note, record = _note(), _record(run_name)
    unchanged = find() == parameter_file and note["sha256"] == _hash(parameter_file)
    return unchanged and record.is_file() and note["run_sha256"] != files.sha256(record)


def moved(old: Path, new: Path, record_is_newer: bool) -> None:
    """If `old` is the current file, make `new` the current one; whether the run folder's parameters are newer stays as it was."""
    if find() == old:
        write(new)
        if record_is_newer:
            files.write_json(_place(), {**_note(), "run_sha256": ""})


def _note() -> dict[str, Any]:
    return files.read_json(_place()) if _place().is_file() else {}


def _place() -> Path:
    return paths.runs() / ".current"


def _record(run_name: str) -> Path:
    return paths.runs() / run_name / "params.yaml"


def _hash(path: Path) -> str:
    return files.sha256(path) if path.is_file() else ""
