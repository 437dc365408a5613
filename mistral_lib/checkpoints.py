"""Checkpoints that are either whole or not used: each gets, last of all, a list of its files with their hashes."""

from pathlib import Path

from mistral_lib import files

SEAL = "whole.json"


def seal(folder: Path) -> None:
    files.write_json(folder / SEAL, files.hashes(folder, folder))


def is_whole(folder: Path) -> bool:
    """Whether every file is there with the hash that it was sealed with."""
    if not (folder / SEAL).is_file():
        return False
    sealed = files.read_json(folder / SEAL)
    now = files.hashes(folder, folder)
    return all(now.get(name) == fact for name, fact in sealed.items())


def step_of(folder: Path) -> int:
    return int(folder.name.rsplit("-", 1)[1])


def last_whole(folder: Path) -> Path | None:
    """The newest checkpoint below `folder` that was written to its end; None if there is none."""
    newest_first = sorted(folder.glob("checkpoint-*"), key=step_of, reverse=True)
    return next((path for path in newest_first if is_whole(path)), None)
