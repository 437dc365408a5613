"""One training on two machines, as two torchrun processes here: shared storage, the run on the first machine alone, a lost machine."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mistral_lib.run import Run, files
from mistral_lib.training import checkpoints, out_of_memory, train, training_log, training_status
from mistral_lib.training.out_of_memory import BatchShape
from mistral_lib.training.processes import meeting, shared_run
from tests.support.disturbed_training import events
from tests.support.torchrun_nodes import Node, free_port, nodes, until_step

FOUR = {"micro_batch_size": 2, "gradient_accumulation_steps": 1, "max_steps": 4}
TWELVE = {"micro_batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": 12, "checkpoint_every_steps": 3, "validate_every_steps": 6}
SLOW = ("tests.support.disturbed_machine",)
Opened = Callable[..., Run]


def curve(run: Run) -> list[float]:
    steps = training_log.steps(run.folder / "training" / "log.jsonl")
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1)), "one writer, every step once"
    return [step["loss"] for step in steps]


def adapter_loss(run: Run) -> float:
    return files.read_json(run.folder / "training" / "result.json")["validation_loss"]["adapter"]


def pair(run: Run, *homes: Path, **options: object) -> tuple[Node, Node]:
    """Both machines, started; a step takes a third of a second longer."""
    port = free_port()
    options = {"program": SLOW, "STEP_SECONDS": "0.3", **options}
    first, second = (Node(home, f"runs/{run.folder.name}", port, first=number == 0, **options) for number, home in enumerate(homes))
    return first, second


def undisturbed(opened: Opened) -> float:
    """The final validation loss of one process with twice the accumulation; its training is deleted again."""
    run = opened(**{**TWELVE, "gradient_accumulation_steps": 2})
    train.train(run)
    loss = adapter_loss(run)
    shutil.rmtree(run.folder / "training")
    return loss


def require_clean_end(run: Run, words: str) -> None:
    """Interrupted, with a reason, and each checkpoint is complete."""
    now = training_status.status(run)
    assert now.word == "interrupted" and words in now.error and words in training_status.describe(now), now
    place = run.folder / "training" / "checkpoints"
    assert checkpoints.last_complete(place) is not None
    assert all(checkpoints.sealed.is_complete(path) for path in place.glob("checkpoint-*")) and not list(place.glob(".*.partial"))
    assert not (run.folder / "training" / "adapter").exists()


def trained_by_two(run: Run, *homes: Path) -> list[Node]:
    """Both machines to their end; the first home is that of the first machine."""
    port = free_port()
    # the second machine is started first: torchrun gives it rank 0, by its process id
    second, first = (Node(home, f"runs/{run.folder.name}", port, first=home == homes[0]) for home in reversed(homes))
    both = [first, second]
    with nodes(*both):
        codes = [node.wait() for node in both]
    assert codes == [0, 0], "\n".join(node.text() for node in both)
    return both


def test_two_machines_give_the_curve_of_one_process_with_twice_the_accumulation(
    opened: Opened, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    alone = opened(**{**FOUR, "gradient_accumulation_steps": 2})
    train.train(alone)
    expected, loss = curve(alone), adapter_loss(alone)
    shutil.rmtree(alone.folder / "training")

    run, other = opened(**FOUR), tmp_path_factory.mktemp("other")
    both = trained_by_two(run, home, other)
    assert curve(run) == pytest.approx(expected, rel=1e-5) and adapter_loss(run) == pytest.approx(loss, rel=1e-5)
    assert [node.text().count("complete: validation loss") for node in both] == [1, 0]
    assert [path.name for path in other.rglob("*") if path.suffix != ".out"] == ["runs"], "what was sent is deleted at the end"
    assert run.status("training") == "complete" and files.read_json(run.folder / "training" / "result.json")["processes"] == 2
    saved = checkpoints.last_complete(run.folder / "training" / "checkpoints")
    assert {path.name for path in saved.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}


@pytest.mark.long
def test_a_lost_machine_ends_the_other_and_the_same_command_resumes(opened: Opened, home: Path) -> None:
    loss, run = undisturbed(opened), opened(**TWELVE)
    first, second = pair(run, home, home)  # shared storage
    with nodes(first, second):
        until_step(run, 5, first, second)
        second.end()
        assert first.wait() != 0
    require_clean_end(run, "another of the 2 processes has ended")
    again = pair(run, home, home, STEP_SECONDS="0")
    with nodes(*again):
        assert [node.wait() for node in again] == [0, 0], again[0].text()
    assert [event["from_step"] >= 3 for event in events(run, "started")] == [False, True]
    assert adapter_loss(run) == pytest.approx(loss, rel=0.01) and len(curve(run)) == 12
    assert not list((home / "runs").glob(".*")), "nothing was sent"


@pytest.mark.long
def test_the_first_machine_lost_ends_the_other_in_time_and_the_status_says_so(
    opened: Opened, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = opened(**TWELVE)
    first, second = pair(run, home, tmp_path_factory.mktemp("other"), restarts=3)
    with nodes(first, second):
        until_step(run, 5, first, second)
        first.end()
        assert second.wait() != 0
    assert "LostProcess" not in second.text() and "another of the 2 processes has ended" in second.text()
    require_clean_end(run, "was killed")


@pytest.mark.parametrize("kept", ["1", pytest.param("0", marks=pytest.mark.long)])
def test_torchrun_restarts_all_after_a_killed_worker_and_the_training_resumes(
    kept: str, opened: Opened, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    loss, run = undisturbed(opened), opened(**TWELVE)
    first, second = pair(run, home, tmp_path_factory.mktemp("other"), restarts=3, TORCH_DISABLE_SHARE_RDZV_TCP_STORE=kept)
    with nodes(first, second):
        until_step(run, 5, first, second)
        os.kill(second.workers()[0], signal.SIGKILL)
        codes = first.wait(), second.wait()
    assert codes == (0, 0), first.text() + second.text()
    assert [event["from_step"] >= 3 for event in events(run, "started")] == [False, True]
    assert adapter_loss(run) == pytest.approx(loss, rel=0.01) and len(curve(run)) == 12


@pytest.mark.long
def test_a_replaced_machine_joins_and_the_training_resumes(opened: Opened, home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    loss, run = undisturbed(opened), opened(**TWELVE)
    first, second = pair(run, home, tmp_path_factory.mktemp("other"), restarts=3)
    with nodes(first, second):
        until_step(run, 5, first, second)
        second.end()
        time.sleep(3)
        third = Node(tmp_path_factory.mktemp("third"), "runs/small", first.port, first=False, restarts=3, program=SLOW)
        with nodes(third):
            codes = first.wait(), third.wait()
    assert codes == (0, 0), first.text() + third.text()
    assert [event["from_step"] >= 3 for event in events(run, "started")] == [False, True]
    assert adapter_loss(run) == pytest.approx(loss, rel=0.01) and len(curve(run)) == 12


@pytest.mark.long
def test_one_machine_that_is_left_keeps_the_blocks_of_a_step(opened: Opened, home: Path) -> None:
    loss, run = undisturbed(opened), opened(**TWELVE)
    first, second = pair(run, home, home, restarts=3, nodes="1:2")
    with nodes(first, second):
        until_step(run, 5, first, second)
        second.end()
        assert first.wait() == 0, first.text()
    shapes = [(event["processes"], event["gradient_accumulation_steps"]) for event in events(run, "process")]
    assert shapes == [(2, 1), (1, 2)] and adapter_loss(run) == pytest.approx(loss, rel=0.01)


@pytest.mark.long
@pytest.mark.parametrize("still, step", [("second", "1"), ("first", "0.3")])
def test_a_machine_that_falls_silent_ends_the_other_after_a_while(
    still: str, step: str, opened: Opened, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It is stopped, so that no connection is closed: as after a power cut, or a network that is cut."""
    run = opened(**TWELVE)
    first, second = pair(run, home, tmp_path_factory.mktemp("other"), PATIENCE_SECONDS="40", STEP_SECONDS=step)
    silent, other = (first, second) if still == "first" else (second, first)
    with nodes(first, second):
        until_step(run, 5, first, second)
        for pid in [*silent.workers(), silent.process.pid]:
            os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        while other.workers() and time.monotonic() - began < 240:
            time.sleep(0.5)
        assert not other.workers()
        if still == "second":  # torchrun itself waits for its store, which is on the first machine
            assert other.wait() != 0
        else:
            other.end()
        silent.end()
    assert "another of the 2 processes" in other.text()
    require_clean_end(run, "another of the 2 processes" if still == "second" else "was killed")


