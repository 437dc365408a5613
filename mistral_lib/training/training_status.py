"""The state of a training, read from its files: for the command line, a dashboard, or any other process.

A training counts as hung if it makes no progress (forward passes, steps, measurements), even though its process is alive.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_lib.run import Run, files, params
from mistral_lib.run.settings import FITTED
from mistral_lib.training import hang_detection, training_log

EXIT_CODES = {"complete": 0, "failed": 1, "interrupted": 3, "running": 4, "hung": 5, "not started": 6}
DOING = {
    "process": "starting",
    "loading": "loading the base model",
    "measuring": "measuring the validation loss",
    "trying": "trying the fullest batch",
    "largest_batch": "measuring the validation loss",
    "started": "training",
    "step": "training",
    "verified": "recording",
}


@dataclass(frozen=True)
class TrainingStatus:
    """One training at one moment. A value that does not exist yet is None."""

    run: str
    word: str  # not started, running, interrupted, failed or complete
    doing: str = ""  # what a running trainer does now
    error: str | None = None  # why it failed or was interrupted
    advice: str | None = None  # what to do next, also if it is hung
    pid: int | None = None  # of a trainer that is alive
    alive: bool = False
    hung: bool = False  # alive, but without progress for longer than `patience_seconds`
    step: int = 0  # optimizer steps done
    steps: int | None = None  # planned
    loss: float | None = None  # of the last step, as the next four; nats per supervised token
    gradient_norm: float | None = None
    learning_rate: float | None = None
    gradient_scale: float | None = None  # by which the last step's loss was multiplied; None unless the compute type is float16
    tokens_per_second: float | None = None
    validation_loss: float | None = None  # the last one measured during training; None also if it was not finite
    validation_step: int | None = None
    best_validation_loss: float | None = None  # the lowest one during training
    best_step: int | None = None
    baseline_loss: float | None = None  # validation loss of the base model without an adapter
    peak_memory_mib: int | None = None  # the trainer's highest use of memory so far
    eta_seconds: float | None = None  # from now until the adapter is verified; None if it hangs
    seconds: float = 0.0  # spent so far, all attempts together
    usd: float = 0.0  # their price
    seconds_since_step: float | None = None  # since the last step ended
    seconds_since_progress: float | None = None  # since the last forward pass, step or event
    patience_seconds: float | None = None  # without progress, after which it counts as hung
    micro_batch_size: int | None = None  # in use now: smaller after out of memory
    gradient_accumulation_steps: int | None = None
    activation_checkpointing: bool | int | None = None  # n: of every n-th layer
    out_of_memory: int = 0  # how often, so far
    skipped_steps: int = 0
    stopped_by: str | None = None  # early_stopping, max_hours or max_usd; None: it makes all its steps

    @property
    def exit_code(self) -> int:
        return EXIT_CODES["hung" if self.hung else self.word]


def status(run: Run) -> TrainingStatus:
    """The state of a run's training. It only reads: safe at any time, from any process."""
    folder, name = run.folder / "training", run.folder.name
    alive = run.works_on("training")
    events = files.read_json_lines(folder / "log.jsonl")
    word = "running" if alive else run.status("training")
    facts = {"run": name, "word": word, "pid": (run.holder() or {}).get("pid") if alive else None, "alive": alive}
    if not alive:
        facts["error"] = run.entry("training").get("error") or _killed(run)
    if not events:
        return TrainingStatus(**facts, advice=_advice(word, name))
    facts |= _figures(events) | _money(run, events, alive)
    facts |= _progress(folder, events) if alive else _end(folder)
    return TrainingStatus(**facts, advice=_advice("hung" if facts.get("hung") else word, name, facts.get("pid")))


def _killed(run: Run) -> str | None:
    """A trainer that is recorded as running, and does not run, had no time to record a reason."""
    entry = run.entry("training")
    return (
        f"the trainer, which started {entry['started']}, was killed or its machine was lost" if entry.get("status") == "running" else None
    )


