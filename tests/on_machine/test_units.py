"""The systemd units: valid for systemd, without rights that the run does not need."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mistral_lib.on_machine import install, units
from mistral_lib.on_machine.folders import Folders
from mistral_lib.on_machine.user_data import Place

END = datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_systemd_finds_nothing_wrong(folders: Folders) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed: `make machine-tools` as root")
    for python in (folders.boot_python, folders.python):
        python.parent.mkdir(parents=True)
        python.write_text("#!/bin/sh\n")
        python.chmod(0o755)
    install.write_units(folders, END.timestamp())
    names = [str(folders.units / name) for name in units.texts(folders, END)]
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *names], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "mistral" in line or str(folders.base) in line]
    assert done.returncode == 0 and not said, done.stderr


def test_the_run_has_a_user_of_its_own_and_its_token_only_from_a_file(folders: Folders) -> None:
    text = units.texts(folders, END)[units.RUN]
    assert "User=workbook" in text and "NoNewPrivileges=true" in text
    assert f"EnvironmentFile=-{folders.runtime}/run.env" in text and "HF_TOKEN" not in text
    assert "KillSignal=SIGTERM" in text and "TimeoutStopSec=110" in text and "Restart=no" in text


def test_units_are_written_once_and_again_only_if_the_end_moves(folders: Folders) -> None:
    assert install.write_units(folders, END.timestamp())
    assert not install.write_units(folders, END.timestamp())
    assert install.write_units(folders, END.timestamp() - 60)
    assert "OnCalendar=2031-02-03 04:04:06 UTC" in (folders.units / units.DEADLINE_TIMER).read_text()


@pytest.mark.parametrize("adopted", [False, True])
def test_on_a_machine_of_its_owner_no_unit_begins_at_a_later_start(
    adopted: bool, folders: Folders, program: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    called = program("systemctl")
    monkeypatch.setattr(install, "make_user", lambda folders: None)
    monkeypatch.setattr(install.shutil, "chown", lambda *names: None)
    place = Place("first", "a-bucket", "runs/first/", "us-east-1", "a" * 64, 90, adopted=adopted)
    (folders.base / "place.json").write_text(json.dumps(asdict(place)))
    (folders.base / "started").write_text(str(time.time()))
    install.install(folders)
    every = " ".join(units.ENABLED)
    assert called.read_text().splitlines() == ["daemon-reload", f"{'disable' if adopted else 'enable'} {every}", f"restart {every}"]
