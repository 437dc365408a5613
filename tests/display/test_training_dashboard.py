"""The live page of a training: figures with units, curves of resumed trainings, and its buttons to stop and resume."""

import asyncio
import time

import pytest

from mistral_lib.display import training_curve, training_dashboard
from mistral_lib.run import Run, files
from mistral_lib.training import checkpoints, trainer_process, training_log
from mistral_lib.training.training_status import TrainingStatus
from tests.support.corpora import other


@pytest.fixture
def now() -> TrainingStatus:
    return TrainingStatus(
        run="x", word="running", doing="training", pid=7, alive=True, step=50, steps=200, loss=2.5, validation_loss=2.25, validation_step=40,
        baseline_loss=3.0, tokens_per_second=1234.5, peak_memory_mib=9000, eta_seconds=5400, seconds=1800, usd=0.5,
    )  # fmt: skip


def test_figures_have_units_and_what_is_unknown_is_left_out(now: TrainingStatus) -> None:
    shown = training_dashboard.figures(now, planned_memory_mib=10_000)
    assert shown["step"] == "50 of 200" and shown["speed"] == "1,234 tokens/s"
    assert shown["memory"] == "9,000 MiB at most, planned 10,000 (90%)" and shown["time left"] == "1 h 30 min"
    assert shown["spent"] == "30 min, 0.50 USD, about 2.00 at the end", "a quarter of the time is spent, so a quarter of the money"
    assert training_dashboard.figures(TrainingStatus(run="x", word="not started")) == {}


def test_the_headline_says_what_to_do(now: TrainingStatus) -> None:
    assert "process 7" in training_dashboard.headline(now, starting=False, stop_requested=False)
    assert "saves after this step" in training_dashboard.headline(now, starting=False, stop_requested=True)
    dead = TrainingStatus(run="x", word="interrupted")
    assert "the process was killed" in training_dashboard.headline(dead, False, False) and "Resume" in training_dashboard.headline(
        dead, False, False
    )


def log_of(path, *runs: range, planned: int = 30) -> training_curve.Curves:
    """The curves of a log with these steps; an event has only what the curves read."""
    events = [{"event": "validation", "what": "baseline", "loss": 3.0}]
    for steps in runs:
        events.append({"event": "started", "from_step": steps.start - 1})
        events += [{"event": "step", "step": step, "steps": planned, "loss": 3 - step / 100} for step in steps]
    files.write_json_lines(path, ({"time": 0.0, **event} for event in events))
    return training_curve.Curves.read(path)


def test_the_figure_has_each_curve_once_and_those_of_an_earlier_run(tmp_path) -> None:
    curves = log_of(tmp_path / "log.jsonl", range(1, 13), range(11, 26))
    earlier = log_of(tmp_path / "earlier.jsonl", range(1, 31))
    assert [step["step"] for step in curves.steps] == list(range(1, 26))
    axes = training_curve.draw(curves, earlier, "small, yesterday")
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["small, yesterday, training batches, running mean", "small, yesterday, validation",
                      "training batches, running mean", "validation"]  # fmt: skip
    assert axes.get_xlim() == (0, 30) and "25 of 30 steps" in training_curve.curves_text(curves)


def test_the_running_mean_starts_at_the_first_value_and_keeps_a_constant() -> None:
    assert training_curve.running_mean([2.0, 2.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    assert training_curve.running_mean([1.0, 3.0]) == pytest.approx([1.0, (0.16 * 1 + 0.2 * 3) / 0.36])


def until(condition, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not reached in time"
        time.sleep(0.05)


async def interrupted(page: training_dashboard.Dashboard) -> None:
    """What Kernel > Interrupt does to a cell that waits."""
    waiting = asyncio.ensure_future(page.finished())
    await asyncio.sleep(0.5)
    waiting.cancel()
    await waiting


@pytest.mark.long
def test_its_stop_button_saves_and_its_resume_button_resumes(prepared: Run, capsys: pytest.CaptureFixture) -> None:
    long = other(prepared, max_steps=40, checkpoint_every_steps=40)
    page = training_dashboard.Dashboard(long)
    shown: list[str] = []
    page.headline.observe(lambda change: shown.append(change.new), "value")
    assert "not started" in page.headline.value, "shown before anything is read"
    page.start()
    assert "to see what has changed" in shown[0] and "loads its libraries" in shown[-1]
    assert page._repr_mimebundle_()["text/plain"] == training_dashboard.PLAIN
    assert "training: runs, because it has no result yet" in capsys.readouterr().err
    until(lambda: page.progress.value >= 3)
    with pytest.raises(training_dashboard.WaitingStoppedError, match=r"the training continues in its own process [0-9]+"):
        asyncio.run(interrupted(page))
    page.stop.click()
    assert page.question.layout.display == "", "the page asks before it stops the training"
    page.confirm.click()
    with pytest.raises(training_dashboard.TrainingStoppedError, match="saved at step"):
        asyncio.run(page.finished())
    saved = checkpoints.step_of(checkpoints.last_complete(long.folder / "training" / "checkpoints"))
    assert 3 <= saved == page.progress.value < 40 and "interrupted" in page.headline.value and page.stop.disabled
    shown.clear()
    page.resume.click()
    assert "starting" in shown[0], "the page answers the click before the trainer is started"
    assert asyncio.run(page.finished())["steps"] == 40
    assert "complete" in page.headline.value and page.resume.disabled
    assert trainer_process.stop(long) == "no trainer is at work"
    again = training_dashboard.Dashboard(other(prepared, max_steps=40, checkpoint_every_steps=40))
    again.start()
    assert not trainer_process.is_alive(long) and asyncio.run(again.finished())["steps"] == 40, "done already: nothing is started"
    capsys.readouterr()
    limited = training_dashboard.Dashboard(other(prepared, max_steps=40, checkpoint_every_steps=40, max_hours=100.0))
    limited.start()
    said = capsys.readouterr().err
    assert "because max_hours: 0.0 became 100.0; it resumes from its last checkpoint, or is verified again" in said
    assert asyncio.run(limited.finished())["steps"] == 40 and len(training_log.steps(long.folder / "training" / "log.jsonl")) == 40
    changed = other(prepared, max_steps=1, checkpoint_every_steps=1)
    (long.folder / "training").rename(changed.folder / "previous" / "training-1")
    assert [name.startswith("small, ") for name in training_curve.earlier_logs(changed)] == [True]
