"""The status of a training in each of its states, as another process sees it."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mistral_lib.display import training_curve
from mistral_lib.run import Run, files
from mistral_lib.training import training_log, training_status
from mistral_lib.training.training_log import TrainingLog
from tests.support.corpora import other, short_run

STEP = {"loss": 2.5, "gradient_norm": 0.7, "learning_rate": 1e-3, "tokens_per_second": 300.0, "seconds": 1.0, "peak_memory_mib": 900,
        "eta_seconds": 60.0, "usd": 0.0}  # fmt: skip


def made(home: Path, since: float, **changes: object) -> Run:
    """A run whose training has written a log up to `since` seconds ago."""
    run = Run.open(short_run(run_name="seen", **changes))
    began = time.time() - since - 10
    events = [
        {"event": "process", "time": began, "pid": 1, "micro_batch_size": 2, "gradient_accumulation_steps": 1},
        {"event": "validation", "time": began + 1, "what": "baseline", "loss": 2.9, "seconds": 1.0},
        {"event": "started", "time": began + 2, "from_step": 0, "micro_batch_size": 2, "gradient_accumulation_steps": 1},
        *({"event": "step", "time": began + 2 + n, "step": n, "steps": 12, **STEP} for n in (1, 2, 3)),
        {"event": "validation", "time": began + 6, "what": "after step 2", "step": 2, "loss": 2.6, "best": True, "seconds": 1.0},
        {"event": "validation", "time": began + 7, "what": "after step 3", "step": 3, "loss": 2.7, "best": False, "seconds": 1.0},
        {"event": "step", "time": began + 10, "step": 4, "steps": 12, **STEP},
    ]
    files.write_json_lines(run.folder / "training" / "log.jsonl", events)
    return run


def command(run: Run) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "mistral_lib", "status", str(run.folder)], capture_output=True, text=True)


def test_a_training_that_makes_progress_is_distinguished_from_one_that_hangs(home: Path) -> None:
    run = made(home, since=5.0, instance="g5.xlarge")
    with run.lock("stage training"):
        now = training_status.status(run)
        assert (now.word, now.alive, now.hung, now.exit_code, now.doing) == ("running", True, False, 4, "training")
        assert (now.step, now.steps, now.loss, now.baseline_loss) == (4, 12, 2.5, 2.9)
        assert (now.validation_loss, now.validation_step, now.best_validation_loss, now.best_step) == (2.7, 3, 2.6, 2)
        assert now.seconds_since_step == pytest.approx(5, abs=1) and now.eta_seconds == pytest.approx(55, abs=1)
        assert now.seconds == pytest.approx(15, abs=1) and now.usd == pytest.approx(15 / 3600 * 1.006, rel=0.1)
        made(home, since=200.0, instance="g5.xlarge")
        stuck = training_status.status(run)
        assert stuck.hung and stuck.alive and stuck.exit_code == 5 and f"kill {stuck.pid}" in stuck.advice
        text = command(run)
        assert text.returncode == 5 and "no progress since 20" in text.stdout and "expected within 120 s" in text.stdout
        files.write_json(run.folder / "training" / ".progress.json", {"time": time.time() - 30, "memory_left": 0.5})
        assert not training_status.status(run).hung, "a long step that still makes forward passes is slow, not hung"


def test_a_killed_a_failed_and_a_missing_training_say_what_to_do(home: Path) -> None:
    run = made(home, since=5.0)
    with run.lock("test"):
        run.record("training", status="running", started="at noon")
    killed = command(run)
    assert killed.returncode == 3 and "seen: interrupted" in killed.stdout and "resumes from the last checkpoint" in killed.stdout
    assert "the trainer, which started at noon, was killed or its machine was lost" in killed.stdout
    with run.lock("stage evaluation"):
        other = training_status.status(run)
        assert (other.word, other.alive, other.pid) == ("interrupted", False, None), "the lock is that of another stage"
    with run.lock("test"):
        run.record("training", status="failed", error="DivergedError: step 9: loss nan")
    failed = training_status.status(run)
    assert (failed.word, failed.exit_code, failed.error) == ("failed", 1, "DivergedError: step 9: loss nan")
    fresh = Run.open(short_run(run_name="fresh"))
    assert (training_status.status(fresh).word, training_status.status(fresh).exit_code) == ("not started", 6)
    assert "start it with" in training_status.describe(training_status.status(fresh))


def test_a_validation_loss_that_is_not_finite_is_reported_and_is_not_the_best(home: Path) -> None:
    run = made(home, since=5.0)
    log = TrainingLog(run.folder / "training" / "log.jsonl")
    log.write("validation", what="after step 4", step=4, loss=None, best=False, seconds=1.0)  # the log has None for NaN
    now = training_status.status(run)
    assert (now.validation_loss, now.validation_step, now.best_validation_loss, now.best_step) == (None, 4, 2.6, 2)
    assert "validation loss ? after step 4, best 2.6000 after step 2" in training_status.describe(now)
    curves = training_curve.Curves.read(log.path)
    assert curves.points() == [(0, 2.9), (2, 2.6), (3, 2.7)] and "validation from 2.900 to 2.700" in training_curve.curves_text(curves)
    assert "2.700" in training_curve.draw(curves).figure.get_label()
    only = other(run, run_name="only")
    TrainingLog(only.folder / "training" / "log.jsonl").write("validation", what="after step 1", step=1, loss=None, best=False, seconds=1.0)
    first = training_status.status(only)
    assert (first.best_validation_loss, first.best_step) == (None, None)
    assert "validation loss ? after step 1, none was finite so far, base model ?" in training_status.describe(first)


def test_time_between_attempts_is_neither_counted_nor_paid_for() -> None:
    def attempt(began: float) -> list[dict]:
        return [{"event": "process", "time": began}, {"event": "step", "time": began + 60}]

    assert training_log.seconds_at_work(attempt(0) + attempt(10_000)) == 120


def test_a_curve_takes_repeated_steps_from_the_last_attempt() -> None:
    def step(number: int, loss: float | None) -> dict:
        return {"event": "step", "step": number, "loss": loss}

    events = [step(1, 1.0), step(2, 2.0), step(3, 3.0), {"event": "started", "from_step": 1}, step(2, 2.5), step(3, None)]
    assert [event["loss"] for event in training_log.steps(events)] == [1.0, 2.5]
