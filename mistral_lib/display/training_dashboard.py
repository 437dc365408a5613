"""The live page of a training: curve, rates, memory, time and money, and a button that saves and stops.

It watches the run folder and not the process that it started, so it shows the same after the browser was closed, the
kernel restarted, or the training started from a terminal. Under papermill and nbval its plain text stands in its place.
"""

import asyncio
import html
import threading
import time
from typing import Any

import ipywidgets

from mistral_lib.display import kernel_messages, training_curve
from mistral_lib.display.figure import Picture
from mistral_lib.display.widget_base import PlainTextBox
from mistral_lib.preparation import stage_inputs
from mistral_lib.run import Run, files
from mistral_lib.run.folder import summary
from mistral_lib.run.progress import say
from mistral_lib.training import train, trainer_process, training_status
from mistral_lib.training.stopping import Stopped
from mistral_lib.training.training_log import duration
from mistral_lib.training.training_status import TrainingStatus

REDRAW = 2.0  # seconds between two pictures, at least
PLAIN = "(live view of the training: curve, rates, memory, time, money and a button that saves and stops; open this notebook in JupyterLab)"
COLORS = {"running": "#0072B2", "complete": "#00664b", "failed": "#a13f00", "interrupted": "#7a5200"}  # white words on them are legible
OTHER = "#595959"
NONE = "no earlier run"


class PlainError(RuntimeError):
    """An end that a person wished for: nothing went wrong in the code."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the message alone.   Source: IPython, Custom exception tracebacks"""
        return [f"{type(self).__name__}: {self}"]


class TrainingStopped(PlainError):
    """The training was told to stop, and saved; the message says how to go on."""


class WaitingStopped(PlainError):
    """The cell was interrupted; the training goes on."""


class Dashboard(PlainTextBox):
    """Shows one run's training, as it goes. `planned_memory_mib`: what the fit plan expects, if there is one."""

    def __init__(self, run: Run, planned_memory_mib: float | None = None):
        self.run, self.planned_memory_mib = run, planned_memory_mib
        self.headline, self.figures, self.curve = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self.progress = ipywidgets.IntProgress(min=0, max=1, layout={"width": "98%"})
        self.stop = _button("Stop and save", "stop", self._ask, "save a checkpoint after this step, then end")
        self.sure = _button("Yes, save and stop", "check", self._stop, style="warning")
        self.not_sure = _button("No, go on", "times", self._do_not_stop)
        self.go_on = _button("Go on", "play", self._go_on, "start the trainer; it goes on from its last whole checkpoint")
        self.question = ipywidgets.HBox([ipywidgets.Label("Save a checkpoint and end the training?"), self.sure, self.not_sure])
        self.logs = training_curve.earlier_logs(run)
        self.earlier = ipywidgets.Dropdown(options=[NONE, *self.logs], description="compare with", style={"description_width": "initial"})
        self.earlier.observe(lambda _: self._draw(), "value")
        self._told_to_stop, self._drawn, self._drawn_at = False, "", 0.0
        self.question.layout.display = "none"
        buttons = ipywidgets.HBox([self.stop, self.go_on, self.question])
        parts = [self.headline, self.progress, self.figures, self.curve, self.earlier, buttons]
        super().__init__(parts, PLAIN)
        self.refresh()
        threading.Thread(target=self._watch, daemon=True).start()

    async def finished(self) -> dict[str, Any]:
        """Wait for the end and return training/result.json. Meanwhile the buttons work, and a page that comes back is answered.

        Interrupting this stops only the waiting. Errors: WaitingStopped; TrainingStopped; TrainerDied.
        """
        warned = 0.0
        with kernel_messages.while_waiting():
            while trainer_process.is_running_or_restarted(self.run):
                warned = trainer_process.warned_of_a_hang(self.run, warned)
                await _a_moment(self.run)
        self.refresh()
        now = training_status.status(self.run)
        if now.word == "interrupted" and (now.error or "").startswith(Stopped.__name__):
            raise TrainingStopped(
                f"the training saved at step {now.step} and ended, as it was told to; press “Go on” above, and then run this cell again"
            )
        return trainer_process.result(self.run)

    def refresh(self) -> None:
        """Show how the training stands now."""
        now = training_status.status(self.run)
        starting = now.word != "running" and trainer_process.is_alive(self.run)
        self._told_to_stop &= now.word == "running"
        self.progress.max, self.progress.value = now.steps or 1, now.step
        self.progress.bar_style = {"complete": "success", "failed": "danger", "interrupted": "warning"}.get(now.word, "")
        self.headline.value = headline(now, starting, self._told_to_stop)
        self.figures.value = table(figures(now, self.planned_memory_mib))
        self.stop.disabled = not now.alive or self._told_to_stop
        self.go_on.disabled = now.alive or starting or now.word == "complete"
        if not now.alive:
            self.question.layout.display = "none"
        if time.monotonic() - self._drawn_at >= REDRAW:
            self._draw()

    def _draw(self) -> None:
        """Draw the curve anew if it, or what it is compared with, changed."""
        curves, log = training_curve.Curves.of(self.run.folder / "training" / "log.jsonl"), self.logs.get(self.earlier.value)
        key = files.digest([curves.points(), len(curves.steps), curves.steps[-1:], self.earlier.value])
        if key == self._drawn:
            return
        self._drawn, self._drawn_at = key, time.monotonic()
        axes = training_curve.draw(curves, training_curve.Curves.of(log) if log else None, self.earlier.value)
        self.curve.value = Picture(axes).tag("width:860px;max-width:100%;aspect-ratio:8.6/3.3")

    def _watch(self) -> None:
        """Refresh for as long as the kernel lives: a training that someone else starts is shown as well."""
        while True:
            time.sleep(trainer_process.POLL)
            try:
                self.refresh()
            except (OSError, ValueError, LookupError) as error:  # a folder that is being moved: the next look finds it in order
                self.headline.value = f"<i>the run folder cannot be read now: {html.escape(str(error))}</i>"

    def _ask(self, _: Any) -> None:
        self.question.layout.display = ""

    def _do_not_stop(self, _: Any) -> None:
        self.question.layout.display = "none"

    def _stop(self, _: Any) -> None:
        self.question.layout.display = "none"
        trainer_process.stop(self.run)
        self._told_to_stop = True
        self.refresh()

    def _go_on(self, _: Any) -> None:
        trainer_process.start(self.run)
        self.refresh()


