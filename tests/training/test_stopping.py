"""When a training stops early: losses that are not finite, budgets, patience; and data from which nothing can be learned."""

import math
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from datasets import load_from_disk
from torch.nn.modules.module import register_module_forward_hook

from mistral_lib.run import Run, params
from mistral_lib.training import checkpoints, largest_batch, stopping, train, training_log
from tests.support.corpora import short_run
from tests.support.disturbed_training import after_step, events, log_of


def check(steps: int, skipped: int = 0, uniform_loss: float = 10.0, **changes: object) -> stopping.DivergenceCheck:
    return stopping.DivergenceCheck(params.Settings(**changes), steps, uniform_loss, skipped)


def test_a_skipped_step_is_logged_with_its_numbers() -> None:
    divergence = check(steps=100, skipped=2)
    assert divergence.skip(7, "infinite") == {"step": 7, "because": "infinite", "in_a_row": 1, "in_all": 3}
    assert divergence.skip(8, "infinite") == {"step": 8, "because": "infinite", "in_a_row": 2, "in_all": 4}
    divergence.step(9, 1.0)
    assert divergence.skip(10, "NaN") == {"step": 10, "because": "NaN", "in_a_row": 1, "in_all": 5}


@pytest.mark.parametrize(("steps", "allowed"), [(200, 20), (201, 21), (50, 8), (80, 8), (81, 9)])
def test_scattered_skips_end_a_training_above_a_tenth_of_its_steps_and_above_eight(steps: int, allowed: int) -> None:
    divergence = check(steps)
    for step in range(allowed):
        divergence.skip(2 * step, "infinite")
        divergence.step(2 * step + 1, 1.0)
    with pytest.raises(
        stopping.DivergedError, match=rf"^step 999: NaN; skipped 1 steps in a row and {allowed + 1} in total\. Lower learning_rate"
    ):
        divergence.skip(999, "NaN")


def test_eight_skips_in_a_row_end_a_training_of_any_length() -> None:
    divergence = check(steps=10_000)
    for step in range(7):
        divergence.skip(step, "NaN")
    with pytest.raises(stopping.DivergedError, match="skipped 8 steps in a row and 8 in total"):
        divergence.skip(7, "NaN")


def test_a_loss_of_exactly_the_limit_is_not_hopeless_and_one_better_loss_starts_the_count_again() -> None:
    divergence = check(steps=100)
    for step in range(20):
        divergence.step(step, 12.0)
    for start in (0, 10):
        for step in range(7):
            divergence.step(start + step, 12.01)
        divergence.step(start + 7, 11.99)
    assert divergence.hopeless == 0
    for step in range(7):
        divergence.step(step, 12.01)
    with pytest.raises(
        stopping.DivergedError, match=r"step 99: a loss of 12\.01 nats per supervised token, the 8th in a row above 1\.2 x 10\.00, which"
    ):
        divergence.step(99, 12.01)


def test_the_advice_names_the_values_and_float16_only_if_it_is_used() -> None:
    advice = check(10, learning_rate=0.02, warmup_share=0.1, dtype="float16").advice()
    assert advice.startswith("Lower learning_rate (now 0.02) to a third or a tenth, or raise warmup_share (now 0.1); float16 overflows")
    assert "float16" not in check(10, dtype="bfloat16").advice()
    assert "by step 4, so it is not saved; there is no checkpoint yet. Lower" in str(check(10).broken_adapter(4, None))


