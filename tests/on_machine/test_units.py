"""The systemd units: valid for systemd, without rights that the run does not need."""

import shutil
import subprocess
from datetime import UTC, datetime

import pytest

from mistral_lib.on_machine import install, units
from mistral_lib.on_machine.folders import Folders

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