def start(run: Run, planned_memory_mib: float | None = None) -> Dashboard:
    """Start the trainer, or attach to it, or find it done; and show it."""
    inputs = stage_inputs.hashes(run, "training")
    reasons = run.reasons_to_run("training", inputs)
    if reasons and not trainer_process.is_alive(run):
        kept = f"; the training that is there is kept in runs/{run.folder.name}/previous/"
        if train.can_resume(run.folder / "training", run.changes("training", inputs)):
            kept = "; it goes on from its last checkpoint, or is verified again if no step is missing"
        say(f"training: runs, because {summary(reasons)}{kept if run.status('training') == 'complete' else ''}")
    if reasons:
        trainer_process.start(run)
    return Dashboard(run, planned_memory_mib)


async def _a_moment(run: Run) -> None:
    """Errors: WaitingStopped if the cell is interrupted meanwhile, which reaches a cell that waits as a cancellation."""
    try:
        await asyncio.sleep(trainer_process.POLL)
    except (asyncio.CancelledError, KeyboardInterrupt):
        holder = run.holder() or {}
        raise WaitingStopped(
            f"only this cell was interrupted: the training goes on in its own process {holder.get('pid', '')}. "
            "Run this cell again to wait for it; “Stop and save” ends it"
        ) from None


def headline(now: TrainingStatus, starting: bool, told_to_stop: bool) -> str:
    """The status word in its color, and what it means at this moment."""
    word, doing = ("hung", now.advice or "") if now.hung else (now.word, now.doing)
    if told_to_stop:
        doing = "saves after this step, then ends"
    elif starting:
        word, doing = "starting", "the trainer's process loads its libraries"
    elif word in ("interrupted", "failed"):
        doing = f"{now.error or 'the process was killed'}. “Go on” starts from the last whole checkpoint"
    elif word == "complete":
        doing = "the adapter was saved, read back from disk and measured again"
    badge = f'<b style="background:{COLORS.get(word, OTHER)};color:white;border-radius:4px;padding:2px 8px">{word}</b>'
    return " · ".join([badge, *([html.escape(doing)] if doing else []), *([f"process {now.pid}"] if now.pid else [])])


def figures(now: TrainingStatus, planned_memory_mib: float | None = None) -> dict[str, str]:
    """What is known by now, each figure with its unit."""
    shown = {
        "step": f"{now.step} of {now.steps}" if now.steps else None,
        "loss of the last batch": _nats(now.loss),
        "validation loss": f"{_nats(now.validation_loss)} after step {now.validation_step}" if now.validation_loss is not None else None,
        "base model": _nats(now.baseline_loss),
        "speed": f"{now.tokens_per_second:,.0f} tokens/s" if now.tokens_per_second else None,
        "memory": _memory(now.peak_memory_mib, planned_memory_mib),
        "left": duration(now.eta_seconds) if now.eta_seconds is not None else None,
        "spent": f"{duration(now.seconds)}, {_money(now)}" if now.seconds else None,
    }
    return {name: value for name, value in shown.items() if value is not None}


def _nats(loss: float | None) -> str | None:
    return None if loss is None else f"{loss:.3f} nats per token"


def _memory(peak_mib: int | None, planned_mib: float | None) -> str | None:
    if peak_mib is None:
        return None
    return f"{peak_mib:,} MiB at most" + (f", planned {planned_mib:,.0f} ({peak_mib / planned_mib:.0%})" if planned_mib else "")


def _money(now: TrainingStatus) -> str:
    """What was spent, and at the same price what it will be at the end."""
    whole = f", about {now.usd * (1 + now.eta_seconds / now.seconds):.2f} at the end" if now.eta_seconds and now.seconds and now.usd else ""
    return f"{now.usd:.2f} USD{whole}"


def table(facts: dict[str, str]) -> str:
    """Names above their values, as many beside each other as fit."""
    cell = '<div style="padding:2px 18px 4px 0"><div style="font-size:85%;opacity:.75">{}</div><div>{}</div></div>'
    cells = "".join(cell.format(html.escape(name), html.escape(value)) for name, value in facts.items())
    return f'<div style="display:flex;flex-wrap:wrap;line-height:1.35">{cells}</div>'


def _button(text: str, icon: str, work: Any, tooltip: str = "", style: str = "") -> ipywidgets.Button:
    button = ipywidgets.Button(description=text, icon=icon, tooltip=tooltip or text, button_style=style, layout={"width": "auto"})
    button.on_click(work)
    return button
