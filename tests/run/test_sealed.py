"""A folder is complete or does not exist: after interruptions, kills, alterations and replacements."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mistral_lib.run import sealed


def write(place: Path, text: str) -> None:
    with sealed.new_folder(place) as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "text").write_text(text)
        (folder / "empty").touch()
        sealed.seal(folder)


def test_a_folder_is_hidden_until_it_is_complete(tmp_path: Path) -> None:
    place = tmp_path / "part"
    with sealed.new_folder(place) as folder:
        (folder / "text").write_text("first")
        assert not place.exists() and folder == sealed.partial(place) and folder.name.startswith(".")
        assert not sealed.is_complete(folder)
        sealed.seal(folder)
    assert sealed.is_complete(place) and (place / "text").read_text() == "first" and list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize(
    "damage",
    [
        lambda place: (place / "inner" / "text").write_text("First"),
        lambda place: (place / "inner" / "text").unlink(),
        lambda place: (place / "empty").unlink(),
        lambda place: (place / sealed.FILES).unlink(),
        lambda place: (place / sealed.FILES).write_text((place / sealed.FILES).read_text()[:-9]),
    ],
    ids=["altered", "missing", "empty file missing", "no list", "half a list"],
)
def test_a_damaged_folder_is_not_complete(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    write(tmp_path / "part", "first")
    assert sealed.is_complete(tmp_path / "part")
    damage(tmp_path / "part")
    assert not sealed.is_complete(tmp_path / "part")


def test_an_exception_leaves_the_earlier_folder_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "part", "first")
    with pytest.raises(KeyboardInterrupt), sealed.new_folder(tmp_path / "part") as folder:
        (folder / "text").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [tmp_path / "part"] and sealed.is_complete(tmp_path / "part")


def test_an_earlier_folder_is_deleted_or_moved(tmp_path: Path) -> None:
    write(tmp_path / "part", "first")
    write(tmp_path / "part", "second")
    assert sealed.is_complete(tmp_path / "part") and (tmp_path / "part" / "inner" / "text").read_text() == "second"
    with sealed.new_folder(tmp_path / "part", previous=tmp_path / "previous" / "part") as folder:
        (folder / "text").write_text("third")
    assert (tmp_path / "previous" / "part" / "inner" / "text").read_text() == "second" and not sealed.is_complete(tmp_path / "part")


def test_a_killed_writer_leaves_a_complete_folder_or_none(tmp_path: Path) -> None:
    code = (
        f"import sys; from pathlib import Path; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\nfrom tests.run.test_sealed import write\n"
        f"for number in range(10**6): write(Path({str(tmp_path / 'part')!r}), str(number) * 100_000); print(number, flush=True)"
    )
    for pause in (0.0, 0.013, 0.029):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "0\n"
        time.sleep(pause)
        process.kill()
        process.wait()
        assert not (tmp_path / "part").exists() or sealed.is_complete(tmp_path / "part")
    write(tmp_path / "part", "last")
    assert sealed.is_complete(tmp_path / "part") and list(tmp_path.iterdir()) == [tmp_path / "part"]
