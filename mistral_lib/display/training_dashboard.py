"""The live page of a training: curve, tokens per second, memory, time and cost, and a button that saves and stops.

It watches the run folder and not the process that it started, so it shows the same after the browser was closed, the
kernel was restarted, or the training was started from a terminal. It can be shown before `start`, which reads all inputs of the
training first. Run headless it is one line of text.
"""

import asyncio
import html
import threading
import time
from typing import Any

import ipywidgets

from mistral_lib.display import training_curve
from mistral_lib.display.figure import Picture
from mistral_lib.display.widget_base import AUTO, PlainTextBox, button
from mistral_lib.preparation import stage_inputs
from mistral_lib.run import Run, cuda_device, files, kernel_messages
from mistral_lib.run.folder import summary
from mistral_lib.run.progress import say
from mistral_lib.training import trainer_process, training_status
from mistral_lib.training.stopping import Stopped
from mistral_lib.training.training_log import duration
from mistral_lib.training.training_status import TrainingStatus

REDRAW = 2.0  # least seconds between two drawings of the curve
PLAIN = "(live page of the training: curve, speed, memory, time, cost and a button that saves and stops; open this notebook in JupyterLab)"
COLORS = {"running": "#0072B2", "complete": "#00664b", "failed": "#a13f00", "interrupted": "#7a5200"}  # dark enough for white text
OTHER = "#595959"
NONE = "no earlier run"


class PlainError(RuntimeError):
    """An end that a person requested: it is shown without a traceback."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback.   Source: IPython, Custom exception tracebacks"""
        return [f"{type(self).__name__}: {self}"]


class TrainingStoppedError(PlainError):
    """The training saved a checkpoint and stopped on request; the message says how to resume it."""


class WaitingStoppedError(PlainError):
    """The cell was interrupted; the training continues."""


class Dashboard(PlainTextBox):
    """Shows the training of one run. planned_memory_mib: the peak memory in the fit plan, if there is one."""

    def __init__(self, run: Run, planned_memory_mib: float | None = None):
        self.run, self.planned_memory_mib = run, planned_memory_mib
        self.headline, self.figures, self.curve = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self.progress = ipywidgets.IntProgress(min=0, max=1, layout={"width": "98%"})
        stops, resumes = "save a checkpoint after this step, then end", "start the trainer; it resumes from the last complete checkpoint"
        self.stop = button("Stop and save", self._ask, icon="stop", tooltip=stops, layout=AUTO)
        self.confirm = button("Yes, save and stop", self._stop, icon="check", button_style="warning", layout=AUTO)
        self.cancel = button("No, keep training", self._close_question, icon="times", layout=AUTO)
        self.resume = button("Resume", self._resume, icon="play", tooltip=resumes, layout=AUTO)
        self.question = ipywidgets.HBox([ipywidgets.Label("Save a checkpoint and end the training?"), self.confirm, self.cancel])
        self._close_question()
        self.logs = training_curve.earlier_logs(run)
        self.earlier = ipywidgets.Dropdown(options=[NONE, *self.logs], description="compare with", style={"description_width": "initial"})
        self.earlier.observe(lambda _: self._draw(), "value")
        self._stop_requested, self._comparing, self._drawn, self._drawn_at = False, False, "", 0.0
        buttons = ipywidgets.HBox([self.stop, self.resume, self.question])
        super().__init__([self.headline, self.progress, self.figures, self.curve, self.earlier, buttons], PLAIN)
        self.refresh()
        threading.Thread(target=self._watch, daemon=True).start()

    def start(self) -> None:
        """Start the trainer, attach to one that runs, or find the training complete."""
        self._comparing = True
        self.refresh()
        try:
            self._start()
        finally:
            self._comparing = False
        self.refresh()

    def _start(self) -> None:
        from mistral_lib.training import train  # it imports transformers' Trainer

        if self.run.status("training") != "complete":  # before the base model is fetched
            cuda_device.require(self.run.settings.instance, "training", compute=False)
        run, inputs = self.run, stage_inputs.hashes(self.run, "training")
        reasons = run.reasons_to_run("training", inputs)
        if reasons and not trainer_process.is_alive(run):
            kept = f"; the existing training is kept in runs/{run.folder.name}/previous/"
            if train.can_resume(run.folder / "training", run.changes("training", inputs)):
                kept = "; it resumes from its last checkpoint, or is verified again if no step is missing"
            say(f"training: runs, because {summary(reasons)}{kept if run.status('training') == 'complete' else ''}")
        if reasons:
            trainer_process.start(run)

    async def finished(self) -> dict[str, Any]:
        """Wait for the end and return training/result.json. Meanwhile the buttons work, and a reopened page is answered.

        Interrupting this cell ends only the waiting. Errors: WaitingStoppedError, TrainingStoppedError, TrainerDiedError.
        """
        warned = 0.0
        with kernel_messages.while_waiting():
            while trainer_process.is_running_or_restarted(self.run):
                warned = trainer_process.warned_of_a_hang(self.run, warned)
                await _wait_a_moment(self.run)
        self.refresh()
        now = training_status.status(self.run)
        if now.word == "interrupted" and (now.error or "").startswith(Stopped.__name__):
            raise TrainingStoppedError(
                f"the training saved at step {now.step} and stopped on request; to resume, press “Resume” above and run this cell again"
            )
        return trainer_process.result(self.run)

    def refresh(self) -> None:
        """Show the present state of the training."""
        now = training_status.status(self.run)
        starting = now.word != "running" and trainer_process.is_alive(self.run)
        self._stop_requested &= now.word == "running"
        self.progress.max, self.progress.value = now.steps or 1, now.step
        self.progress.bar_style = {"complete": "success", "failed": "danger", "interrupted": "warning"}.get(now.word, "")
        self.headline.value = headline(now, starting, self._stop_requested, self._comparing)
        self.figures.value = table(figures(now, self.planned_memory_mib))
        self.stop.disabled = not now.alive or self._stop_requested
        self.resume.disabled = now.alive or starting or self._comparing or now.word == "complete"
        if not now.alive:
            self._close_question()
        if time.monotonic() - self._drawn_at >= REDRAW:
            self._draw()

    def _draw(self) -> None:
        """Draw the curve again if it changed, or the earlier training that it is compared with."""
        curves, log = training_curve.Curves.read(self.run.folder / "training" / "log.jsonl"), self.logs.get(self.earlier.value)
        key = files.digest([curves.points(), len(curves.steps), curves.steps[-1:], self.earlier.value])
        if key == self._drawn:
            return
        self._drawn, self._drawn_at = key, time.monotonic()
        axes = training_curve.draw(curves, training_curve.Curves.read(log) if log else None, self.earlier.value)
        self.curve.value = Picture(axes).tag("width:860px;max-width:100%;aspect-ratio:8.6/3.3")

    def _watch(self) -> None:
        """Refresh while the kernel lives: a training that is started elsewhere is shown as well."""
        while True:
            time.sleep(trainer_process.POLL)
            try:
                self.refresh()
            except (OSError, ValueError, LookupError) as error:  # a folder that is being moved; the next refresh succeeds
                self.headline.value = f"<i>the run folder cannot be read now: {html.escape(str(error))}</i>"

    def _ask(self) -> None:
        self.question.layout.display = ""

    def _close_question(self) -> None:
        self.question.layout.display = "none"

    def _stop(self) -> None:
        self._close_question()
        trainer_process.stop(self.run)
        self._stop_requested = True
        self.refresh()

    def _resume(self) -> None:
        self.resume.disabled, self.headline.value = True, _badge("starting")
        trainer_process.start(self.run)
        self.refresh()


