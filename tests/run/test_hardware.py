"""The description of the machine, also before the first run has written anything."""

from pathlib import Path

import pytest

from mistral_lib.run import hardware, paths


def test_before_the_home_exists_the_free_disk_at_its_future_place_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(paths.VARIABLE, str(tmp_path / "new" / "home"))
    there = hardware.describe()
    assert there["disk_free_gib"] > 0 and there["cores"] >= 1
    assert not (tmp_path / "new").exists()
