"""A training that runs out of memory: it resumes with a smaller micro batch, or fails before the first step with what to change."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mistral_lib.run import Run, files, system_memory
from mistral_lib.training import out_of_memory, train, training_log
from tests.support.disturbed_training import at_forward, events, log_of


def test_out_of_memory_at_step_3_ends_complete_with_the_same_effective_batch(opened: Callable[..., Run]) -> None:
    run = opened(micro_batch_size=4)
    undisturbed = train.train(run)
    first = [step["loss"] for step in training_log.steps(log_of(run))]
    shutil.rmtree(run.folder / "training")
    with at_forward(lambda n: n == 4):  # the first pass is the trial of the fullest batch
        result = train.train(run)
    assert run.status("training") == "complete" and result["effective_batch"] == 4
    assert (result["micro_batch_size"], result["gradient_accumulation_steps"], result["out_of_memory"]) == (2, 2, 1)
    assert [event["from_step"] for event in events(run, "started")] == [0, 2]
    assert "out of memory" in events(run, "out_of_memory")[0]["why"]
    assert [step["loss"] for step in training_log.steps(log_of(run))] == pytest.approx(first, rel=1e-3)
    assert result["validation_loss"]["adapter"] == pytest.approx(undisturbed["validation_loss"]["adapter"], rel=1e-3)


def test_a_training_that_does_not_fit_fails_before_the_first_step_and_says_what_to_change(opened: Callable[..., Run]) -> None:
    run = opened(micro_batch_size=4, learning_rate=4e-3)
    with at_forward(lambda n: True), pytest.raises(out_of_memory.OutOfMemory, match=r"activation_checkpointing.*max_tokens.*instance"):
        train.train(run)
    assert [event["micro_batch_size"] for event in events(run, "out_of_memory")] == [2, 1]
    assert run.status("training") == "failed" and not events(run, "step") and not events(run, "validation")


def test_shortages_of_memory_are_distinguished_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as real:
        torch.empty(2**50, dtype=torch.float64)
    assert out_of_memory.is_shortage(real.value)
    with pytest.raises(MemoryError) as plain:
        bytearray(2**60)
    assert out_of_memory.is_shortage(plain.value)
    with pytest.raises(RuntimeError) as shapes:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not out_of_memory.is_shortage(shapes.value)


def test_halving_keeps_the_product() -> None:
    for micro, accumulation in ((8, 1), (6, 2), (3, 5), (7, 1)):
        shape = out_of_memory.BatchShape(micro, accumulation)
        while shape is not None:
            assert shape.micro_batch_size * shape.gradient_accumulation_steps == micro * accumulation
            last, shape = shape, shape.smaller()
            assert shape is None or shape.micro_batch_size <= last.micro_batch_size / 2
        assert last.micro_batch_size == 1


def test_a_kill_counts_as_out_of_memory_only_with_evidence(tmp_path: Path) -> None:
    began = {"event": "process", "time": time.time(), **out_of_memory.counters()}
    stepping = {"event": "step", "time": time.time()}

    def note(left: float) -> None:
        files.write_json(tmp_path / ".progress.json", {"time": time.time(), "memory_left": left})

    def since(**fewer: int) -> dict:
        return {**began, "kernel_kills": {name: kills - fewer.get(name, 0) for name, kills in began["kernel_kills"].items()}}

    assert out_of_memory.killed_for_memory([began, stepping], tmp_path) is None
    one_more = since(**{system_memory.MACHINE: 1})
    assert "lack of memory" in out_of_memory.killed_for_memory([one_more, stepping], tmp_path), "the process had not reached a forward pass"
    assert out_of_memory.killed_for_memory([{**one_more, "boot": "another"}, stepping], tmp_path) is None
    assert out_of_memory.killed_for_memory([one_more, stepping, {"event": "failed"}], tmp_path) is None
    note(0.6)
    assert out_of_memory.killed_for_memory([one_more, stepping], tmp_path) is None, "the kernel killed another program"
    note(0.2)
    assert "lack of memory" in out_of_memory.killed_for_memory([one_more, stepping], tmp_path)
    assert out_of_memory.killed_for_memory([began, stepping], tmp_path) is None
    note(0.01)
    assert "1.0% of the memory left" in out_of_memory.killed_for_memory([began, stepping], tmp_path)
    assert not out_of_memory.made_progress([began, stepping]) and out_of_memory.made_progress([began, {"event": "checkpoint"}])
