"""The key file: made once, complete, for its owner alone; what makes it unusable is said without the key."""

import os
import stat
import subprocess
import threading
from pathlib import Path

import pytest

from mistral_lib.serving import access_key
from mistral_lib.serving.access_key import KeyFileError

KEY = "a-key-that-no-message-may-hold"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def with_mode(path: Path, rights: int, text: str = f"{KEY}\n") -> Path:
    path.write_text(text)
    path.chmod(rights)
    return path


def test_a_key_is_made_on_first_use_and_kept(home: Path) -> None:
    place = access_key.place("one")
    key = access_key.read_or_make(place)
    assert len(key) >= 43 and access_key.read_or_make(place) == access_key.read(place) == key
    assert access_key.read_or_make(access_key.place("two")) != key, "each run has its own"


def test_only_its_owner_may_read_it_whatever_the_umask(home: Path) -> None:
    before = os.umask(0)
    try:
        access_key.read_or_make(place := access_key.place("one"))
    finally:
        os.umask(before)
    assert mode(place) == 0o600 and mode(place.parent) == 0o700
    assert [path.name for path in place.parent.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize("rights", [0o640, 0o604, 0o620, 0o610, 0o777])
def test_a_file_that_others_can_read_is_refused(home: Path, rights: int) -> None:
    place = with_mode(access_key.place("one"), rights)
    with pytest.raises(KeyFileError, match=f"{rights:04o}.*chmod 600 .*one.key") as refused:
        access_key.read_or_make(place)
    assert KEY not in str(refused.value) and place.read_text() == f"{KEY}\n", "it is not replaced silently"


@pytest.mark.parametrize("text", ["", "\n", f"{KEY} {KEY}\n", "schlüssel\n", "\x00\x01\n"])
def test_a_file_without_a_usable_key_is_refused(home: Path, text: str) -> None:
    place = with_mode(access_key.place("one"), 0o600, text)
    with pytest.raises(KeyFileError, match="expected one key without blanks; delete it") as refused:
        access_key.read(place)
    assert KEY not in str(refused.value)


def test_a_missing_file_is_named(home: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.key: no such key file; `serve` makes one"):
        access_key.read(home / "nowhere.key")


def test_all_that_start_at_once_get_the_same_key(home: Path) -> None:
    place, keys, together = access_key.place("one"), [], threading.Barrier(8)

    def start() -> None:
        together.wait()
        keys.append(access_key.read_or_make(place))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8 and set(keys) == {access_key.read(place)}
    assert sorted(path.name for path in place.parent.iterdir()) == [".gitignore", "one.key"]


def test_a_failure_leaves_neither_a_key_nor_a_part_of_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    place = access_key.place("one")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        access_key.read_or_make(place)
    assert [path.name for path in place.parent.iterdir()] == [".gitignore"]


def test_git_does_not_see_it_in_a_clone(home: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=home, check=True)
    access_key.read_or_make(access_key.place("one"))
    seen = subprocess.run(["git", "status", "--porcelain", "--untracked-files=all"], cwd=home, check=True, capture_output=True, text=True)
    assert seen.stdout == ""