class Clock:
    """Stands in for time.perf_counter."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(stopping.time, "perf_counter", made)
    return made


def test_spending_counts_earlier_attempts_and_what_is_still_to_come(clock: Clock) -> None:
    spending = stopping.Spending(earlier_seconds=600.0, usd_per_hour=2.0)
    assert (spending.seconds(), spending.seconds_left(10, 3)) == (600.0, 0.0)
    clock.now += 3000
    assert (spending.seconds(), spending.usd()) == (3600.0, 2.0)
    spending.measuring_seconds, spending.loading_seconds = 5.0, 7.0
    assert spending.ending_seconds() == 2 * 5 + 7
    spending.step_seconds = [1000.0] * 30 + [1.0] * 9 + [3.0] * 11
    assert spending.seconds_left(steps=10, validations=2) == 10 * 3.0 + 2 * 5.0 + 17.0
    spending.step_seconds = [1000.0] * 11 + [1.0] * 10
    assert spending.seconds_left(steps=1, validations=0) == 500.5 + 17.0, "the median of the last 20"


def reached(step: int = 2, hours: float = 0.5, price: float = 2.0, validations: tuple = (), **changes: object) -> str | None:
    """The name of the rule that ends a training; 0.1 h are needed for the ending."""
    spending = stopping.Spending(hours * 3600, price)
    spending.loading_seconds = 360.0
    found = stopping.reached_rule(
        params.Settings(**changes), spending, step, [{"step": n, "loss": loss} for n, loss in enumerate(validations)]
    )
    return found and found[0]


def test_each_rule_ends_a_training_exactly_from_its_limit_on(clock: Clock) -> None:
    assert reached(max_hours=0.6) == "max_hours" and reached(max_hours=0.60001) is None and reached(max_hours=0.0) is None
    assert reached(max_usd=1.2) == "max_usd" and reached(max_usd=1.21) is None and reached(max_usd=0.0) is None
    assert reached(max_usd=1.2, price=1.9) is None
    waiting = {"early_stopping_patience": 2, "validate_every_steps": 1}
    assert (
        reached(validations=(3.0, 2.0, 2.5, 2.0), **waiting) == "early_stopping" and reached(validations=(3.0, 2.0, 2.5), **waiting) is None
    )
    assert reached(validations=(3.0, 2.0, 2.5, 2.0), early_stopping_patience=0) is None and reached(**waiting) is None
    assert reached(step=1, max_hours=0.6) is None, "the first step of a warm-up trains nothing"
    assert reached(validations=(1.0, 2.0, 3.0), **waiting, max_hours=0.1, max_usd=0.1) == "early_stopping"
    assert reached(max_hours=0.1, max_usd=0.1) == "max_hours"


def test_the_reason_names_what_was_spent_and_allowed(clock: Clock) -> None:
    spending = stopping.Spending(1800, 2.0)
    spending.loading_seconds = 360.0
    settings = params.Settings(max_hours=0.5, early_stopping_patience=1, validate_every_steps=1)
    losses = [{"loss": 1.0}, {"loss": 2.0}]
    assert stopping.reached_rule(settings, spending, 2, []) == ("max_hours", "0.5000 h spent and 0.1000 h for the ending, of 0.5 h")
    assert stopping.reached_rule(settings, spending, 2, losses)[1] == "no lower validation loss in the last 1 measurements"
    assert stopping.reached_rule(params.Settings(max_usd=1.0), spending, 2, [])[1] == "1.0000 USD spent, and the ending reaches 1.0 USD"


def test_validations_are_counted_since_the_first_of_the_lowest() -> None:
    def since(*losses: float | None) -> int:
        return stopping.validations_since_best([{"loss": loss} for loss in losses])

    assert (since(), since(1.0), since(2.0, 1.0), since(1.0, 2.0, 3.0), since(2.0, 1.0, 1.0), since(2.0, None, 1.0, None)) == (
        0,
        0,
        0,
        2,
        1,
        1,
    )


def test_a_signal_is_a_request_during_the_steps_and_an_exception_outside_of_them() -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        stop = stopping.StopSignal()
        assert (stop.requested, stop.stepping) == (False, False)
        with stop.during(True):
            with stop.during(False), pytest.raises(stopping.Stopped, match=r"^SIGINT received between the steps"):
                os.kill(os.getpid(), signal.SIGINT)
            assert stop.stepping
            stop.requested = False
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested
        with pytest.raises(ValueError), stop.during(True):
            raise ValueError
        assert not stop.stepping
        with pytest.raises(stopping.Stopped, match="SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_data_that_teach_nothing_are_refused_each_with_its_own_message(opened: Callable[..., Run]) -> None:
    run = opened()
    place = run.folder / "data" / "train"
    blocks = load_from_disk(place)
    cases = {"all labels of the training split are masked": blocks.map(lambda b: {"labels": [-100] * len(b["labels"])}),
             "the training split holds no block": blocks.select([])}  # fmt: skip
    for words, useless in cases.items():
        useless.save_to_disk(run.folder / "useless")
        shutil.rmtree(place)
        (run.folder / "useless").rename(place)
        with pytest.raises(largest_batch.NothingToLearnError, match=words):
            train.train(run)
        assert run.status("training") == "failed" and words in run.entry("training")["error"]


def test_an_adapter_that_became_nan_is_neither_saved_nor_complete(opened: Callable[..., Run]) -> None:
    def break_it(optimizer: torch.optim.Optimizer) -> None:
        optimizer.param_groups[0]["params"][0].data.fill_(math.nan)

    run = opened(validate_every_steps=2)
    with after_step(4, break_it), pytest.raises(stopping.DivergedError, match=r"NaN or infinite by step 4.*checkpoint-2.*learning_rate"):
        train.train(run)
    assert run.status("training") == "failed"
    assert checkpoints.last_complete(run.folder / "training" / "checkpoints").name == "checkpoint-2"
    assert train.train(run)["status"] == "complete", "from the last good checkpoint"


def test_steps_that_are_not_finite_are_skipped_and_counted_and_too_many_end_the_training(opened: Callable[..., Run]) -> None:
    run = opened()
    with infinite_at(lambda n: n == 4):  # the trial, steps 1 and 2, and then step 3
        result = train.train(run)
    assert (result["status"], result["skipped_steps"], result["steps"]) == ("complete", 1, 6)
    assert [event["step"] for event in events(run, "skipped")] == [3]
    assert [step["step"] for step in training_log.steps(log_of(run))] == [1, 2, 4, 5, 6]
    run = opened(max_steps=40)
    with infinite_at(lambda n: n > 4), pytest.raises(stopping.DivergedError, match=r"8 steps in a row.*Lower learning_rate"):
        train.train(run)
    assert run.status("training") == "failed" and len(events(run, "skipped")) == 7


@contextmanager
def infinite_at(wanted: Callable[[int], bool]) -> Iterator[None]:
    """The embeddings are infinite in each training pass (1, 2, ...) for which `wanted` is true."""
    passes = 0

    def hook(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor | None:
        nonlocal passes
        if type(module).__name__ != "Embedding" or not torch.is_grad_enabled():
            return None
        passes += 1
        return output * math.inf if wanted(passes) else None

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def test_losses_worse_than_guessing_end_a_training() -> None:
    check = stopping.DivergenceCheck(short_run(), steps=100, uniform_loss=10.0)
    for step in range(7):
        check.step(step, 15.0)
    check.step(7, 11.0)
    with pytest.raises(stopping.DivergedError, match=r"the 8th in a row.*worse than guessing"):
        [check.step(step, 15.0) for step in range(8, 16)]


def test_the_best_adapter_is_saved_and_patience_ends_the_training(opened: Callable[..., Run]) -> None:
    run = opened(max_steps=30, validate_every_steps=1, early_stopping_patience=2, learning_rate=0.3, warmup_share=0.0)
    result = train.train(run)
    curve = {int(step): loss for step, loss in result["validation_curve"].items()}
    assert result["stopped_by"] == "early_stopping" and result["steps"] < 30 and run.status("training") == "complete"
    assert result["adapter_of_step"] == min(curve, key=curve.get) == result["steps"] - 2
    assert result["validation_loss"]["adapter"] == pytest.approx(min(curve.values()), rel=1e-3)
    assert result["validation_loss"]["adapter_reloaded"] == pytest.approx(min(curve.values()), rel=1e-3)
    best = [event["step"] for event in events(run, "validation") if event.get("best")]
    assert best[-1] == result["adapter_of_step"]


def test_a_budget_ends_a_training_verified_and_a_raised_budget_resumes_it(opened: Callable[..., Run], gpu_not_asked_for: None) -> None:
    run = opened(instance="g5.xlarge", max_usd=1e-6, max_steps=6)
    short = train.train(run)
    assert (short["status"], short["stopped_by"], short["steps"]) == ("complete", "max_usd", 2)
    assert run.status("training") == "complete" and short["usd"] > 0
    run = opened(instance="g5.xlarge", max_usd=5.0, max_steps=6)
    full = train.train(run)
    assert (full["stopped_by"], full["steps"]) == (None, 6)
    assert [event["from_step"] for event in events(run, "started")] == [0, 2]
    assert len(list(run.folder.glob("previous/training-*/adapter/adapter_model.safetensors"))) == 1
    assert full["seconds"] > short["seconds"], "all attempts are counted"
