"""Checkpoints on a disk that runs full, and one that is interrupted."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mistral_lib.run import Run, disk, sealed
from mistral_lib.training import checkpoints, train
from tests.support import disks
from tests.support.disturbed_training import after_step, events


def sealed_folder(place: Path, text: str = "weights") -> Path:
    with checkpoints.new_checkpoint(place, 1, "one") as new:
        (new / "weights").write_text(text)
    return place


def damaged_folder(place: Path) -> Path:
    (sealed_folder(place) / "weights").write_text("half")
    return place


def test_the_last_checkpoint_is_the_complete_one_with_the_most_steps(tmp_path: Path) -> None:
    assert checkpoints.last_complete(tmp_path) is None
    for step in (9, 100, 20):
        sealed_folder(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-200").mkdir()
    damaged_folder(tmp_path / "checkpoint-300")
    assert checkpoints.last_complete(tmp_path) == tmp_path / "checkpoint-100" and checkpoints.step_of(tmp_path / "checkpoint-100") == 100


def test_tidying_keeps_the_two_newest_and_what_is_not_a_checkpoint(tmp_path: Path) -> None:
    for step in (9, 100, 20, 3):
        sealed_folder(tmp_path / f"checkpoint-{step}")
    for name in ("checkpoint-200", ".checkpoint-300.partial", "best-9", "tensorboard"):
        (tmp_path / name).mkdir()
    checkpoints.tidy(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"checkpoint-100", "checkpoint-20", "best-9", "tensorboard"}
    shutil.rmtree(tmp_path / "checkpoint-20")
    checkpoints.tidy(tmp_path)
    assert (tmp_path / "checkpoint-100").exists()


def test_a_damaged_folder_in_place_is_replaced(tmp_path: Path) -> None:
    damaged_folder(tmp_path / "checkpoint-5")
    assert not sealed.is_complete(tmp_path / "checkpoint-5")
    sealed_folder(tmp_path / "checkpoint-5", "again")
    assert sealed.is_complete(tmp_path / "checkpoint-5") and (tmp_path / "checkpoint-5" / "weights").read_text() == "again"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


class Model:
    """Writes its weights as peft does."""

    def get_nb_trainable_parameters(self) -> tuple[int, int]:
        return 10, 100

    def save_pretrained(self, folder: Path) -> None:
        (folder / "adapter_model.safetensors").write_text("weights")


def test_of_two_best_adapters_the_lower_loss_counts_and_a_new_one_replaces_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoints.best(tmp_path) is None
    counted = []
    monkeypatch.setattr(disk, "adapter_bytes", lambda parameters: counted.append(parameters) or 1)
    checkpoints.keep_best(Model(), tmp_path, 4, 1.5)
    os.replace(tmp_path / "best-4", tmp_path / "kept")
    checkpoints.keep_best(Model(), tmp_path, 6, 1.25)
    os.replace(tmp_path / "kept", tmp_path / "best-4")  # as after a kill before the earlier one was deleted
    assert checkpoints.best(tmp_path) == (tmp_path / "best-6", 6, 1.25)
    sealed_folder(tmp_path / "checkpoint-6")
    (tmp_path / "best-6" / "adapter_model.safetensors").write_text("half")
    assert checkpoints.best(tmp_path) == (tmp_path / "best-4", 4, 1.5), "the other one is damaged"
    checkpoints.keep_best(Model(), tmp_path, 8, 1.0)
    assert set(counted) == {10}, "room for the trainable parameters"
    assert {path.name for path in tmp_path.iterdir()} == {"best-8", "checkpoint-6"} and checkpoints.best(tmp_path)[1:] == (8, 1.0)


def test_without_room_for_a_best_adapter_the_message_names_it_and_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "RESERVE", 2**60)
    with pytest.raises(disk.DiskFullError, match=r"for the best adapter so far, of step 4: .*There is no checkpoint yet\."):
        checkpoints.keep_best(Model(), tmp_path, 4, 1.5)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(disk, "RESERVE", 0)
    sealed_folder(tmp_path / "checkpoint-2")
    monkeypatch.setattr(disk, "RESERVE", 2**60)
    with pytest.raises(disk.DiskFullError, match=r"The checkpoint of step 2 is complete\."):
        checkpoints.keep_best(Model(), tmp_path, 4, 1.5)
    assert checkpoints.KEPT == 2 == disk.CHECKPOINTS - 1, "a third one is written before the oldest is deleted"


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A real file system of 48 MiB below the home."""
    with disks.mounted(home / "runs", 48) as place:
        yield place


def test_a_full_disk_leaves_the_last_good_checkpoint_and_says_so(small_disk: Path, opened: Callable[..., Run]) -> None:
    run = opened(max_steps=8)
    with (
        after_step(3, lambda _: disks.fill(small_disk, 8 * disk.MIB)),
        pytest.raises(disk.DiskFullError, match=r"checkpoint of step 4: .* MiB are needed, .* free .*checkpoint of step 2 is complete"),
    ):
        train.train(run)
    assert run.status("training") == "failed" and "checkpoint of step 2 is complete" in run.entry("training")["error"]
    assert checkpoints.last_complete(run.folder / "training" / "checkpoints").name == "checkpoint-2"
    with pytest.raises(disk.DiskFullError, match="no room on disk for a training"):
        train.train(run)
    (small_disk / "filler").unlink()
    assert train.train(run)["steps"] == 8
    assert [event["from_step"] for event in events(run, "started")] == [0, 2]


def test_a_disk_that_fills_while_a_checkpoint_is_written_loses_nothing(small_disk: Path) -> None:
    place = small_disk / "checkpoints"
    with checkpoints.new_checkpoint(place / "checkpoint-5", 100, "five") as new:
        (new / "weights").write_bytes(b"5" * 1000)
    with (
        pytest.raises(disk.DiskFullError, match=r"for ten: .*checkpoint of step 5 is complete"),
        checkpoints.new_checkpoint(place / "checkpoint-10", 100, "ten") as new,
    ):
        disks.fill(small_disk, 0)
        (new / "weights").write_bytes(b"1" * disk.MIB)
    assert [path.name for path in place.iterdir()] == ["checkpoint-5"] and sealed.is_complete(place / "checkpoint-5")


def test_an_interrupted_checkpoint_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), checkpoints.new_checkpoint(tmp_path / "checkpoint-3", 1, "three") as new:
        (new / "weights").write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
