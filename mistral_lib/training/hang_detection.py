"""When a training last got on: every forward pass that ends is noted, so that a hung one is told from a slow one.

Nothing here is a thread's beat: if the model does no work, nothing is written.
"""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mistral_lib.run import files, system_memory

NOTE = ".progress.json"  # hidden: not a part of the result
EVERY = 2.0  # seconds between two notes
STEPS_OF_PATIENCE = 10  # how many median steps may pass without any progress
LEAST_PATIENCE = 120.0  # seconds
PATIENCE_IN_LOADING = 900.0  # seconds; also while no step has been timed


@contextmanager
def noted(model: Any, folder: Path) -> Iterator[None]:
    """While this lasts, each forward pass of the model's layers leaves a note in the training's folder."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    latest, one_at_a_time = 0.0, threading.Lock()

    def note(*_: Any) -> None:
        nonlocal latest
        with one_at_a_time:  # rows may be computed side by side
            if time.time() - latest >= EVERY:
                latest = time.time()
                files.write_json(folder / NOTE, {"time": latest, "memory_left": round(system_memory.left_share(), 4)})

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
    """How long no progress is still no cause for alarm, given how long the steps took."""
    if loading or not step_seconds:
        return PATIENCE_IN_LOADING
    return max(STEPS_OF_PATIENCE * statistics.median(step_seconds[-20:]), LEAST_PATIENCE)