def _figures(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Loss, rates, validations, and how many shortages of memory and skipped steps."""
    curve, measured = training_log.steps(events), training_log.validations(events)
    last = curve[-1] if curve else {}
    best = min((event for event in measured if event["loss"] is not None), key=lambda event: event["loss"], default={})
    baseline = next((e["loss"] for e in reversed(events) if e["event"] == "validation" and e["what"] == "baseline"), None)
    sizes = next((e for e in reversed(events) if FITTED[1] in e), {})
    return {
        **{key: last.get(key) for key in ("steps", "loss", "gradient_norm", "learning_rate", "tokens_per_second", "peak_memory_mib")},
        "step": last.get("step", 0),
        "gradient_scale": last.get("gradient_scale"),
        "validation_loss": measured[-1]["loss"] if measured else None,
        "validation_step": measured[-1]["step"] if measured else None,
        "best_validation_loss": best.get("loss"),
        "best_step": best.get("step"),
        "baseline_loss": baseline,
        **{key: sizes.get(key) for key in FITTED},
        "out_of_memory": sum(e["event"] == "out_of_memory" for e in events),
        "skipped_steps": len(training_log.skipped(events)),
    }


def _money(run: Run, events: list[dict[str, Any]], alive: bool) -> dict[str, float]:
    seconds = training_log.seconds_at_work(events) + (time.time() - events[-1]["time"] if alive else 0.0)
    usd_per_hour = params.instances()[run.settings.instance]["usd_per_hour"]
    return {"seconds": round(seconds, 1), "usd": round(seconds / 3600 * usd_per_hour, 4)}


def _end(folder: Path) -> dict[str, Any]:
    """What the result adds; its memory peak includes the verification after the last step."""
    result = files.read_json(folder / "result.json") if (folder / "result.json").exists() else {}
    return {key: result[key] for key in ("stopped_by", "peak_memory_mib") if key in result}


def _progress(folder: Path, events: list[dict[str, Any]]) -> dict[str, Any]:
    """What a running trainer does, when it last made progress, and whether that is too long ago."""
    now, curve = time.time(), training_log.steps(events)
    doing = next((event for event in reversed(events) if event["event"] in DOING), events[-1])
    waited = max(0.0, now - max(events[-1]["time"], hang_detection.last_note(folder).get("time", 0.0)))
    patience = hang_detection.patience_seconds([step["seconds"] for step in curve if "seconds" in step], doing["event"] == "loading")
    eta = curve[-1].get("eta_seconds") if curve else None
    return {
        "doing": DOING.get(doing["event"], ""),
        "seconds_since_step": round(now - curve[-1]["time"], 1) if curve else None,
        "seconds_since_progress": round(waited, 1),
        "patience_seconds": round(patience, 1),
        "hung": waited > patience,
        "eta_seconds": round(max(0.0, eta - (now - curve[-1]["time"])), 1) if eta is not None and waited <= patience else None,
    }


def _advice(word: str, name: str, pid: int | None = None) -> str | None:
    again = f"python -m mistral_lib train runs/{name}"
    return {
        "not started": f"start it with notebook 03_train_adapter or `{again}`",
        "interrupted": f"`{again}` resumes from the last checkpoint",
        "failed": f"do what the error says, then `{again}` resumes from the last checkpoint",
        "hung": f"look at runs/{name}/training.out; then `kill {pid}` (it saves), after a minute `kill -9 {pid}`, and `{again}`: "
        "it resumes from the last checkpoint",
    }.get(word)


def describe(now: TrainingStatus) -> str:
    """The status as lines of text, for a terminal."""
    shortages = (
        f"out of memory {now.out_of_memory} times (now {now.micro_batch_size} blocks x {now.gradient_accumulation_steps}), "
        f"{now.skipped_steps} steps skipped"
    )
    lines = [
        f"{now.run}: {'HUNG' if now.hung else now.word}" + (f", {now.doing}" if now.doing else ""),
        f"process {now.pid} is alive" if now.pid else "",
        f"no progress since {now.seconds_since_progress:.0f} s, expected within {now.patience_seconds:.0f} s" if now.hung else "",
        _step_line(now) if now.steps else "",
        _validation_line(now) if now.validation_step is not None else "",
        _time_line(now) if now.seconds else "",
        shortages if now.out_of_memory or now.skipped_steps else "",
        f"stopped by {now.stopped_by}" if now.stopped_by else "",
        now.error or "",
        f"next: {now.advice}" if now.advice else "",
    ]
    return "\n".join(filter(None, lines))


def _step_line(now: TrainingStatus) -> str:
    scale = f"gradient scale {now.gradient_scale:,.0f}  " if now.gradient_scale is not None else ""
    return (
        f"step {now.step}/{now.steps}  loss {now.loss:.4f}  gradient norm {_number(now.gradient_norm)}  {scale}"
        f"learning rate {now.learning_rate:.3g}  {now.tokens_per_second:.0f} tokens/s  {now.peak_memory_mib:,} MiB"
    )


def _validation_line(now: TrainingStatus) -> str:
    best = f"best {now.best_validation_loss:.4f} after step {now.best_step}" if now.best_step is not None else "none was finite so far"
    return (
        f"validation loss {_number(now.validation_loss)} after step {now.validation_step}, {best}, base model {_number(now.baseline_loss)}"
    )


def _time_line(now: TrainingStatus) -> str:
    left = f", about {now.eta_seconds:.0f} s left" if now.eta_seconds is not None else ""
    since = f", last step {now.seconds_since_step:.0f} s ago" if now.seconds_since_step is not None else ""
    return f"{now.seconds:.0f} s and {now.usd:.4f} USD so far{left}{since}"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4f}"
