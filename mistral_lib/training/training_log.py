"""log.jsonl: one line per event of a training, written as it happens and readable at any time from any process.

Each event is a flat object with `event` and `time` (seconds since 1970):

process         pid, because, micro_batch_size, gradient_accumulation_steps: a trainer began or went on
loading         base_model, dtype, why, device
measuring       what, blocks: a validation loss is being measured
validation      what, loss (nats per supervised token), seconds; during training also step, best (true if the lowest so far)
trying          what, micro_batch_size, gradient_accumulation_steps: the fullest batch, before the first step
largest_batch   supervised_tokens, peak_memory_mib, seconds: it fitted
started         from_step: stepping begins, at 0 or at a checkpoint
step            step, steps, loss, gradient_norm, learning_rate, tokens_per_second, seconds, peak_memory_mib, eta_seconds, usd
skipped         step, because, in_a_row, in_all: an optimizer step that was left out; its `step` event has null figures
checkpoint      step
out_of_memory   why, micro_batch_size, gradient_accumulation_steps: what the training goes on with
stopping        by (stop signal, early_stopping, max_hours, max_usd), step, because
verified        the adapter was saved, read back and measured again
failed          error
"""

import math
import time
from pathlib import Path
from typing import Any

from mistral_lib.run import files


class TrainingLog:
    """Appends events to a file of JSON lines."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, event: str, **facts: Any) -> None:
        files.append_json_line(self.path, {"event": event, "time": round(time.time(), 3), **facts})

    def events(self) -> list[dict[str, Any]]:
        return files.read_json_lines(self.path)


class NoLog:
    """Takes events and writes none: of several processes only the first one tells."""

    def events(self) -> list[dict[str, Any]]:
        return []

    def write(self, event: str, **facts: Any) -> None:
        pass


def steps(source: Path | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The `step` events with a loss, as one curve: where a training was resumed, repeated steps are those of the resumption.

    source: a log file, or its events. Skipped steps have no loss and are left out.
    """
    return [event for event in _as_one(source, "step") if event["loss"] is not None]


def validations(source: Path | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The `validation` events that were measured during training, as one curve."""
    return [event for event in _as_one(source, "validation") if "step" in event]


def skipped(source: Path | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The optimizer steps that were left out."""
    return _as_one(source, "skipped")


def _as_one(source: Path | list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    curve: list[dict[str, Any]] = []
    for event in _events(source):
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
    """How long trainers were at work on this, the time between them left out: from each `process` event to its last one."""
    total, began, latest = 0.0, math.inf, math.inf
    for event in events:
        if event["event"] == "process":
            total += latest - began if began < math.inf else 0.0
            began = event["time"]
        latest = event["time"]
    return total + (latest - began if began < math.inf else 0.0)


def _events(source: Path | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return files.read_json_lines(source) if isinstance(source, Path) else source
