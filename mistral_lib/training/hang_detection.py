"""When a training last made progress: every finished forward pass leaves a note, which distinguishes a hung training from a slow one.

No thread writes these notes on a timer: if the model does no work, nothing is written.
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mistral_lib.run import files, system_memory

NOTE = ".progress.json"  # hidden, so not a part of the result
EVERY = 2.0  # seconds between two notes
STEPS_OF_PATIENCE = 10  # median steps that may pass without any progress
LEAST_PATIENCE = 120.0  # seconds
PATIENCE_IN_LOADING = 900.0  # seconds; also until a step has been timed


@contextmanager
def noted(model: Any, folder: Path, also: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Inside, each forward pass of the model's layers leaves a note in the training's folder, at most one every two seconds. also: is called
    with each note."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    latest, one_at_a_time = 0.0, threading.Lock()

    def note(*_: Any) -> None:
        nonlocal latest
        with one_at_a_time:  # row threads may finish at the same time
            if time.time() - latest >= EVERY:
                latest = time.time()
                files.write_json(folder / NOTE, {"time": latest, "memory_left": round(system_memory.left_share(), 4)})
                also()

    hook = base.model.register_forward_hook(note)
    try:
        yield
    finally:
        hook.remove()
        (folder / NOTE).unlink(missing_ok=True)


def last_note(folder: Path) -> dict[str, float]:
    """The last noted forward pass: its `time` in seconds since 1970, and the share of the memory that was left. Empty if none."""
    try:
        return files.read_json(folder / NOTE)
    except (OSError, ValueError):
        return {}


def patience_seconds(step_seconds: list[float], loading: bool = False) -> float:
    """Seconds without progress after which a training counts as hung, given how long its steps took."""
    if loading or not step_seconds:
        return PATIENCE_IN_LOADING
    return max(STEPS_OF_PATIENCE * statistics.median(step_seconds[-20:]), LEAST_PATIENCE)
