"""The false AWS for all tests here, a bucket in it, and stub programs on PATH."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mistral_lib.on_machine.bucket.object_store import Store, client
from mistral_lib.on_machine.folders import Folders
from tests.support.aws_stand_in import REGION, FalseAws, aws

__all__ = ["aws"]

BUCKET, PREFIX = "mistral-workbook-tests", "runs/quick/"


@pytest.fixture
def store(aws: FalseAws) -> Store:
    """An empty prefix in a new bucket."""
    s3 = client("s3", REGION)
    s3.create_bucket(Bucket=BUCKET)
    return Store(s3, BUCKET, PREFIX)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    """The folders of a machine below the test's own folder."""
    found = Folders(tmp_path / "base", tmp_path / "run", tmp_path / "units")
    for place in (found.base, found.runtime, found.units, found.home):
        place.mkdir()
    return found


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """`program(name, script)`: a program in the shell's language, found on PATH before any other; its calls are in the returned file."""
    place = tmp_path / "programs"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")

    def make(name: str, script: str = "") -> Path:
        calls = place / f"{name}.calls"
        calls.touch()
        (place / name).write_text(f'#!/bin/bash\nprintf "%s\\n" "$*" >> {calls}\n{script}\n')
        (place / name).chmod(0o755)
        return calls

    return make
