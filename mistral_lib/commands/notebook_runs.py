"""Runs the numbered notebooks headless with papermill, one after the other, into runs/<name>/notebooks/.

A notebook is skipped if its executed copy is complete and made with the same parameters, and its stage is verified.
The first one that is not runs, and all that follow it.
"""

import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mistral_lib.commands import run_outcome
from mistral_lib.commands.run_outcome import STAGES_OF
from mistral_lib.corpus import sources
from mistral_lib.model import base_model
from mistral_lib.preparation import audit, stage_inputs
from mistral_lib.run import Run, files, params, paths
from mistral_lib.run.folder import MEASURING
from mistral_lib.run.progress import say
from mistral_lib.training import trackers, trainer_process, training_log
from mistral_lib.training.training_log import duration

COMPLETE = "complete"  # metadata of an executed copy that was run to its end: its key
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def select(only: Sequence[str] = ()) -> list[Path]:
    """The notebooks whose numbers are in `only`; all if it is empty. Errors: ParameterError for an unknown number."""
    known = {path.name[:2]: path for path in sorted(paths.notebooks().glob("[0-9][0-9]_*.ipynb"))}
    if unknown := [number for number in only if number not in known]:
        raise params.ParameterError(f"--only {' '.join(unknown)}: no such notebook; expected one of {', '.join(known)}")
    return [path for number, path in known.items() if not only or number in only]


def wanted(settings: params.Settings, only: Sequence[str] = ()) -> list[Path]:
    """`select`, without the notebook that exports and serves if `export_forms` is empty; in `only` its number is an order."""
    chosen = select(only)
    if settings.export_forms or only:
        return chosen
    say("05_serve_adapter is left out: export_forms is empty, so there is nothing to export")
    return [path for path in chosen if path.name[:2] != "05"]


def run(settings: params.Settings, only: Sequence[str] = ()) -> int:
    """Run the notebooks; 0 if all are done, 1 if one failed. Errors before anything runs: SourceError, BaseModelError, RunInUseError."""
    chosen = wanted(settings, only)
    require(settings)
    run_ = Run.open(settings)
    run_.refuse_if_in_use()
    fresh = True  # whether everything before this notebook was skipped
    for number, path in enumerate(chosen, 1):
        label = f"[{number}/{len(chosen)}] {path.stem}"
        if fresh and is_done(run_, path):
            say(f"{label}: done already, skipped")
            continue
        fresh = False
        say(f"{label}: runs …")
        started = time.perf_counter()
        with live_log(run_):
            error = execute(run_, path)
        if error is not None:
            say(f"{label}: FAILED\n{error}\nRun the same command again to resume from here.")
            return 1
        result = "".join(f"; stage {stage}: {run_.status(stage)}" for stage in STAGES_OF.get(path.name[:2], ()))
        say(f"{label}: done in {duration(time.perf_counter() - started)}{result}")
    print(run_outcome.text(run_))
    stage_inputs.note_in_report(run_)
    return 0


def require(settings: params.Settings) -> None:
    """Errors: SourceError for paths that are not there, BaseModelError, ModuleNotFoundError for the package of a tracker."""
    sources.of_settings(settings)
    base_model.folder(settings.base_model, weights=False)
    trackers.require(settings.report_to)


def key(run_: Run, path: Path) -> str:
    """What an executed copy depends on: the notebook's text and the parameters, but for the name of the run."""
    return files.digest([files.sha256(path), run_.settings.model_dump(exclude={"run_name"})])


def is_done(run_: Run, path: Path) -> bool:
    """Whether the executed copy is complete and made with these parameters, and its stage is verified."""
    copy = run_.folder / "notebooks" / path.name
    try:
        if files.read_json(copy)["metadata"].get(COMPLETE) != key(run_, path):
            return False
    except (OSError, ValueError):
        return False
    return not any(audit.unverified(run_, stage) for stage in STAGES_OF.get(path.name[:2], ()))


def execute(run_: Run, path: Path) -> str | None:
    """Execute one notebook into the run folder; returns the failing cell's error, or None. The copy shows how far it ran."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    # It warns of parameters that a notebook does not list; from_notebook refuses unknown ones.
    logging.getLogger("papermill").setLevel(logging.ERROR)
    copy = run_.folder / "notebooks" / path.name
    copy.parent.mkdir(exist_ok=True)
    partial = copy.with_name(f".{path.name}.partial.ipynb")
    try:
        papermill.execute_notebook(
            str(path), str(partial), parameters=run_.settings.model_dump(), kernel_name="python3", progress_bar=False,
            cwd=str(path.parent), extra_arguments=["--log-level=40"],
        )  # fmt: skip
    except PapermillExecutionError as error:
        return f"cell {error.exec_count}: {error.ename}: {ANSI.sub('', str(error.evalue))}"
    except Exception as error:  # a kernel that was killed comes as one of several library errors
        return f"{type(error).__name__}: {ANSI.sub('', str(error))}"
    finally:
        if partial.exists():
            os.replace(partial, copy)
    mark_complete(copy, key(run_, path))
    return None


def mark_complete(copy: Path, key_: str) -> None:
    """Write into an executed copy that it was run to its end, and what it depends on."""
    notebook = files.read_json(copy)
    notebook["metadata"][COMPLETE] = key_
    files.write_json(copy, notebook)


@contextmanager
def live_log(run_: Run) -> Iterator[None]:
    """While the notebooks run, prints on stderr a line for each step and event of the trainer's log, and for each measurement that the
    evaluation begins."""
    path, done = run_.folder / "training" / "log.jsonl", threading.Event()
    measured = set(measurements(run_))

    def follow() -> None:
        latest, ended = time.time(), False
        while not ended:
            ended = done.wait(trainer_process.POLL)
            new = [event for event in files.read_json_lines(path) if event["time"] > latest]
            for line in filter(None, map(training_log.line, new)):
                say("  " + line)
            latest = max([latest, *(event["time"] for event in new)])
            for name in measurements(run_):
                if name not in measured:
                    measured.add(name)
                    say(f"  measures {name.replace('_', ' ')}")

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    try:
        yield
    finally:
        done.set()
        follower.join()


def measurements(run_: Run) -> list[str]:
    """The evaluation's measurements that have begun, the first one first; empty if it does not run."""
    return [path.stem for path in sorted((run_.folder / MEASURING).glob("*.jsonl"), key=lambda path: path.stat().st_ctime_ns)]
