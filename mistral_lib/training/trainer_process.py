"""Starts the trainer as a process of its own, watches it, and reports how it ended.

The notebook may be closed, interrupted or reopened: training continues, and the cell that is run again attaches to it.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

from mistral_lib.run import Run, cuda_device, files, idle_models, paths
from mistral_lib.run.progress import say
from mistral_lib.training import out_of_memory, trackers, training_status

POLL = 1.0  # seconds between two looks at the log

_started: dict[str, subprocess.Popen] = {}  # trainers started by this process, by run folder; a child must be waited for


class TrainerDiedError(RuntimeError):
    """The trainer ended without a verified adapter; the message has its last output and what to do."""


def start(run: Run) -> None:
    """Start `python -m mistral_lib train` for this run, unless it is being trained already. A model that is kept idle in this process is
    freed first: the trainer needs the memory.

    Errors: ModuleNotFoundError if the package of the tracker in `report_to` is not installed; NoUsableGpuError.
    """
    trackers.require(run.settings.report_to)
    if is_alive(run):
        say("training: a process works on it already, attaching to it")
        return
    cuda_device.require(run.settings.instance, "training", compute=False)
    if idle_models.free_all():
        say("training: the chat's model in this notebook is freed; its next question loads it again")
    output = run.folder / "training.out"
    with open(output, "ab") as out:
        command = [sys.executable, "-m", "mistral_lib", "train", str(run.folder)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=paths.project(), start_new_session=True)
    _started[str(run.folder)] = process
    say(f"training: process {process.pid} started; it prints to {paths.short(output)}")


def stop(run: Run) -> str:
    """Request that the trainer saves after its step and ends; returns what was done. Errors: RuntimeError if it runs on another machine."""
    holder = run.holder()
    if holder is None or not run.works_on("training"):
        return "no trainer is at work"
    if holder["host"] != socket.gethostname():
        raise RuntimeError(f"the trainer is process {holder['pid']} on {holder['host']}, this is {socket.gethostname()}; `kill` it there")
    os.kill(holder["pid"], signal.SIGTERM)
    return f"process {holder['pid']} will save after its step, then end"


def result(run: Run) -> dict[str, Any]:
    """training/result.json of a training that has ended. Errors: TrainerDiedError if it ended without one."""
    status, process, output = run.status("training"), _started.get(str(run.folder)), run.folder / "training.out"
    if status == "complete":
        return files.read_json(run.folder / "training" / "result.json")
    code = f", exit status {process.returncode}" if process is not None else ""
    tail = "\n".join(output.read_text(errors="replace").splitlines()[-12:]) if output.exists() else ""
    raise TrainerDiedError(
        f"training of {run.folder.name} is {status}{code}: {run.entry('training').get('error') or 'the process was killed'}. "
        f"There is no adapter. Run this again to resume from the last checkpoint.\nLast output of the trainer:\n{tail}"
    )


def is_alive(run: Run) -> bool:
    """Whether a trainer runs: one that this process started (it may not have the lock yet), or any that has the lock."""
    process = _started.get(str(run.folder))
    return (process is not None and process.poll() is None) or run.works_on("training")


def is_running_or_restarted(run: Run) -> bool:
    """Whether a trainer runs; one that was killed for lack of memory is started again first, and ends if no smaller batch is left."""
    process, folder = _started.get(str(run.folder)), run.folder / "training"
    if is_alive(run):
        return True
    if process is None or process.poll() != -signal.SIGKILL or run.status("training") != "interrupted":
        return False
    why = out_of_memory.killed_for_memory(files.read_json_lines(folder / "log.jsonl"), folder)
    if why is None:
        return False
    say(f"training: {why}; it is started again and resumes with a smaller micro batch")
    start(run)
    return True


def warned_of_a_hang(run: Run, warned: float) -> float:
    """Print a warning, once per hang. Returns the time of the last warning, in seconds since 1970."""
    now = training_status.status(run)
    if not now.hung or time.time() - warned < now.seconds_since_progress:
        return warned
    say(f"training: no progress since {now.seconds_since_progress:.0f} s, expected within {now.patience_seconds:.0f} s; {now.advice}")
    return time.time()
