"""What a training survives, what it refuses, and when it ends: memory, disk, broken numbers, budgets.

The trainings run in this process, so that PyTorch's own hooks can make a real forward pass or optimizer step go wrong.
"""

import math
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from datasets import load_from_disk
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from mistral_lib.display import run_estimate
from mistral_lib.preparation import stage_inputs
from mistral_lib.run import Run, disk, files, params, system_memory
from mistral_lib.training import checkpoints, largest_batch, out_of_memory, stopping_rules, train, training_log, workload
from mistral_lib.training.training_log import TrainingLog
from tests.conftest import rows


@pytest.fixture(scope="module")
def prepared_once(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose data stage is complete."""
    from mistral_lib.preparation import prepare

    home = tmp_path_factory.mktemp("survival")
    for domain in ("red", "green"):
        files.write_json_lines(home / "corpora" / "small" / f"{domain}.jsonl", rows(domain, 120))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRAL_WORKBOOK_HOME", str(home))
        small = params.Settings(
            run_name="small", corpus_paths=["corpora/small"], operatives_paths=[], base_model=tiny_model, max_tokens=128, max_steps=6,
            checkpoint_every_steps=2, validate_every_steps=0, learning_rate=5e-3, validation_share=0.15, test_share=0.15,
            max_validation_tokens=1024, quantization="none", dtype="float32",
        )  # fmt: skip
        run = Run.open(small)
        prepare.prepare(run)
    return run.folder


@pytest.fixture
def opened(prepared_once: Path, home: Path) -> Iterator[Callable[..., Run]]:
    """Opens a copy of the prepared run with some parameters changed; signal handlers are put back afterwards."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    shutil.copytree(prepared_once, home / "runs" / "small")

    def open_(**changes: object) -> Run:
        settings = Run.existing(home / "runs" / "small").settings
        return Run.open(params.validate({**settings.model_dump(), **changes}))

    yield open_
    for number, handler in handlers.items():
        signal.signal(number, handler)


def log_of(run: Run) -> list[dict]:
    return files.read_json_lines(run.folder / "training" / "log.jsonl")


def events(run: Run, kind: str) -> list[dict]:
    return [event for event in log_of(run) if event["event"] == kind]


@contextmanager
def at_forward(fails: Callable[[int], bool]) -> Iterator[None]:
    """PyTorch runs out of memory in those training passes (1, 2, ...) for which `fails` says so."""
    passes = 0

    def hook(module: torch.nn.Module, inputs: object, output: object) -> None:
        nonlocal passes
        if type(module).__name__ == "MistralModel" and module.training:
            passes += 1
            if fails(passes):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def after_step(number: int, act: Callable[[torch.optim.Optimizer], None]) -> Iterator[None]:
    """Do something right after the optimizer's n-th step."""
    done = 0

    def hook(optimizer: torch.optim.Optimizer, *_: object) -> None:
        nonlocal done
        done += 1
        if done == number:
            act(optimizer)

    handle = register_optimizer_step_post_hook(hook)
    try:
        yield
    finally:
        handle.remove()


# -- memory ---------------------------------------------------------------------------------------------------------


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


def test_what_does_not_fit_fails_before_the_first_step_and_says_what_to_change(opened: Callable[..., Run]) -> None:
    run = opened(micro_batch_size=4, learning_rate=4e-3)
    with at_forward(lambda n: True), pytest.raises(out_of_memory.OutOfMemory, match=r"activation_checkpointing.*max_tokens.*instance"):
        train.train(run)
    assert [event["micro_batch_size"] for event in events(run, "out_of_memory")] == [2, 1]
    assert run.status("training") == "failed" and not events(run, "step") and not events(run, "validation")


def test_shortages_of_memory_are_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as real:
        torch.empty(2**50, dtype=torch.float64)
    assert out_of_memory.recognised(real.value)
    with pytest.raises(MemoryError) as plain:
        bytearray(2**60)
    assert out_of_memory.recognised(plain.value)
    with pytest.raises(RuntimeError) as shapes:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not out_of_memory.recognised(shapes.value)


def test_halving_keeps_the_product() -> None:
    for micro, accumulation in ((8, 1), (6, 2), (3, 5), (7, 1)):
        shape = out_of_memory.BatchShape(micro, accumulation)
        while shape is not None:
            assert shape.micro_batch_size * shape.gradient_accumulation_steps == micro * accumulation
            last, shape = shape, shape.smaller()
            assert shape is None or shape.micro_batch_size <= last.micro_batch_size / 2
        assert last.micro_batch_size == 1


def test_a_kill_counts_as_want_of_memory_only_with_evidence(tmp_path: Path) -> None:
    began = {"event": "process", "time": time.time(), **out_of_memory.counters()}
    stepping = {"event": "step", "time": time.time()}

    def note(left: float) -> None:
        files.write_json(tmp_path / ".progress.json", {"time": time.time(), "memory_left": left})

    def since(**fewer: int) -> dict:
        return {**began, "kernel_kills": {name: kills - fewer.get(name, 0) for name, kills in began["kernel_kills"].items()}}

    assert out_of_memory.killed_for_memory([began, stepping], tmp_path) is None
    one_more = since(**{system_memory.WHOLE_MACHINE: 1})
    assert "lack of memory" in out_of_memory.killed_for_memory([one_more, stepping], tmp_path), "it had not come to a forward pass"
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


# -- data and numbers -----------------------------------------------------------------------------------------------


def test_data_that_teach_nothing_are_refused_each_in_its_own_words(opened: Callable[..., Run]) -> None:
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
    with after_step(4, break_it), pytest.raises(stopping_rules.Diverged, match=r"NaN or infinite by step 4.*checkpoint-2.*learning_rate"):
        train.train(run)
    assert run.status("training") == "failed"
    assert checkpoints.last_whole(run.folder / "training" / "checkpoints").name == "checkpoint-2"
    assert train.train(run)["status"] == "complete", "from the last good checkpoint"


def test_as_many_steps_and_measurements_are_made_as_are_planned_where_passes_end_within_a_step(opened: Callable[..., Run]) -> None:
    passes = {"max_steps": 0, "epochs": 2.0, "micro_batch_size": 8, "gradient_accumulation_steps": 5}
    run = opened(**passes, validate_every_steps=4)
    blocks = len(load_from_disk(run.folder / "data" / "train"))
    assert 1 <= blocks % 40 <= 20, "or rounding over both passes at once would come to the same"
    result, work = train.train(run), workload.work_of(run.settings)
    estimate = run_estimate.Estimate(run.settings, work, (1.0, 2.0))
    planned = dict(estimate.rows())["steps"].split(" of ")[0]
    assert result["steps"] == work.steps == int(planned) == workload.steps(run.settings, blocks) == 2 * math.ceil(blocks / 40)
    least, most = workload.measurements(work.validations)
    assert work.validations == len(result["validation_curve"]) == 2 and least <= len(events(run, "measuring")) <= most == 5


def test_broken_steps_are_left_out_and_counted_and_too_many_end_the_training(opened: Callable[..., Run]) -> None:
    run = opened()
    with infinite_at(lambda n: n == 4):  # the trial, steps 1 and 2, and then step 3
        result = train.train(run)
    assert (result["status"], result["skipped_steps"], result["steps"]) == ("complete", 1, 6)
    assert [event["step"] for event in events(run, "skipped")] == [3]
    assert [step["step"] for step in training_log.steps(log_of(run))] == [1, 2, 4, 5, 6]
    run = opened(max_steps=40)
    with infinite_at(lambda n: n > 4), pytest.raises(stopping_rules.Diverged, match=r"8 steps in a row.*Lower learning_rate"):
        train.train(run)
    assert run.status("training") == "failed" and len(events(run, "skipped")) == 7


@contextmanager
def infinite_at(wanted: Callable[[int], bool]) -> Iterator[None]:
    """The embeddings are infinite in those training passes (1, 2, ...) that `wanted` names."""
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
    health = stopping_rules.Health(params.Settings(), steps=100, worst=10.0)
    for step in range(7):
        health.step(step, 15.0)
    health.step(7, 11.0)
    with pytest.raises(stopping_rules.Diverged, match=r"the 8th in a row.*worse than guessing"):
        [health.step(step, 15.0) for step in range(8, 16)]


# -- the best adapter, and the end ----------------------------------------------------------------------------------


def test_the_best_adapter_is_the_one_that_is_saved_and_patience_has_an_end(opened: Callable[..., Run]) -> None:
    run = opened(max_steps=30, validate_every_steps=1, early_stopping_patience=2, learning_rate=0.3, warmup_share=0.0)
    result = train.train(run)
    curve = {int(step): loss for step, loss in result["validation_curve"].items()}
    assert result["stopped_by"] == "early_stopping" and result["steps"] < 30 and run.status("training") == "complete"
    assert result["adapter_of_step"] == min(curve, key=curve.get) == result["steps"] - 2
    assert result["validation_loss"]["adapter"] == pytest.approx(min(curve.values()), rel=1e-3)
    assert result["validation_loss"]["adapter_reloaded"] == pytest.approx(min(curve.values()), rel=1e-3)
    best = [event["step"] for event in events(run, "validation") if event.get("best")]
    assert best[-1] == result["adapter_of_step"]


def test_a_budget_ends_it_verified_and_a_raised_one_goes_on(opened: Callable[..., Run]) -> None:
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


def test_a_finished_training_is_verified_again_and_not_trained_again_where_nothing_that_is_trained_changed(
    opened: Callable[..., Run],
) -> None:
    run = opened(checkpoint_every_steps=4)
    first = train.train(run)
    assert workload.measurements(workload.work_of(run.settings).validations) == (3, 3) and len(events(run, "measuring")) == 3
    weights = run.folder / "training" / "adapter" / "adapter_model.safetensors"
    trained = files.sha256(weights)
    TrainingLog(run.folder / "training" / "log.jsonl").write(
        "step", step=6, steps=6, loss=2.0, peak_memory_mib=10**6
    )  # as if it had been so
    priced = opened(instance="g5.xlarge", checkpoint_every_steps=5)
    assert train.goes_on(run.folder / "training", priced.changes("training", stage_inputs.of(priced, "training")))
    assert not train.goes_on(run.folder / "training", ["learning_rate: 0.005 became 0.004"])
    again = train.train(priced)
    shutil.rmtree(weights.parent)
    repaired = train.train(priced)
    with priced.lock("test"):
        priced.record("training", status="running")  # as a kill after result.json was written leaves it
    last = train.train(priced)
    for result in (again, repaired, last):
        assert result["validation_loss"] == first["validation_loss"] and result["steps"] == 6 and priced.status("training") == "complete"
    assert last["peak_memory_mib"] == 10**6, "the most of all attempts"
    assert again["usd"] > 0 and files.sha256(weights) == trained and last["attempts"] == 4
    assert len(events(priced, "step")) == 7 and len(events(priced, "started")) == 4
    kept = sorted(str(path.relative_to(priced.folder / "previous")).partition("/")[2] for path in priced.folder.glob("previous/*/*"))
    assert kept == ["adapter", "adapter", "result.json", "result.json", "result.json"]
    shutil.rmtree(priced.folder / "training" / "checkpoints")
    weights.unlink()
    assert train.train(priced)["attempts"] == 1, "nothing to go on from: trained anew, what was left of it is kept"
    assert files.sha256(weights) == trained and len(list(priced.folder.glob("previous/*/log.jsonl"))) == 1


def test_a_raised_patience_goes_on_and_the_best_adapter_stays_the_best(opened: Callable[..., Run]) -> None:
    wild = {"max_steps": 30, "validate_every_steps": 1, "learning_rate": 0.3, "warmup_share": 0.0}
    first = train.train(opened(**wild, early_stopping_patience=2))
    run = opened(**wild, early_stopping_patience=4, checkpoint_every_steps=5)
    more = train.train(run)
    curve = {int(step): loss for step, loss in more["validation_curve"].items()}
    assert first["stopped_by"] == "early_stopping" and more["steps"] >= first["steps"] + 1
    assert [event["from_step"] for event in events(run, "started")] == [0, first["steps"]]
    assert list(curve) == list(range(1, more["steps"] + 1)) and more["adapter_of_step"] == min(curve, key=curve.get)
    assert {str(step): curve[step] for step in range(1, first["steps"] + 1)} == first["validation_curve"]
    assert more["stopped_by"] == ("early_stopping" if more["steps"] < 30 else None)
    saved = [event["step"] for event in events(run, "checkpoint") if event["step"] > first["steps"]]
    assert saved == [step for step in range(first["steps"] + 1, more["steps"] + 1) if step % 5 == 0 or step == more["steps"]]


# -- disk -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A real file system of 48 MiB below the home."""
    place = home / "runs"
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs the right to mount a file system: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, leave: int) -> None:
    """Take all but `leave` bytes of a disk."""
    with open(place / "filler", "wb") as file:
        file.write(b"\0" * (shutil.disk_usage(place).free - leave))


