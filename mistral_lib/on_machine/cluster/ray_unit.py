"""Ray's systemd unit: its text, start and stop, and whether a head answers. Ray runs as the run's user, in the run's environment."""

import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from mistral_lib.on_machine import programs, run_unit
from mistral_lib.on_machine.cluster import ray_commands
from mistral_lib.on_machine.cluster.ray_commands import AUTHENTICATION, Ports
from mistral_lib.on_machine.folders import USER, Folders, write_aside

RAY = "mistral-ray.service"
STOP_SECONDS = 40  # Ray lets tasks end for 30
ANSWER_SECONDS = 3.0


def text(folders: Folders, worker: bool, ports: Ports = Ports()) -> str:  # noqa: B008  frozen
    """The unit. A worker's output is its run log, which is uploaded; the head's run has that log."""
    command = ray_commands.worker if worker else ray_commands.head
    log = folders.run_log if worker else folders.base / "ray.log"
    return f"""\
[Unit]
Description=Mistral workbook: Ray on {"a worker" if worker else "the head"}

[Service]
Type=exec
User={USER}
WorkingDirectory={folders.home}
Environment=MISTRAL_WORKBOOK_HOME={folders.home} PYTHONUNBUFFERED=1 {AUTHENTICATION}={ray_commands.NO_TOKEN}
EnvironmentFile=-{environment_file(folders)}
ExecStart={command(folders.environment / "bin" / "ray", ray_folder(folders), ports)}
StandardOutput=append:{log}
StandardError=append:{log}
KillMode=control-group
KillSignal=SIGTERM
TimeoutStopSec={STOP_SECONDS}
Restart=no
LimitNOFILE=65536
NoNewPrivileges=true
ProtectSystem=full
ProtectHome=true
PrivateTmp=true
"""


def ray_folder(folders: Folders) -> Path:
    """The same path on every machine; short, since the path of a socket may have 107 characters."""
    return folders.base / "ray"


def environment_file(folders: Folders) -> Path:
    return folders.runtime / "ray.env"


def ready_file(folders: Folders) -> Path:
    """Ray writes it once its node is a part of the cluster."""
    return ray_folder(folders) / "ray_current_cluster"


def install(folders: Folders, worker: bool) -> None:
    """Write the unit and make Ray's folder. Errors: ProgramError, OSError."""
    ray_folder(folders).mkdir(exist_ok=True)
    shutil.chown(ray_folder(folders), USER, USER)
    path, wanted = folders.units / RAY, text(folders, worker)
    if not path.exists() or path.read_text() != wanted:
        write_aside(path, wanted.encode())
        programs.output(["systemctl", "daemon-reload"])


def start(folders: Folders, variables: Mapping[str, str], node: str, head: str) -> None:
    """Start Ray unless it runs. variables: those of the run, which its tasks need as well; node: this machine's address; head: the head's.

    Errors: ProgramError, OSError.
    """
    if is_active():
        return
    ready_file(folders).unlink(missing_ok=True)
    addresses = {ray_commands.NODE: node, ray_commands.HEAD: head_address(head)}
    run_unit.start_with(RAY, environment_file(folders), {**variables, **addresses})


def head_address(head: str) -> str:
    """Where workers and the run connect."""
    return f"{head}:{Ports().head}"


def is_active() -> bool:
    """Errors: ProgramError."""
    return run_unit.state(RAY) in run_unit.ACTIVE


def is_ready(folders: Folders) -> bool:
    """Whether Ray runs and its node is a part of the cluster. Errors: ProgramError."""
    return ready_file(folders).exists() and is_active()


def stop() -> None:
    """Errors: ProgramError."""
    programs.output(["systemctl", "stop", RAY], seconds=STOP_SECONDS + 30)


def answers(head: str, port: int = Ports().head) -> bool:
    """Whether a head's Ray accepts connections."""
    try:
        with socket.create_connection((head, port), timeout=ANSWER_SECONDS):
            return True
    except OSError:
        return False
