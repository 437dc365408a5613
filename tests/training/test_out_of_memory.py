"""A training that runs out of memory: it resumes with a smaller micro batch, or fails before the first step with what to change."""

import errno
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mistral_lib.run import Run, files, system_memory
from mistral_lib.run.settings import Settings
from mistral_lib.training import out_of_memory, train, training_log
from tests.support.disturbed_training import at_forward, events, log_of


@pytest.mark.parametrize(
    ("shape", "smaller"),
    [((8, 1), (4, 2)), ((6, 2), (3, 4)), ((9, 1), (3, 3)), ((10, 3), (5, 6)), ((15, 1), (5, 3)), ((7, 2), (1, 14)), ((2, 1), (1, 2)), ((1, 8), None)],
)  # fmt: skip
def test_the_next_micro_batch_is_the_largest_divisor_up_to_half(shape: tuple[int, int], smaller: tuple[int, int] | None) -> None:
    found = out_of_memory.BatchShape(*shape).smaller()
    assert found == (smaller and out_of_memory.BatchShape(*smaller)) and str(out_of_memory.BatchShape(*shape)) == f"{shape[0]} x {shape[1]}"


class Log:
    """Keeps what is written to a training's log."""

    def __init__(self) -> None:
        self.events: list[dict] = []

    def write(self, event: str, **facts: object) -> None:
        self.events.append({"event": event, **facts})


def test_a_smaller_shape_is_logged_and_taken_again_for_the_same_request() -> None:
    settings, log = Settings(micro_batch_size=4, gradient_accumulation_steps=3), Log()
    requested = out_of_memory.requested_shape(settings)
    first = out_of_memory.shrunk(requested, "no memory", settings, log)
    second = out_of_memory.shrunk(first, "none again", settings, log)
    assert log.events == [
        {"event": "out_of_memory", "why": "no memory", "was": "4 x 3", "requested": "4 x 3", "micro_batch_size": 2, "gradient_accumulation_steps": 6,
         "activation_checkpointing": False},
        {"event": "out_of_memory", "why": "none again", "was": "2 x 6", "requested": "4 x 3", "micro_batch_size": 1, "gradient_accumulation_steps": 12,
         "activation_checkpointing": False},
    ]  # fmt: skip
    events = [{"event": "started"}, *log.events, {"event": "step"}]
    assert out_of_memory.shape_now(settings, events) == second == out_of_memory.BatchShape(1, 12)
    assert out_of_memory.shape_now(settings, events[:2]) == first and out_of_memory.shape_now(settings, []) == requested
    other = Settings(micro_batch_size=2, gradient_accumulation_steps=6)
    assert out_of_memory.shape_now(other, events) == out_of_memory.BatchShape(2, 6), "another request is tried as it is"
    with pytest.raises(out_of_memory.OutOfMemoryError, match=r"^why; a single block of max_tokens = 64 does not fit\. In this order: "):
        out_of_memory.shrunk(second, "why", Settings(max_tokens=64), log)
    assert len(log.events) == 2


def test_the_advice_leaves_out_what_is_set_already() -> None:
    last = "lower max_tokens (now 64; the data are prepared again); choose an instance with more memory"
    advice = {(on, quantization): out_of_memory.advice(Settings(max_tokens=64, activation_checkpointing=on, quantization=quantization))
              for on in (True, False) for quantization in ("nf4", "none")}  # fmt: skip
    assert advice[True, "nf4"] == f"In this order: {last}"
    assert advice[False, "nf4"] == f"In this order: set activation_checkpointing: true; {last}"
    assert advice[True, "none"] == f"In this order: set quantization: nf4; {last}"
    assert advice[False, "none"] == f"In this order: set activation_checkpointing: true; set quantization: nf4; {last}"


@pytest.mark.parametrize(
    ("error", "shortage"),
    [(MemoryError(), True), (torch.OutOfMemoryError("CUDA"), True), (OSError(errno.ENOMEM, "no memory"), True), (OSError(errno.EIO, "out of memory"), False),
     (RuntimeError("[enforce] can't allocate memory: 8 bytes"), True), (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), True),
     (RuntimeError("DefaultCPUAllocator: not enough memory"), True), (RuntimeError("shapes"), False), (ValueError("out of memory"), False)],
)  # fmt: skip
def test_what_counts_as_out_of_memory(error: Exception, shortage: bool) -> None:
    assert out_of_memory.is_shortage(error) is shortage


def test_an_error_is_described_by_its_first_line() -> None:
    assert out_of_memory.describe(RuntimeError("out of memory\nmore")) == "RuntimeError: out of memory"
    assert out_of_memory.describe(MemoryError()) == "MemoryError: no memory left"
    assert out_of_memory.describe(RuntimeError("x" * 400)) == "RuntimeError: " + "x" * 300


def retried(*results: object, together: bool = False) -> tuple[list[object], object]:
    """(reasons given to `shrink`, result or error) of attempts with these results in turn."""
    left, reasons = list(results), []

    def attempt() -> object:
        result = left.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    try:
        return reasons, out_of_memory.retry_on_out_of_memory(attempt, reasons.append, together)
    except Exception as error:
        return reasons, error


