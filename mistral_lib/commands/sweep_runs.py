"""Runs the alternatives of a sweep through the notebooks, one after another or side by side on a Ray cluster.

Complete ones are skipped, and a failed one stops no other.
"""

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mistral_lib.commands import notebook_runs, stage_reuse, sweep_comparison
from mistral_lib.commands.sweep import Alternative, Sweep
from mistral_lib.engine import interrupts, ray_cluster, ray_commands, supervised
from mistral_lib.engine.ray_commands import Command, Event, RayCommands
from mistral_lib.run import Run, RunInUseError, paths
from mistral_lib.run.progress import say
from mistral_lib.run.settings import STAGES
from mistral_lib.training.training_log import duration

NOTEBOOKS = ("00", "01", "02", "03", "04")  # of an alternative, unless others are named: only the chosen one is worth an export
OUTPUT = "sweep.out"  # in the run folder: what an alternative prints on a cluster
STARTS = 2  # of an alternative whose worker or node is lost
SETTLE_SECONDS = 2.0  # between them: until the processes of the lost one have noticed it
FAULTS = (ValueError, RuntimeError, OSError, ModuleNotFoundError)  # of one alternative


def run(sweep: Sweep, only: Sequence[str] = ()) -> int:
    """Run notebooks `only` (empty: NOTEBOOKS) for every alternative and write the comparison; 0 if all are done, 1 if one failed.

    Errors: ParameterError for `only`; RunInUseError if a process works in one of the runs, because two trainings cannot share a GPU.
    """
    only = only or NOTEBOOKS
    _check(sweep, only)
    rows: dict[str, dict[str, Any]] = {}
    for alternative in sweep.alternatives:
        say(f"── {label(sweep, alternative)}")
        rows[alternative.name] = sweep_comparison.row(alternative, failure(sweep, alternative, only))
        sweep_comparison.write(sweep, rows)  # after each alternative, to be read while the sweep runs
    return _report(sweep, rows)


def run_on_cluster(sweep: Sweep, only: Sequence[str] = (), address: str = ray_cluster.AUTO, cores: int | None = None) -> int:
    """The same side by side on a Ray cluster. cores: of each alternative; None: ray_commands.share.

    Errors: those of `run`; ClusterError.
    """
    only = only or NOTEBOOKS
    _check(sweep, only)
    with ray_cluster.connected(address) as ray, ray_commands.marked(sweep.folder) as marker:
        share = ray_commands.share(ray, cores)
        say(f"{len(sweep.alternatives)} alternatives, each with {share}, on the nodes {', '.join(ray_cluster.nodes(ray))}")
        rows = SideBySide(sweep, only, RayCommands(ray, share, marker)).run()
    return _report(sweep, rows)


def label(sweep: Sweep, alternative: Alternative) -> str:
    return f"alternative {sweep.alternatives.index(alternative) + 1} of {len(sweep.alternatives)}: {alternative.name}"


def _check(sweep: Sweep, only: Sequence[str]) -> None:
    notebook_runs.select(only)
    for alternative in sweep.alternatives:
        _run(alternative).refuse_if_in_use()


def _run(alternative: Alternative) -> Run:
    """Its run, which may not be there yet."""
    return Run(paths.runs() / alternative.settings.run_name, alternative.settings)


def _report(sweep: Sweep, rows: dict[str, dict[str, Any]]) -> int:
    """Write and print the comparison, and what failed; the exit code."""
    print(sweep_comparison.text(sweep_comparison.write(sweep, rows)))
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
    except FAULTS as error:
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


