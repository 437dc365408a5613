"""The last step of the user data: the user of the run, the folders, and the systemd units. Safe to run again."""

import shutil
import sys
import time
from datetime import UTC, datetime

from mistral_lib.on_machine import programs, units
from mistral_lib.on_machine.ending import first_end
from mistral_lib.on_machine.folders import USER, Folders, here, write_aside


def install(folders: Folders) -> None:
    """Errors: ProgramError, OSError."""
    make_user(folders)
    for folder in (folders.base, folders.runtime):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
    folders.home.mkdir(exist_ok=True)
    folders.home.chmod(0o750)
    shutil.chown(folders.home, USER, USER)
    ends_at = first_end(folders.started(), folders.place().minutes, time.time())
    write_units(folders, ends_at)
    programs.output(["systemctl", "daemon-reload"])
    # A machine that its owner gets back must not shut down at its next start: there its units belong to this boot alone.
    programs.output(["systemctl", "disable" if folders.place().adopted else "enable", *units.ENABLED])
    programs.output(["systemctl", "restart", *units.ENABLED])  # with the units and the program of now, also if they ran before


def make_user(folders: Folders) -> None:
    """A system user without a login; the run has its rights."""
    if not programs.output(["getent", "passwd", USER], any_code=True):
        shell = shutil.which("nologin", path="/usr/sbin:/sbin") or "/bin/false"
        programs.output(["useradd", "--system", "--user-group", "--home-dir", str(folders.home), "--shell", shell, USER])


def write_units(folders: Folders, ends_at: float) -> bool:
    """Write the units that differ; whether any did. ends_at: seconds since 1970."""
    changed = False
    for name, text in units.texts(folders, datetime.fromtimestamp(ends_at, UTC)).items():
        path = folders.units / name
        if not path.exists() or path.read_text() != text:
            write_aside(path, text.encode())
            changed = True
    return changed


def set_deadline(folders: Folders, ends_at: float) -> None:
    """Move the timer that ends the machine. Errors: ProgramError, OSError."""
    if write_units(folders, ends_at):
        programs.output(["systemctl", "daemon-reload"])
        programs.output(["systemctl", "restart", units.DEADLINE_TIMER])


if __name__ == "__main__":
    sys.exit(install(here()))
