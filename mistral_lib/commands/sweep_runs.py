"""Runs the alternatives of a sweep one after another through the notebooks, skips complete ones, and continues after a failed one."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from mistral_lib.commands import notebook_runs, stage_reuse, sweep_comparison
from mistral_lib.commands.sweep import Alternative, Sweep
from mistral_lib.run import Run, RunInUseError, paths
from mistral_lib.run.progress import say
from mistral_lib.run.settings import STAGES

NOTEBOOKS = ("00", "01", "02", "03", "04")  # of an alternative, unless others are named: only the chosen one is worth an export


def run(sweep: Sweep, only: Sequence[str] = ()) -> int:
    """Run notebooks `only` (empty: NOTEBOOKS) for every alternative and write the comparison; 0 if all are done, 1 if one failed.

    Errors: ParameterError for `only`; RunInUseError if a process works in one of the runs, because two trainings cannot share a GPU.
    """
    only = only or NOTEBOOKS
    notebook_runs.select(only)
    for alternative in sweep.alternatives:
        Run(paths.runs() / alternative.settings.run_name, alternative.settings).refuse_if_in_use()
    rows: dict[str, dict[str, Any]] = {}
    for number, alternative in enumerate(sweep.alternatives, 1):
        say(f"── alternative {number} of {len(sweep.alternatives)}: {alternative.name}")
        rows[alternative.name] = sweep_comparison.row(alternative, failure(sweep, alternative, only))
        found = sweep_comparison.write(sweep, rows)  # after each alternative, to be read while the sweep runs
    print(sweep_comparison.text(found))
    failed = [one for one in rows.values() if one["failure"]]
    for one in failed:
        say(f"FAILED {one['alternative']}: {one['failure']}")
    if failed:
        say(f"{len(failed)} of {len(rows)} alternatives failed; the same command runs only what is not done")
    return 1 if failed else 0


def failure(sweep: Sweep, alternative: Alternative, only: Sequence[str]) -> str | None:
    """Run one alternative; returns its error, which does not end the sweep, or None. Errors: RunInUseError."""
    try:
        run_ = Run.open(alternative.settings)
        stage_reuse.take_over(run_, earlier(sweep, alternative))
        return last_error(run_) if notebook_runs.run(alternative.settings, only) else None
    except RunInUseError:
        raise
    except (ValueError, RuntimeError, OSError, ModuleNotFoundError) as error:
        text = f"{type(error).__name__}: {error}"
        say(text)
        return text


def last_error(run_: Run) -> str:
    """The error of a failed notebook: that of the stage that failed, if one did."""
    for stage in STAGES:
        if (status := run_.status(stage)) in ("failed", "interrupted"):
            return f"{stage} {status}: {run_.entry(stage).get('error') or 'its process was killed'}"
    return f"a notebook failed; see the executed copy in {paths.short(run_.folder / 'notebooks')}/"


def earlier(sweep: Sweep, alternative: Alternative) -> list[Run]:
    """The runs whose prepared data may be taken over: of the other alternatives, and of the parameter file itself."""
    others = [one.settings for one in sweep.alternatives if one is not alternative]
    found = []
    for settings in (*others, sweep.base):
        with suppress(OSError, ValueError):  # not run yet, or not readable any more
            found.append(Run.existing(paths.runs() / settings.run_name))
    return found