async def _wait_a_moment(run: Run) -> None:
    """Errors: WaitingStoppedError if the cell is interrupted, which cancels the wait."""
    try:
        await asyncio.sleep(trainer_process.POLL)
    except (asyncio.CancelledError, KeyboardInterrupt):
        holder = run.holder() or {}
        raise WaitingStoppedError(
            f"only this cell was interrupted: the training continues in its own process {holder.get('pid', '')}. "
            "Run this cell again to wait for it; “Stop and save” stops it"
        ) from None


def headline(now: TrainingStatus, starting: bool, stop_requested: bool, comparing: bool = False) -> str:
    """The status word in its color, what the training does now, and its process id."""
    word, doing = ("hung", now.advice or "") if now.hung else (now.word, now.doing)
    if comparing and not now.alive:
        word, doing = "starting", "reads data, base model and earlier training, to see what has changed"
    elif stop_requested:
        doing = "saves after this step, then stops"
    elif starting:
        word, doing = "starting", "the trainer's process loads its libraries"
    elif word in ("interrupted", "failed"):
        doing = f"{now.error or 'the process was killed'}. “Resume” starts from the last complete checkpoint"
    elif word == "complete":
        doing = "the adapter was saved, read back from disk and measured again"
    return " · ".join([_badge(word), *([html.escape(doing)] if doing else []), *([f"process {now.pid}"] if now.pid else [])])


def _badge(word: str) -> str:
    return f'<b style="background:{COLORS.get(word, OTHER)};color:white;border-radius:4px;padding:2px 8px">{word}</b>'


def figures(now: TrainingStatus, planned_memory_mib: float | None = None) -> dict[str, str]:
    """The figures that the training has so far, each with its unit."""
    shown = {
        "step": f"{now.step} of {now.steps}" if now.steps else None,
        "loss of the last batch": _nats(now.loss),
        "validation loss": f"{_nats(now.validation_loss)} after step {now.validation_step}" if now.validation_loss is not None else None,
        "base model": _nats(now.baseline_loss),
        "gradient scale": f"{now.gradient_scale:,.0f} (float16)" if now.gradient_scale is not None else None,
        "skipped steps": f"{now.skipped_steps:,}" if now.skipped_steps else None,
        "speed": f"{now.tokens_per_second:,.0f} tokens/s" if now.tokens_per_second else None,
        "memory": _memory(now.peak_memory_mib, planned_memory_mib) if now.peak_memory_mib is not None else None,
        "time left": duration(now.eta_seconds) if now.eta_seconds is not None else None,
        "spent": f"{duration(now.seconds)}, {_money(now)}" if now.seconds else None,
    }
    return {name: value for name, value in shown.items() if value is not None}


def _nats(loss: float | None) -> str | None:
    return None if loss is None else f"{loss:.3f} nats per token"


def _memory(peak_mib: int, planned_mib: float | None) -> str:
    return f"{peak_mib:,} MiB at most" + (f", planned {planned_mib:,.0f} ({peak_mib / planned_mib:.0%})" if planned_mib else "")


def _money(now: TrainingStatus) -> str:
    """The cost so far, and the expected cost at the end."""
    if not (now.eta_seconds and now.seconds and now.usd):
        return f"{now.usd:.2f} USD"
    return f"{now.usd:.2f} USD, about {now.usd * (1 + now.eta_seconds / now.seconds):.2f} at the end"


def table(facts: dict[str, str]) -> str:
    """Names above their values, as many in a row as fit."""
    cell = '<div style="padding:2px 18px 4px 0"><div style="font-size:85%;opacity:.75">{}</div><div>{}</div></div>'
    cells = "".join(cell.format(html.escape(name), html.escape(value)) for name, value in facts.items())
    return f'<div style="display:flex;flex-wrap:wrap;line-height:1.35">{cells}</div>'
