"""log.jsonl: one JSON line per event of a training, readable at any time from any process; and each event as a line of text.

Each event is a flat object with `event` and `time` (seconds since 1970):

process         pid, because, report_to, processes, micro_batch_size, gradient_accumulation_steps, activation_checkpointing: a trainer
                starts or resumes; the last three are those of settings.FITTED, in several events
chosen          parameters (the names that were `auto`), all of settings.FITTED, instance, phase, needed_gib, available_gib, reserve_gib
loading         base_model, dtype, why, device, gpus (if one of several GPUs is used: a sentence)
kernels         attention (by record, variable length, memory-efficient, masked), why, layers: what computes them
measuring       what, blocks: a validation loss is being measured
validation      what, loss (nats per supervised token), seconds; during training also step, best (true if the lowest so far)
trying          what, settings.FITTED: the fullest batch, before the first step
largest_batch   supervised_tokens, peak_memory_mib, seconds: it fitted
started         from_step, steps: the optimizer steps begin, at 0 or at a checkpoint
step            step, steps, loss, gradient_norm, learning_rate, tokens_per_second, seconds, peak_memory_mib, eta_seconds, usd; in float16
                also gradient_scale, by which this step's loss was multiplied
skipped         step, because, in_a_row, in_all, in float16 also gradient_scale: an optimizer step that changed nothing and held the
                learning-rate schedule; in its `step` event, which comes after it, a figure that was not finite is null
checkpoint      step
out_of_memory   why, others (who else has memory on the card, if it is known), was, requested, settings.FITTED: the batch that is tried
                next
stopping        by (stop signal, lost process, early_stopping, max_hours, max_usd), step, because
verified        the adapter was saved, read back and measured again
failed          error
"""

import time
from collections.abc import Callable
from itertools import dropwhile, pairwise
from pathlib import Path
from typing import Any

from mistral_lib.run import files
from mistral_lib.run.progress import say
from mistral_lib.run.settings import layers_recomputed


class TrainingLog:
    """Appends events to a file of JSON lines. None: drops them; of several processes only the first one writes."""

    def __init__(self, path: Path | None):
        self.path = path

    def write(self, event: str, **facts: Any) -> None:
        if self.path is None:
            return
        files.append_json_line(self.path, {"event": event, "time": round(time.time(), 3), **facts})
        if text := line({"event": event, **facts}):
            say(text)

    def events(self) -> list[dict[str, Any]]:
        return files.read_json_lines(self.path) if self.path else []


