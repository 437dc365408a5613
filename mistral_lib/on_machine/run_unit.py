"""The run's systemd unit: start it, ask for its state, stop it so that it saves."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mistral_lib.on_machine import programs
from mistral_lib.on_machine.folders import Folders, write_aside
from mistral_lib.on_machine.units import RUN, STOP_SECONDS

ACTIVE = ("active", "activating", "reloading")  # states of a unit


@dataclass(frozen=True)
class RunEnd:
    """How the process ended: by itself with an exit status, or by a signal."""

    exited: bool
    status: str  # exit status, or the name of the signal

    @property
    def exit_code(self) -> int | None:
        return int(self.status) if self.exited and self.status.isdigit() else None

    def __str__(self) -> str:
        return f"exit code {self.status}" if self.exited else f"signal {self.status}"


def start(folders: Folders, variables: Mapping[str, str]) -> None:
    """Start the run. The variables reach it through a file of root that is deleted again. Errors: ProgramError, OSError."""
    start_with(RUN, folders.run_environment, variables)


def start_with(unit: str, file: Path, variables: Mapping[str, str]) -> None:
    """Start a unit whose EnvironmentFile is `file`, which is there only meanwhile. Errors: ProgramError, OSError."""
    lines = [f'{name}="{_escaped(value)}"' for name, value in variables.items()]
    write_aside(file, "\n".join([*lines, ""]).encode(), mode=0o600)
    try:
        programs.output(["systemctl", "start", unit])
    finally:
        file.unlink(missing_ok=True)


def _escaped(value: str) -> str:
    """For an EnvironmentFile's double quotes. Source: systemd.exec(5)."""
    for character in '\\"`$':
        value = value.replace(character, f"\\{character}")
    return value.replace("\n", " ")


def is_active(folders: Folders) -> bool:
    """Whether the run works, or is about to end. Errors: ProgramError."""
    return state(RUN) in (*ACTIVE, "deactivating")


def state(unit: str) -> str:
    """systemd's ActiveState. Errors: ProgramError."""
    return programs.output(["systemctl", "show", unit, "--property=ActiveState", "--value"]).strip()


def end(folders: Folders) -> RunEnd | None:
    """How the run ended since the machine was started; None if it did not."""
    try:
        code, status = folders.run_end.read_text().split()
    except (OSError, ValueError):
        return None
    return RunEnd(code == "exited", status)


def stop(folders: Folders, waiting: Callable[[], None], seconds: float = STOP_SECONDS + 30) -> None:
    """SIGTERM: the training saves after its step. systemd kills what is left after 110 s. waiting: called while it lasts.

    Errors: ProgramError.
    """
    programs.output(["systemctl", "stop", "--no-block", RUN])
    until = time.monotonic() + seconds
    while is_active(folders) and time.monotonic() < until:
        waiting()
        time.sleep(0.5)
