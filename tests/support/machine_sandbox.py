"""A machine in a sandbox: executes the generated user data in mount, PID and UTS namespaces, with a file system of its own.

    with machine_sandbox(folder, script, aws.url, metadata.url) as machine:
        machine.wait_until_off(600)

Python and the environment that runs the tests are visible in it, everything but its own /opt, /etc, /run, /tmp and /home is read-only.
The network is the host's, so that it reaches the false AWS on the loopback; its credentials come from the false metadata service alone.
What it has instead of the real programs is listed in machine_programs.py (apt-get, pip, uv, python3, useradd, shutdown, nvidia-smi) and
service_manager.py (systemctl). Needs root and `unshare`.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NEEDED = pytest.mark.skipif(
    os.geteuid() != 0 or not (shutil.which("unshare") and shutil.which("setpriv")),
    reason="the machine's sandbox needs root, unshare and setpriv (namespaces)",
)


@dataclass
class Sandbox:
    """A machine that runs, or was switched off."""

    folder: Path
    process: subprocess.Popen

    @property
    def base(self) -> Path:
        """/opt/mistral-workbook of the machine."""
        return self.folder / "opt" / "mistral-workbook"

    @property
    def is_on(self) -> bool:
        return self.process.poll() is None

    def events(self, program: str = "") -> list[list[str]]:
        """The arguments of each call of a stub program so far; without a name, program and arguments of all calls."""
        lines = [json.loads(line) for line in (self.folder / "run" / "events.jsonl").read_text().splitlines()]
        return [one["arguments"] if program else [one["program"], *one["arguments"]] for one in lines if program in ("", one["program"])]

    def systemctl(self, *arguments: str) -> str:
        """As a person on the machine would call it."""
        run = os.open(self.folder / "run", os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(f"/proc/self/fd/{run}/service-manager.sock")
                connection.sendall(json.dumps({"program": "systemctl", "arguments": list(arguments)}).encode() + b"\n")
                return json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))["output"]
        finally:
            os.close(run)

    def wait_until_off(self, seconds: float) -> None:
        """Errors: TimeoutError with what the machine has written."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the machine is still on after {seconds:g} s\n{self.logs()}") from None

    def power_cut(self) -> None:
        """As if its plug was pulled: every process is killed at once."""
        self.process.kill()
        self.process.wait()

    def logs(self, limit: int = 4000) -> str:
        """The ends of all logs, for the message of a failed test."""
        places = [self.folder / "run" / "user-data.log", *sorted(self.base.glob("*.log")), self.base / "setup.txt"]
        return "\n".join(f"--- {place.name}\n{place.read_text(errors='replace')[-limit:]}" for place in places if place.exists())


@contextmanager
def machine_sandbox(
    folder: Path, user_data: str, aws_url: str, metadata_url: str, environment: Mapping[str, str] | None = None, failures: Mapping[str, int] | None = None
) -> Iterator[Sandbox]:  # fmt: skip
    """Switch a machine on; it is switched off at the end of the block. failures: how often a command that begins so fails."""
    _prepare(folder, user_data, aws_url, metadata_url, environment or {}, failures or {})
    command = "setpriv --pdeathsig KILL unshare --mount --pid --uts --fork --kill-child --propagation private".split()  # noqa: SIM905
    with open(folder / "machine.log", "ab") as log:
        process = subprocess.Popen([*command, sys.executable, str(HERE / "machine_root.py"), str(folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)  # fmt: skip
    machine = Sandbox(folder, process)
    try:
        yield machine
    finally:
        if machine.is_on:
            machine.power_cut()


def _prepare(folder: Path, user_data: str, aws_url: str, metadata_url: str, environment: Mapping[str, str], failures: Mapping[str, int]) -> None:  # fmt: skip
    for name, mode in {"opt": 0o755, "run": 0o755, "tmp": 0o1777, "var_tmp": 0o1777, "home": 0o755}.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name).chmod(mode)
    subprocess.run(["cp", "-a", "/etc", str(folder / "etc")], check=True)
    (folder / "etc" / "systemd" / "system").mkdir(parents=True, exist_ok=True)
    (folder / "run" / "events.jsonl").touch()
    (folder / "user_data.sh").write_text(user_data)
    variables = {
        "AWS_ENDPOINT_URL": aws_url, "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata_url, "NO_PROXY": "127.0.0.1", "MISTRAL_PAUSE_SECONDS": "0",
        **environment,
    }  # fmt: skip
    settings = {
        "environment": variables, "failures": dict(failures), "programs": (HERE / "machine_programs.py").read_text(),
        "prefixes": list(dict.fromkeys([os.path.realpath(sys.base_prefix), sys.base_prefix, sys.prefix])),
        "prepared": sysconfig.get_path("purelib"), "base_python": sys._base_executable,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))


def wait_for(what: str, condition: object, seconds: float, machine: Sandbox) -> None:
    """Until condition() is true. Errors: TimeoutError with the machine's logs; RuntimeError if it is off before."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError(f"{what}: not within {seconds:g} s\n{machine.logs()}")
        if not machine.is_on:
            raise RuntimeError(f"{what}: the machine is off\n{machine.logs()}")
        time.sleep(0.2)