def test_an_attempt_is_repeated_until_memory_suffices(monkeypatch: pytest.MonkeyPatch) -> None:
    released = []
    monkeypatch.setattr(out_of_memory.allocator, "release_unused_memory", lambda: released.append(1))
    assert retried("done") == ([], "done") and not released
    assert retried(MemoryError("a"), RuntimeError("out of memory: b"), "done") == (
        ["MemoryError: a", "RuntimeError: out of memory: b"],
        "done",
    )
    assert len(released) == 2
    none_left, other = out_of_memory.OutOfMemoryError("out of memory: none left"), RuntimeError("shapes")
    assert retried(none_left) == ([], none_left) and retried(other) == ([], other) and retried(OSError(5, "x"), "done")[0] == []
    alone, shared = MemoryError("a"), out_of_memory.SharedShortageError("in process 1")
    assert retried(alone, "done", together=True) == ([], alone), "the other processes have not seen it"
    assert retried(shared, "done", together=True) == (["SharedShortageError: in process 1"], "done")


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict:
    """The kernel's counters and the boot, which a test may change."""
    facts = {"boot": "b1", "kills": {system_memory.MACHINE: 3, "/group": 5}}
    monkeypatch.setattr(system_memory, "boot", lambda: facts["boot"])
    monkeypatch.setattr(system_memory, "kernel_kills", lambda: facts["kills"])
    return facts


def test_evidence_of_a_kill_for_lack_of_memory_exactly_at_its_limits(kernel: dict, tmp_path: Path) -> None:
    began, step = {"event": "process", **out_of_memory.counters()}, {"event": "step"}
    assert out_of_memory.counters() == {"boot": "b1", "kernel_kills": {system_memory.MACHINE: 3, "/group": 5}}

    def why(machine: int = 3, group: int = 5, left: float | None = None, events: tuple = (began, step)) -> str | None:
        kernel["kills"] = {system_memory.MACHINE: machine, "/group": group}
        files.write_json(tmp_path / ".progress.json", {} if left is None else {"memory_left": left})
        return out_of_memory.killed_for_memory(list(events), tmp_path)

    assert why() is None and why(left=0.9) is None
    assert why(group=6, left=0.9) == "the process was killed while step, and the kernel has killed for lack of memory (/group)"
    assert "(/group)" in why(machine=4, group=6, left=0.9), "its own group says more than the machine"
    assert why(machine=4, left=0.25) is None and f"({system_memory.MACHINE})" in why(machine=4, left=0.2499)
    assert f"({system_memory.MACHINE})" in why(machine=4), "without a note nothing speaks against it"
    assert why(left=0.05) is None
    assert (
        why(left=0.049, events=(began, {"event": "loading"}, step))
        == "the process was killed while step, without an error, with 4.9% of the memory left"
    )
    assert why(group=6, events=()) is None and why(group=6, events=(step,)) is None
    for word in ("stopping", "failed", "verified"):
        assert why(group=6, events=(began, {"event": word}, step)) is None
    assert why(group=6, events=({**began, "boot": "b0"}, step)) is None
    assert why(group=6, events=({"event": "process", "boot": "b1"}, step)) is None, "a counter that was not noted has not risen"
    assert why(group=6, events=({"event": "process"}, step)) is None


def test_only_the_last_attempt_counts(kernel: dict, tmp_path: Path) -> None:
    """A kill in a second attempt, after a first one that had failed and made a checkpoint."""
    began = {"event": "process", **out_of_memory.counters()}
    first, second = [began, {"event": "checkpoint"}, {"event": "failed"}], [began, {"event": "loading"}]
    kernel["kills"] = {system_memory.MACHINE: 4, "/group": 6}
    assert out_of_memory.killed_for_memory(first, tmp_path) is None
    why = out_of_memory.killed_for_memory([*first, *second], tmp_path)
    assert "while loading" in why and out_of_memory.last_attempt([*first, *second]) == second
    assert out_of_memory.made_progress(first) and not out_of_memory.made_progress([*first, *second])
    assert out_of_memory.last_attempt([]) == [] == out_of_memory.last_attempt([{"event": "step"}]) and not out_of_memory.made_progress([])
    kernel["kills"] = {system_memory.MACHINE: 3, "/group": 5}
    assert out_of_memory.killed_for_memory([*second, *first[:2], *second], tmp_path) is None
    settings = Settings(base_model="mine/model")
    with pytest.raises(out_of_memory.OutOfMemoryError, match=r"^killed: loading mine/model needs more memory than there is; "):
        out_of_memory.refuse_if_loading("killed", [*first, *second], settings)
    out_of_memory.refuse_if_loading("killed", [*second, {"event": "step"}], settings)
    out_of_memory.refuse_if_loading(None, second, settings)


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
    with at_forward(lambda n: True), pytest.raises(out_of_memory.OutOfMemoryError, match=r"activation_checkpointing.*max_tokens.*instance"):
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