def test_a_machine_that_differs_ends_all_before_the_first_step(
    opened: Opened, home: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run, other = opened(**TWELVE), tmp_path_factory.mktemp("other")
    old = shutil.copytree(run.folder, other / "runs" / "small")
    text = (old / "params.yaml").read_text()
    (old / "params.yaml").write_text(text.replace("learning_rate: 0.005", "learning_rate: 0.004"))
    assert (old / "params.yaml").read_text() != text
    port = free_port()
    first = Node(home, "runs/small", port, first=True, program=SLOW)
    second = Node(other, "runs/small", port, first=False, program=SLOW, OTHER_VERSION="0.0.9")
    with nodes(first, second):
        assert first.wait() != 0 and second.wait() != 0
    for node in (first, second):
        for words in (
            "process 1 on ",
            "mistral_lib is '0.0.9",
            "learning_rate is 0.004 here and 0.005 on the first machine",
            "delete or rename it",
        ):
            assert words in node.text(), node.text()
    assert events(run, "process") == [] and run.status("training") == "not started"


# -- the same rules without torchrun ---------------------------------------------------------------------------------------


def test_an_old_copy_with_other_data_is_named_and_a_copy_of_the_same_run_is_not(opened: Opened, home: Path) -> None:
    run = opened(**TWELVE)
    facts = shared_run._facts(run)
    shared_run._require_same(run.folder, False, facts)
    name = next(iter(facts["data"]))
    with run.lock("test"):
        outputs = {**run.entry("data")["outputs"], name: {"sha256": "0", "bytes": 1}}
        run.record("data", outputs=outputs)
    with pytest.raises(
        ValueError, match=r"packed data \(data/train\) have other hashes; runs/small on this machine is another run: delete"
    ):
        shared_run._require_same(run.folder, False, facts)
    shared_run._require_same(run.folder, True, facts)  # shared storage: it is the first machine's own folder


def test_the_machine_where_the_run_is_furthest_leads_with_all_its_processes(opened: Opened, tmp_path: Path) -> None:
    run = opened(**TWELVE)
    assert shared_run.standing(tmp_path / "none") == (0, 0, 0) and shared_run.standing(run.folder) == (1, 1, 0)
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]  # machine, process on it
    for standings, order in [
        (((0, 0, 0), (1, 1, 0)), [2, 3, 0, 1]),
        (((1, 1, 3), (1, 1, 0)), [0, 1, 2, 3]),
        (((1, 1, 0), (1, 1, 0)), [0, 1, 2, 3]),
    ]:
        found = [{"machine": machine, "local": local, "standing": list(standings[machine])} for machine, local in places]
        assert meeting.leading_order(found) == order


def test_another_base_model_is_an_error(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened(**TWELVE)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(
        ValueError, match=r"are others \(fingerprint [0-9a-f]{12}\) than on the first machine \(abc\); copy that folder here"
    ):
        shared_run.require_same_base(run, "abc")


@pytest.mark.parametrize("processes, expected", [(1, (2, 6)), (2, (2, 3)), (3, (2, 2)), (4, (1, 3)), (6, (2, 1)), (12, (1, 1))])
def test_another_number_of_processes_keeps_the_blocks_of_a_step(processes: int, expected: tuple[int, int]) -> None:
    log = [{"event": "process", "processes": 2, "micro_batch_size": 2, "gradient_accumulation_steps": 3}]
    shape = out_of_memory.same_blocks_per_step(BatchShape(2, 3), log, processes)
    assert (shape.micro_batch_size, shape.gradient_accumulation_steps) == expected
    with pytest.raises(ValueError, match="2 processes and 12 blocks in a step, which 5 processes cannot share equally"):
        out_of_memory.same_blocks_per_step(BatchShape(2, 3), log, 5)
    assert out_of_memory.same_blocks_per_step(BatchShape(2, 3), [{"event": "process"}], 5) == BatchShape(2, 3)
