"""When a training stops early: losses that are not finite, budgets, patience; and data from which nothing can be learned."""

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from datasets import load_from_disk
from torch.nn.modules.module import register_module_forward_hook

from mistral_lib.run import Run
from mistral_lib.training import checkpoints, largest_batch, stopping, train, training_log
from tests.support.corpora import short_run
from tests.support.disturbed_training import after_step, events, log_of


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
        with pytest.raises(largest_batch.NothingToLearn, match=words):
            train.train(run)
        assert run.status("training") == "failed" and words in run.entry("training")["error"]


def test_an_adapter_that_became_nan_is_neither_saved_nor_complete(opened: Callable[..., Run]) -> None:
    def break_it(optimizer: torch.optim.Optimizer) -> None:
        optimizer.param_groups[0]["params"][0].data.fill_(math.nan)

    run = opened(validate_every_steps=2)
    with after_step(4, break_it), pytest.raises(stopping.Diverged, match=r"NaN or infinite by step 4.*checkpoint-2.*learning_rate"):
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
    with infinite_at(lambda n: n > 4), pytest.raises(stopping.Diverged, match=r"8 steps in a row.*Lower learning_rate"):
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
    with pytest.raises(stopping.Diverged, match=r"the 8th in a row.*worse than guessing"):
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


def test_a_budget_ends_a_training_verified_and_a_raised_budget_resumes_it(opened: Callable[..., Run]) -> None:
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
