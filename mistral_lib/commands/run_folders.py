"""The run folders below runs/: listed, renamed and deleted."""

import re
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import yaml

from mistral_lib.run import Run, all_runs, current_file, disk, files, params, paths
from mistral_lib.run.params import ParameterError
from mistral_lib.run.settings import STAGES, Settings

HEADINGS = ("run", *STAGES, "verdict", "MiB", "last change (UTC)")


def table() -> str:
    """Every run with the status of its stages, its verdict, its size on disk and its last change."""
    rows = [HEADINGS, *(_row(folder) for folder in all_runs())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines) if len(rows) > 1 else f"no runs in {paths.runs()} yet"


def _row(folder: Path) -> tuple[str, ...]:
    try:
        run = Run(folder, Settings())
        status = [run.status(stage).replace("not started", "–") for stage in STAGES]
        result = folder / "evaluation" / "result.json"
        verdict = files.read_json(result)["verdict"] if run.status("evaluation") == "complete" else "–"
    except (ValueError, KeyError, OSError):  # altered files: `audit` names them
        status, verdict = ["unreadable"] * len(STAGES), "–"
    facts = disk.file_facts(folder)
    size, changed = sum(fact.st_size for fact in facts) / disk.MIB, max(fact.st_mtime for fact in facts)
    return folder.name, *status, verdict, f"{size:,.1f}", datetime.fromtimestamp(changed, UTC).strftime("%Y-%m-%d %H:%M")


def rename(old: str, new: str) -> str:
    """Rename a run: its folder, `run_name` in its params.yaml, and its saved file runs/<name>.yaml. Returns a text that says so.

    Errors: ParameterError for a name that no run can have, FileNotFoundError, FileExistsError, RunInUseError.
    """
    run = _find(old)
    settings = params.validate({**run.settings.model_dump(), "run_name": new}, "runs rename")
    folder, file, new_file = run.folder.with_name(new), paths.runs() / f"{old}.yaml", paths.runs() / f"{new}.yaml"
    for place in (folder, new_file) if file.is_file() else (folder,):
        if place.exists():
            raise FileExistsError(f"{paths.short(place)} exists already; nothing was renamed. Choose another name, or delete it first")
    _refuse_own_paths(run)
    newer = current_file.record_is_newer(file, old)
    with run.lock(f"renaming to {new}"):
        _write_name(run.folder / "params.yaml", settings)
        run.folder.rename(folder)
    if file.is_file():
        _write_name(file, settings)
        file.rename(new_file)
        current_file.moved(file, new_file, newer)
    return f"{paths.short(run.folder)} is now {paths.short(folder)}; no stage has to run again{_sweep_note(old)}"


def delete(name: str, confirmed: bool = False) -> str:
    """Delete a run folder, after a question on the terminal unless `confirmed`, but not runs/<name>.yaml. Returns a text that says so.

    Errors: FileNotFoundError, ParameterError, RunInUseError, RuntimeError without a terminal.
    """
    run = _find(name)
    run.refuse_if_in_use()
    if not confirmed and not _confirms(run):
        return "nothing was deleted"
    size, hidden = disk.used_bytes(run.folder), run.folder.with_name(f".{name}.deleted")
    with run.lock("deleting"):
        shutil.rmtree(hidden, ignore_errors=True)
        run.folder.rename(hidden)  # a process that is killed from here on leaves no half run
        shutil.rmtree(hidden)
    file = paths.runs() / f"{name}.yaml"
    kept = f"; {paths.short(file)} is kept, and a run from it starts at the beginning" if file.is_file() else ""
    return f"{paths.short(run.folder)} is deleted: {files.size_text(size)}{kept}"


def _find(name: str) -> Run:
    """The run of this name. Errors: ParameterError for a name that no run can have, FileNotFoundError."""
    if "/" in name.strip("/") and (paths.runs() / (own := name.strip("/").replace("/", "-")) / "params.yaml").is_file():
        raise ParameterError(f"run {name!r}: the runs of a sweep are named <sweep>-<alternative>; did you mean {own}?")
    params.validate({"run_name": name}, "runs")
    return Run.existing(paths.runs() / name)


def _refuse_own_paths(run: Run) -> None:
    """A parameter that names a path inside the run folder would name nothing afterwards. Errors: ParameterError."""
    for name, value in run.settings:
        if f"runs/{run.folder.name}/" in str(value):
            raise ParameterError(f"{name} = {value!r} is a path inside {paths.short(run.folder)}; move the file and correct {name} first")


def _write_name(path: Path, settings: Settings) -> None:
    """Replace the line `run_name: …` of a parameter file; its other lines stay as they are."""
    line = f"run_name: {yaml.safe_dump(settings.run_name).splitlines()[0]}  # {params.meaning('run_name')}"
    text, replaced = re.subn(r"^run_name:.*$", line, path.read_text(), flags=re.MULTILINE)
    files.write_text(path, text if replaced else f"{line}\n{text}")


def _sweep_note(name: str) -> str:
    sweeps = [path.parent.name for path in paths.runs().glob("*/comparison.json") if name.startswith(f"{path.parent.name}-")]
    return f". The sweep {sweeps[0]} no longer finds it: it would run this alternative again" if sweeps else ""


def _confirms(run: Run) -> bool:
    """Errors: RuntimeError if there is no terminal to ask on."""
    if not sys.stdin.isatty():
        raise RuntimeError(f"there is no terminal to ask whether {paths.short(run.folder)} shall be deleted; give --yes to delete it")
    complete = ", ".join(stage for stage in STAGES if run.status(stage) == "complete") or "none"
    size = files.size_text(disk.used_bytes(run.folder))
    answer = input(f"Delete {paths.short(run.folder)} ({size}; complete stages: {complete})? This cannot be undone. [y/N] ")
    return answer.strip().lower() in ("y", "yes")
