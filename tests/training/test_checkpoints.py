"""Checkpoints on a disk that runs full, and one that is interrupted."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mistral_lib.run import Run, disk, sealed
from mistral_lib.training import checkpoints, train
from tests.support.disturbed_training import after_step, events


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
        pytest.raises(disk.DiskFull, match=r"checkpoint of step 4: .* MiB are needed, .* free .*checkpoint of step 2 is complete"),
    ):
        train.train(run)
    assert run.status("training") == "failed" and "checkpoint of step 2 is complete" in run.entry("training")["error"]
    assert checkpoints.last_complete(run.folder / "training" / "checkpoints").name == "checkpoint-2"
    with pytest.raises(disk.DiskFull, match="no room on disk for a training"):
        train.train(run)
    (small_disk / "filler").unlink()
    assert train.train(run)["steps"] == 8
    assert [event["from_step"] for event in events(run, "started")] == [0, 2]


def test_a_disk_that_fills_while_a_checkpoint_is_written_loses_nothing(small_disk: Path) -> None:
    place = small_disk / "checkpoints"
    with checkpoints.new_checkpoint(place / "checkpoint-5", 100, "five") as new:
        (new / "weights").write_bytes(b"5" * 1000)
    with (
        pytest.raises(disk.DiskFull, match=r"for ten: .*checkpoint of step 5 is complete"),
        checkpoints.new_checkpoint(place / "checkpoint-10", 100, "ten") as new,
    ):
        fill(small_disk, 0)
        (new / "weights").write_bytes(b"1" * disk.MIB)
    assert [path.name for path in place.iterdir()] == ["checkpoint-5"] and sealed.is_complete(place / "checkpoint-5")


def test_an_interrupted_checkpoint_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyError), checkpoints.new_checkpoint(tmp_path / "checkpoint-3", 1, "three") as new:
        (new / "weights").write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
