"""One training in two processes, over gloo: the same curve as one process with twice the accumulation, and one writer."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from mistral_lib.preparation import audit
from mistral_lib.run import Run, files
from mistral_lib.training import checkpoints, training_log
from mistral_lib.training.processes import distributed
from tests.support.corpora import other

TORCHRUN = ("torch.distributed.run", "--nproc_per_node", "2", "--master_port")
ACCELERATE = (
    "accelerate.commands.launch",
    "--multi_gpu",
    "--num_processes",
    "2",
    "--main_process_port",
)  # --multi_gpu starts several processes, also on a CPU
TRAIN = ("mistral_lib",)
FOUR = {"micro_batch_size": 2, "max_steps": 4}
SHORT = ("tests.support.short_of_memory", "1", "3")  # the second process, in its third pass


def launch(run: Run, launcher: tuple[str, ...] = (), program: tuple[str, ...] = TRAIN) -> subprocess.Popen:
    """The same train command, alone or under a launcher of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    several = ["-m", *launcher, port] if launcher else []
    command = [sys.executable, *several, "-m", *program, "train", str(run.folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(run: Run, *how: tuple[str, ...]) -> tuple[dict, list[dict]]:
    process = launch(run, *how)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert output.count("complete: validation loss") == 1
    log = training_log.steps(run.folder / "training" / "log.jsonl")
    assert [step["step"] for step in log] == list(range(1, run.settings.max_steps + 1)), "one writer, every step once"
    return files.read_json(run.folder / "training" / "result.json"), log


def test_two_processes_give_the_curve_of_one_with_twice_the_accumulation_also_if_one_runs_out_of_memory(prepared: Run) -> None:
    alone, curve = finish(other(prepared, gradient_accumulation_steps=2, **FOUR))
    together, shared = finish(other(prepared, **FOUR), TORCHRUN)
    assert [step["loss"] for step in shared] == pytest.approx([step["loss"] for step in curve], rel=1e-3)
    assert [step["gradient_norm"] for step in shared] == pytest.approx([step["gradient_norm"] for step in curve], rel=1e-2)
    assert together["validation_loss"]["adapter"] == pytest.approx(alone["validation_loss"]["adapter"], rel=1e-3)
    assert together["initial_adapter_sha256"] == alone["initial_adapter_sha256"]
    assert [str(f) for f in audit.audit(prepared.folder) if f.status != "verified"] == []

    shutil.rmtree(prepared.folder / "training")
    shrunk, smaller = finish(other(prepared, **FOUR), ACCELERATE, SHORT)
    assert (shrunk["micro_batch_size"], shrunk["gradient_accumulation_steps"], shrunk["processes"], shrunk["effective_batch"]) == (
        1,
        2,
        2,
        4,
    )
    events = files.read_json_lines(prepared.folder / "training" / "log.jsonl")
    assert [event["from_step"] for event in events if event["event"] == "started"] == [0, 2], "from the last checkpoint"
    assert ["process 1 of 2" in event["why"] for event in events if event["event"] == "out_of_memory"] == [True]
    assert [step["loss"] for step in smaller] == pytest.approx([step["loss"] for step in curve], rel=1e-3)
    assert shrunk["validation_loss"]["adapter"] == pytest.approx(alone["validation_loss"]["adapter"], rel=1e-3)


def test_accelerate_that_starts_one_process_instead_of_several_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "ACCELERATE_USE_CPU"):
        monkeypatch.setenv(name, "True")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(RuntimeError, match=r"has started a single one.*torchrun --nproc_per_node N"):
        distributed.join("cpu")


def test_a_stop_signal_that_arrives_during_the_vote_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = SimpleNamespace(requested=False)

    def vote(yes: bool) -> bool:
        stop.requested = True
        return yes

    monkeypatch.setattr(distributed, "any_of", vote)
    distributed.SharedStopRequest(stop).on_step_end(None, None, None)
    assert stop.requested


def test_on_sigterm_both_processes_save_once(prepared: Run) -> None:
    long = other(prepared, max_steps=400, checkpoint_every_steps=400)
    process = launch(long, TORCHRUN)
    for _ in range(6000):  # five minutes
        if len(training_log.steps(long.folder / "training" / "log.jsonl")) >= 3:
            break
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # to torchrun, which passes it on to each process
    process.communicate(timeout=120)
    assert process.returncode != 0 and long.status("training") == "interrupted"
    last = training_log.steps(long.folder / "training" / "log.jsonl")[-1]["step"]
    saved = checkpoints.last_complete(long.folder / "training" / "checkpoints")
    assert checkpoints.step_of(saved) == last
    assert {path.name for path in saved.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
