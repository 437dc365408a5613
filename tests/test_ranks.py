"""Two processes at one training, over gloo: the same curve as one process with twice the accumulation, and one writer."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from mistral_lib import audit, checkpoints, files, training_log
from mistral_lib.run import Run
from tests.conftest import other


def launch(run: Run, processes: int) -> subprocess.Popen:
    """The same train command, alone or under torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    several = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(port)]
    command = [sys.executable, *(several if processes > 1 else []), "-m", "mistral_lib", "train", str(run.folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(run: Run, processes: int) -> tuple[dict, list[dict]]:
    process = launch(run, processes)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert output.count("complete: validation loss") == 1
    return files.read_json(run.folder / "training" / "result.json"), training_log.steps(run.folder / "training" / "log.jsonl")


def test_two_processes_give_the_curve_of_one_with_twice_the_accumulation(prepared: Run) -> None:
    alone, curve = finish(other(prepared, micro_batch_size=1, gradient_accumulation_steps=2), 1)
    together, shared = finish(other(prepared, micro_batch_size=1, gradient_accumulation_steps=1), 2)
    assert [step["step"] for step in shared] == [step["step"] for step in curve] == list(range(1, 9)), "one writer, every step once"
    assert [step["loss"] for step in shared] == pytest.approx([step["loss"] for step in curve], rel=1e-3)
    assert [step["gradient_norm"] for step in shared] == pytest.approx([step["gradient_norm"] for step in curve], rel=1e-2)
    assert together["validation_loss"]["adapter"] == pytest.approx(alone["validation_loss"]["adapter"], rel=1e-3)
    assert together["initial_adapter_sha256"] == alone["initial_adapter_sha256"]
    assert [str(f) for f in audit.audit(prepared.folder) if f.status != "verified"] == []


def test_told_to_stop_both_save_once_and_go_on(prepared: Run) -> None:
    long = other(prepared, max_steps=400, checkpoint_every_steps=400)
    process = launch(long, 2)
    for _ in range(1200):
        if len(training_log.steps(long.folder / "training" / "log.jsonl")) >= 3:
            break
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # to torchrun, which passes it on to each process
    process.communicate(timeout=120)
    assert process.returncode != 0 and long.status("training") == "interrupted"
    last = training_log.steps(long.folder / "training" / "log.jsonl")[-1]["step"]
    saved = checkpoints.last_whole(long.folder / "training" / "checkpoints")
    assert checkpoints.step_of(saved) == last
    assert {path.name for path in saved.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
