"""The training stage, as a process of its own: verified at its end, resumed after a kill, never complete too early."""

import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mistral_lib.preparation import audit
from mistral_lib.run import Run, files, sealed
from mistral_lib.training import adapter_check, checkpoints, plan_table, train, trainer_process, training_log
from tests.support.corpora import other


def start(run: Run) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    return subprocess.Popen(
        [sys.executable, "-m", "mistral_lib", "train", str(run.folder)], stderr=subprocess.PIPE, text=True, env=environment
    )


def until(run: Run, condition: Callable[[list[dict]], bool], process: subprocess.Popen) -> None:
    """Wait until the log meets a condition; the training must not be `complete` before that."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        events = files.read_json_lines(run.folder / "training" / "log.jsonl")
        if condition(events):
            return
        assert process.poll() is None, process.stderr.read()
        assert run.status("training") != "complete"
        time.sleep(0.05)
    pytest.fail("the log did not meet the condition in time")


def stepped(number: int) -> Callable[[list[dict]], bool]:
    return lambda events: any(e["event"] == "step" and e["step"] >= number for e in events)


def finish(run: Run) -> dict:
    process = start(run)
    assert process.wait(timeout=300) == 0, process.stderr.read()
    return files.read_json(run.folder / "training" / "result.json")


@pytest.fixture
def long(prepared: Run) -> Run:
    return other(prepared, max_steps=20 + 10 * KILLS, checkpoint_every_steps=5, validate_every_steps=10)


def test_a_training_ends_complete_and_verified(prepared: Run) -> None:
    result = finish(prepared)
    losses = result["validation_loss"]
    assert losses["adapter"] < losses["base"] and losses["adapter_reloaded"] == pytest.approx(losses["adapter"], rel=1e-3)
    assert result["status"] == "complete" and prepared.status("training") == "complete" and result["steps"] == 8
    speed, batch = plan_table.used(prepared, result).splitlines()
    assert f"{result['peak_memory_mib']:,} MiB at most" in speed and re.match(r"\d+ tokens/s", speed) and speed.endswith("0.00 USD")
    assert batch == "micro batch 2, accumulation 1, out of memory 0 times, 0 steps skipped, attempts: 1"
    assert [str(f) for f in audit.audit(prepared.folder) if f.status != "verified"] == []
    trained = files.sha256(prepared.folder / "training" / "adapter" / "adapter_model.safetensors")
    assert finish(prepared)["seconds"] == result["seconds"], "a complete training is not trained again"
    weights = prepared.folder / "training" / "adapter" / "adapter_model.safetensors"
    weights.unlink()
    command = [sys.executable, "-m", "mistral_lib", "audit", str(prepared.folder)]
    gone = subprocess.run(command, capture_output=True, text=True)
    assert gone.returncode == 1 and "missing   small/training/adapter/adapter_model.safetensors" in gone.stdout
    shutil.rmtree(prepared.folder / "training" / "checkpoints")
    finish(prepared)
    assert files.sha256(weights) == trained, "the same seed, data and parameters give the same adapter"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    altered = subprocess.run(command, capture_output=True, text=True)
    assert altered.returncode == 1 and "altered   small/training/adapter/adapter_model.safetensors" in altered.stdout


KILLS = int(os.environ.get("KILLS", "2"))  # set KILLS=20 for more evidence
FORKS = multiprocessing.get_context("forkserver")  # its children start with the libraries loaded, which saves half a minute each
FORKS.set_forkserver_preload(["mistral_lib.training.train"])


def train_here(folder: Path, home: str) -> None:
    os.environ["MISTRAL_WORKBOOK_HOME"] = home
    train.train(Run.existing(folder))


def forked(run: Run) -> multiprocessing.Process:
    process = FORKS.Process(target=train_here, args=(run.folder, os.environ["MISTRAL_WORKBOOK_HOME"]))
    process.start()
    return process


def finish_forked(run: Run) -> dict:
    process = forked(run)
    process.join(timeout=300)
    assert process.exitcode == 0
    return files.read_json(run.folder / "training" / "result.json")


def test_killed_at_random_moments_it_resumes_to_the_same_loss(long: Run) -> None:
    dice, moments = random.Random(KILLS), []
    for _ in range(KILLS):
        process, seen = forked(long), dice.randint(1, 24) + len(log_of(long))
        while len(log_of(long)) < seen:
            assert process.is_alive() and long.status("training") != "complete"
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 0.15))
        process.kill()
        process.join()
        moments.append(log_of(long)[-1]["event"])
        assert process.exitcode == -signal.SIGKILL and long.status("training") == "interrupted"
        assert audit.audit(long.folder)[-1].status == "missing"
    killed = finish_forked(long)
    print("killed after:", *moments, "| resumed from:", *[e["from_step"] for e in log_of(long) if e["event"] == "started"])
    assert [s["step"] for s in training_log.steps(log_of(long))] == list(range(1, long.settings.max_steps + 1))
    assert killed["attempts"] == KILLS + 1
    undisturbed = finish_forked(other(long, run_name="undisturbed")) if copy_data(long, "undisturbed") else {}
    print(f"validation loss {killed['validation_loss']['adapter']:.6f}, undisturbed {undisturbed['validation_loss']['adapter']:.6f}")
    assert killed["validation_loss"]["adapter"] == pytest.approx(undisturbed["validation_loss"]["adapter"], rel=1e-5)
    assert killed["validation_curve"] == pytest.approx(undisturbed["validation_curve"], rel=1e-5), "on a CPU resuming changes nothing"


def log_of(run: Run) -> list[dict]:
    return files.read_json_lines(run.folder / "training" / "log.jsonl")


def copy_data(run: Run, name: str) -> bool:
    """Prepare the same data in another run folder."""
    from mistral_lib.preparation import prepare

    return bool(prepare.prepare(other(run, run_name=name)))


def test_on_sigterm_it_saves_and_ends_as_interrupted(long: Run) -> None:
    process = start(long)
    until(long, stepped(7), process)
    seen = training_log.steps(log_of(long))[-1]["step"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 3
    assert long.status("training") == "interrupted"
    saved = checkpoints.step_of(checkpoints.last_complete(long.folder / "training" / "checkpoints"))
    last = training_log.steps(long.folder / "training" / "log.jsonl")[-1]["step"]
    assert saved == last >= 7, "it saved where it stopped, not where the last regular checkpoint was"
    assert last <= seen + 2, "the current step is finished, and no other one is started"


def test_the_trainer_prints_a_line_for_each_step_and_event_and_no_debris(prepared: Run) -> None:
    long = other(prepared, max_steps=40, checkpoint_every_steps=2)
    first = subprocess.Popen(
        [sys.executable, "-m", "mistral_lib", "train", str(long.folder)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    until(long, stepped(2), first)
    first.send_signal(signal.SIGTERM)
    stopped = first.communicate(timeout=120)[0]
    last = training_log.steps(log_of(long))[-1]["step"]
    second = subprocess.run(
        [sys.executable, "-m", "mistral_lib", "train", str(long.folder)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300,
    ).stdout  # fmt: skip
    lines = [*stopped.splitlines(), *second.splitlines()]
    steps = [line for line in lines if re.fullmatch(r"step \d+ of 40  loss \d+\.\d{4}  [\d,]+ tokens/s  [\d,]+ MiB  ETA .+", line)]
    assert [int(line.split()[1]) for line in steps] == list(range(1, 41))
    assert "starts (step 0 of 40)" in stopped and f"checkpoint-{last} saved" in stopped and f"saved at step {last}" in stopped
    assert f"resumes from checkpoint-{last} (step {last} of 40)" in second.splitlines()
    assert re.search(r"^validation loss \(after step 40\) \d\.\d{4}", second, re.M) and "complete: validation loss" in second
    assert not [line for line in lines if "{'loss'" in line or "{'train_" in line or "%|" in line or "Warning" in line], lines


def test_a_second_trainer_is_refused(prepared: Run) -> None:
    long = other(prepared, max_steps=5000)
    process = start(long)
    until(long, stepped(1), process)
    second = subprocess.run([sys.executable, "-m", "mistral_lib", "train", str(long.folder)], capture_output=True, text=True)
    process.kill()
    process.wait()
    assert second.returncode == 1 and f"in use by process {process.pid}" in second.stderr


def test_a_half_written_checkpoint_is_skipped(tmp_path) -> None:
    for step in (5, 10):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "weights").write_text(str(step))
        sealed.seal(folder)
    (tmp_path / "checkpoint-10" / "weights").write_text("torn")
    (tmp_path / "checkpoint-15").mkdir()
    assert checkpoints.last_complete(tmp_path) == tmp_path / "checkpoint-5"


def test_an_adapter_that_did_not_change_or_is_not_finite_fails_the_check(prepared: Run) -> None:
    from mistral_lib.model import base_model

    model = base_model.attach_lora(base_model.load_base(prepared.settings), prepared.settings)
    with pytest.raises(adapter_check.TrainingFailedError, match="what it was before training"):
        adapter_check.verify(model, base_model.adapter_hash(model))
    next(p for n, p in model.named_parameters() if "lora_A" in n).data[0, 0] = torch.nan
    with pytest.raises(adapter_check.TrainingFailedError, match="NaN"):
        adapter_check.verify(model, "another")


def test_a_training_that_changes_nothing_is_not_complete(prepared: Run) -> None:
    run = other(prepared, max_steps=1, checkpoint_every_steps=1, warmup_share=0.5)  # its only step has learning rate 0
    process = start(run)
    assert process.wait(timeout=120) == 1
    assert "what it was before training" in process.stderr.read()
    assert run.status("training") == "failed" and not (run.folder / "training" / "result.json").exists()


def test_accumulation_does_not_change_the_loss(prepared: Run) -> None:
    together = finish(other(prepared, micro_batch_size=4, gradient_accumulation_steps=1))
    first = [s["loss"] for s in training_log.steps(prepared.folder / "training" / "log.jsonl")]
    apart = finish(other(prepared, micro_batch_size=1, gradient_accumulation_steps=4))
    second = [s["loss"] for s in training_log.steps(prepared.folder / "training" / "log.jsonl")]
    assert second == pytest.approx(first, rel=1e-3)
    assert apart["validation_loss"]["adapter"] == pytest.approx(together["validation_loss"]["adapter"], rel=1e-3)


def test_changed_parameters_keep_the_earlier_adapter(prepared: Run) -> None:
    finish(prepared)
    finish(other(prepared, learning_rate=1e-3))
    assert len(list(prepared.folder.glob("previous/training-*/adapter/adapter_model.safetensors"))) == 1


def wait_for_the_end(run: Run) -> None:
    while trainer_process.is_running_or_restarted(run):
        time.sleep(0.1)


def test_a_second_start_attaches_and_a_killed_trainer_is_reported(prepared: Run) -> None:
    long = other(prepared, max_steps=5000)
    trainer_process.start(long)
    trainer_process.start(long)  # a second start, before the trainer has the lock: attaches to the first
    while len(training_log.steps(long.folder / "training" / "log.jsonl")) < 3:
        assert trainer_process.is_alive(long)
        time.sleep(0.05)
    os.kill(long.holder()["pid"], signal.SIGKILL)
    wait_for_the_end(long)
    with pytest.raises(trainer_process.TrainerDiedError, match=r"is interrupted.*the process was killed.*resume from the last checkpoint"):
        trainer_process.result(long)
    short = other(prepared, max_steps=8)
    trainer_process.start(short)
    wait_for_the_end(short)
    assert trainer_process.result(short)["status"] == "complete"