def test_a_full_disk_leaves_the_last_good_checkpoint_and_says_so(small_disk: Path, opened: Callable[..., Run]) -> None:
    run = opened(max_steps=8)
    with (
        after_step(3, lambda _: fill(small_disk, 8 * disk.MIB)),
        pytest.raises(disk.DiskFull, match=r"checkpoint of step 4: .* MiB are needed, .* free .*checkpoint of step 2 is whole"),
    ):
        train.train(run)
    assert run.status("training") == "failed" and "checkpoint of step 2 is whole" in run.entry("training")["error"]
    assert checkpoints.last_whole(run.folder / "training" / "checkpoints").name == "checkpoint-2"
    with pytest.raises(disk.DiskFull, match="no room on disk for a training"):
        train.train(run)
    (small_disk / "filler").unlink()
    assert train.train(run)["steps"] == 8
    assert [event["from_step"] for event in events(run, "started")] == [0, 2]


def test_a_disk_that_fills_while_a_checkpoint_is_written_loses_nothing(small_disk: Path) -> None:
    place = small_disk / "checkpoints"
    with checkpoints.put_in_place(place, "checkpoint-5", 100, "five") as partial:
        (partial / "weights").write_bytes(b"5" * 1000)
    with (
        pytest.raises(disk.DiskFull, match=r"for ten: .*checkpoint of step 5 is whole"),
        checkpoints.put_in_place(place, "checkpoint-10", 100, "ten") as partial,
    ):
        fill(small_disk, 0)
        (partial / "weights").write_bytes(b"1" * disk.MIB)
    assert [path.name for path in place.iterdir()] == ["checkpoint-5"] and checkpoints.is_whole(place / "checkpoint-5")


def test_a_checkpoint_cut_off_in_the_middle_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyError), checkpoints.put_in_place(tmp_path, "checkpoint-3", 1, "three") as partial:
        (partial / "weights").write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