class SideBySide:
    """The alternatives of a sweep on a cluster. What several of them share is prepared by the first one; the others wait for it."""

    def __init__(self, sweep: Sweep, only: Sequence[str], commands: RayCommands) -> None:
        self.sweep, self.only, self.commands = sweep, only, commands
        self.notebooks = notebook_runs.select(only)
        made = {stage for path in self.notebooks for stage in notebook_runs.STAGES_OF.get(path.name[:2], ())}
        self.shared = [stage for stage in stage_reuse.SHARED if stage in made]
        self.waiting = list(sweep.alternatives)
        self.running: dict[str, Alternative] = {}
        self.starts: Counter[str] = Counter()
        self.lost_at: dict[str, float] = {}
        self.rows: dict[str, dict[str, Any]] = {}

    def run(self) -> dict[str, dict[str, Any]]:
        """The rows of the comparison. Errors: ClusterError. However it ends, no process is left and checkpoints are kept."""
        try:
            with interrupts.noted() as raise_if_interrupted:
                while self.waiting or self.running:
                    self._start_all_that_may()
                    for event in self.commands.events():
                        self._handle(self.running[event.name], event)
                    raise_if_interrupted()
        finally:
            if self.running:
                say(f"stopping {', '.join(self.running)}: a training saves after its step, and the same command resumes")
            self.commands.close()
        return self.rows

    def _start_all_that_may(self) -> None:
        for alternative in [one for one in self.waiting if not self._must_wait(one)]:
            if not self._prepared_by_another(alternative):  # which may have been started a moment ago
                self.waiting.remove(alternative)
                self._start(alternative)

    def _must_wait(self, alternative: Alternative) -> bool:
        """Whether processes of its lost worker may still save."""
        since = time.monotonic() - self.lost_at.get(alternative.name, -1e9)
        return since < SETTLE_SECONDS or (since < supervised.STOP_SECONDS and _run(alternative).holder() is not None)

    def _prepared_by_another(self, alternative: Alternative) -> bool:
        """Whether another one that runs is preparing what this one needs as well."""
        run_ = _run(alternative)
        for stage in self.shared:
            if stage_reuse.fits(run_, run_, stage):
                continue
            for other in map(_run, self.running.values()):
                if other.settings.stage(stage) == run_.settings.stage(stage) and not stage_reuse.fits(other, other, stage):
                    return True
        return False

    def _start(self, alternative: Alternative) -> None:
        """Check it, and take over what others have prepared; then the cluster runs what is not done."""
        try:
            notebook_runs.require(alternative.settings)
            run_ = Run.open(alternative.settings)
            stage_reuse.take_over(run_, earlier(self.sweep, alternative))
        except FAULTS as error:
            self._end(alternative, f"{type(error).__name__}: {error}", "")
            return
        if self._is_done(run_):
            self._end(alternative, None, "done already, skipped")
            return
        self.starts[alternative.name] += 1
        self.running[alternative.name] = alternative
        self.commands.start(Command(alternative.name, command(run_, self.only), run_.folder / OUTPUT))

    def _is_done(self, run_: Run) -> bool:
        return all(notebook_runs.is_done(run_, path) for path in self.notebooks)

    def _handle(self, alternative: Alternative, event: Event) -> None:
        log = paths.short(_run(alternative).folder / OUTPUT)
        if event.kind == "started":
            self._say(alternative, f"runs on {event.node} with {self.commands.share}; it prints to {log}")
            return
        del self.running[alternative.name]
        if event.kind == "ended":
            failed = _failure_in(_run(alternative), event.code) if event.code else None
            self._end(alternative, failed and f"{failed}; log: {log}", f"done in {duration(event.seconds)}")
        elif self._is_done(_run(alternative)):
            self._end(alternative, None, "done; its worker was lost after that")
        elif self.starts[alternative.name] < STARTS:
            self._say(
                alternative, f"its worker on {event.node or 'the cluster'} was lost ({event.reason}); it is started again and resumes"
            )
            self.lost_at[alternative.name] = time.monotonic()
            self.waiting.insert(0, alternative)
        else:
            self._end(alternative, f"its worker was lost {STARTS} times ({event.reason}); log: {log}", "")

    def _end(self, alternative: Alternative, failed: str | None, done: str) -> None:
        self.rows[alternative.name] = sweep_comparison.row(alternative, failed)
        self._say(alternative, f"FAILED: {failed}" if failed else done)
        sweep_comparison.write(self.sweep, self.rows)

    def _say(self, alternative: Alternative, text: str) -> None:
        say(f"── {label(self.sweep, alternative)}: {text}")


def command(run_: Run, only: Sequence[str]) -> tuple[str, ...]:
    """What runs an alternative, as arguments of Python."""
    return ("-m", "mistral_lib", "run", str(run_.folder / "params.yaml"), "--only", *only)


def _failure_in(run_: Run, code: int) -> str:
    """The error of an alternative that ended with this exit code."""
    if code < 0:
        return f"its process was ended by signal {-code}"
    if any(run_.status(stage) in ("failed", "interrupted") for stage in STAGES):
        return last_error(run_)
    return _last_error_line(run_.folder / OUTPUT) or last_error(run_)


def _last_error_line(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-40:] if log.exists() else []
    return next((line.strip() for line in reversed(lines) if "Error: " in line), "")
