"""log.jsonl: one line per event of a training, written as it happens and readable at any time from any process."""

import time
from pathlib import Path
from typing import Any

import orjson

from mistral_lib import files


class TrainingLog:
    """Appends events, each a flat object with `event` and `time` (seconds since 1970)."""

    def __init__(self, path: Path):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, event: str, **facts: Any) -> None:
        line = orjson.dumps({"event": event, "time": round(time.time(), 3), **facts}, option=orjson.OPT_APPEND_NEWLINE)
        with open(self.path, "r+b" if self.path.exists() else "w+b") as file:
            file.truncate(_end_of_last_line(file))  # a line that a killed process left half-written
            file.seek(0, 2)
            file.write(line)


def _end_of_last_line(file: Any) -> int:
    data = file.read()
    return data.rfind(b"\n") + 1


def steps(path: Path) -> list[dict[str, Any]]:
    """The `step` events as one curve: where a training was resumed, the steps that it repeated are those of the resumption."""
    curve: list[dict[str, Any]] = []
    for event in files.read_json_lines(path):
        if event["event"] == "started":
            curve = [step for step in curve if step["step"] <= event["from_step"]]
        elif event["event"] == "step":
            curve.append(event)
    return curve


def last(path: Path, event: str) -> dict[str, Any]:
    """The last event of a kind; an empty dict if there is none."""
    return next((e for e in reversed(files.read_json_lines(path)) if e["event"] == event), {})