def steps(source: Path | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The `step` events with a loss, as one curve: a step that was repeated after a resume counts once, as it was made last.

    source: a log file, or its events. Skipped steps have no loss and are left out.
    """
    return [event for event in _as_one(source, "step") if event["loss"] is not None]


def validations(source: Path | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The `validation` events that were measured during training, as one curve."""
    return [event for event in _as_one(source, "validation") if "step" in event]


def skipped(source: Path | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The optimizer steps that were skipped."""
    return _as_one(source, "skipped")


def _as_one(source: Path | list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    curve: list[dict[str, Any]] = []
    for event in files.read_json_lines(source) if isinstance(source, Path) else source:
        if event["event"] == "started":
            curve = [earlier for earlier in curve if earlier.get("step", 0) <= event["from_step"]]
        elif event["event"] == kind:
            curve.append(event)
    return curve


def summary(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The validation curve, and how many attempts, shortages of memory and skipped steps there were."""
    return {
        "validation_curve": {str(event["step"]): event["loss"] for event in validations(events)},
        "attempts": sum(event["event"] == "process" for event in events),
        "out_of_memory": sum(event["event"] == "out_of_memory" for event in events),
        "skipped_steps": len(skipped(events)),
    }


def peak_memory_mib(events: list[dict[str, Any]]) -> int:
    """The highest peak of any attempt, MiB: the last attempt may only have verified."""
    return max((event["peak_memory_mib"] for event in events if "peak_memory_mib" in event), default=0)


def seconds_at_work(events: list[dict[str, Any]]) -> float:
    """Seconds that trainers worked on this: for each attempt, from its `process` event to its last event."""
    attempts = dropwhile(lambda event: event["event"] != "process", events)
    return sum(later["time"] - earlier["time"] for earlier, later in pairwise(attempts) if later["event"] != "process")


# -- an event as a line of text, for a terminal or a log ------------------------------------------------------------------


def line(event: dict[str, Any]) -> str:
    """An event in one line; empty for an end that the process reports itself, in its last line."""
    describe = LINES.get(event["event"])
    return describe(event) if describe else ""


def _step(e: dict[str, Any]) -> str:
    loss = "not finite" if e["loss"] is None else f"{e['loss']:.4f}"
    cost = f"  {e['usd']:.2f} USD" if e["usd"] else ""
    left = f"{e['tokens_per_second']:,.0f} tokens/s  {e['peak_memory_mib']:,} MiB  ETA {duration(e['eta_seconds'])}"
    return f"step {e['step']} of {e['steps']}  loss {loss}  {left}{_scale(e)}{cost}"


def _scale(e: dict[str, Any]) -> str:
    """The gradient scale, in float16."""
    return f"  gradient scale {e['gradient_scale']:,.0f}" if "gradient_scale" in e else ""


def _validation(e: dict[str, Any]) -> str:
    loss = "is not finite" if e["loss"] is None else f"{e['loss']:.4f}"
    return f"validation loss ({e['what']}) {loss}{', the best so far' if e.get('best') else ''}, measured in {e['seconds']:.1f} s"


def _loading(e: dict[str, Any]) -> str:
    if e.get("adapter"):
        return f"loads {e['base_model']} again, with the adapter that was saved"
    several = f"; {e['gpus']}" if e.get("gpus") else ""
    return f"loads {e['base_model']} on {e['device']} in {e['dtype']}: {e['why']}{several}"


def _started(e: dict[str, Any]) -> str:
    where = f"resumes from checkpoint-{e['from_step']}" if e["from_step"] else "starts"
    return f"{where} (step {e['from_step']} of {e['steps']})"


def _stopping(e: dict[str, Any]) -> str:
    return f"stops after step {e['step']}: {e['by']}, {e['because']}" if "step" in e else ""


LINES: dict[str, Callable[[dict[str, Any]], str]] = {
    "process": lambda e: f"trainer process {e['pid']}, because {e['because']}; {_batch(e)}",
    "chosen": lambda e: _chosen(e),
    "loading": _loading,
    "kernels": lambda e: f"attention: {e['attention']} ({e['why']}); norm, rotation and gated unit: {e['layers']}",
    "measuring": lambda e: f"measures the validation loss ({e['what']}) on {e['blocks']} blocks",
    "validation": _validation,
    "trying": lambda e: f"tries {e['what']}: {_batch(e)}",
    "largest_batch": lambda e: f"it fits: {e['supervised_tokens']:,} supervised tokens, {e['peak_memory_mib']:,} MiB, {e['seconds']:.1f} s",
    "started": _started,
    "step": _step,
    "skipped": lambda e: f"step {e['step']} skipped: {e['because']}{_scale(e)} ({e['in_a_row']} in a row, {e['in_all']} in total)",
    "checkpoint": lambda e: f"checkpoint-{e['step']} saved",
    "out_of_memory": lambda e: " ".join(
        [f"out of memory: {e['why']}; retries with {_batch(e)} in place of {e['was']}.", e.get("others", "")]
    ).strip(),
    "stopping": _stopping,
    "verified": lambda e: "the adapter was saved, loaded again and measured: the same loss",
}


def _batch(e: dict[str, Any]) -> str:
    level = e.get("activation_checkpointing")
    recomputed = f", layers recomputed: {layers_recomputed(level)}" if level else ""
    return f"micro batch {e['micro_batch_size']} x {e['gradient_accumulation_steps']} accumulation steps{recomputed}"


def _chosen(e: dict[str, Any]) -> str:
    memory = f"{e['phase']} needs {e['needed_gib']} GiB of {e['available_gib']} on {e['instance']}"
    enough = e["needed_gib"] + e["reserve_gib"] <= e["available_gib"]
    why = (
        f"the fastest way that leaves {e['reserve_gib']} free"
        if enough
        else f"no way leaves {e['reserve_gib']} free, this one needs the least"
    )
    return f"{' and '.join(e['parameters'])} chosen: {_batch(e)}; {memory}; {why}"


def duration(seconds: float) -> str:
    """Seconds for people: `45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
