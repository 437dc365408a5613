"""A small stand-in for systemd: reads the real unit files and does what they say, in a sandbox without cgroups.

It knows ExecStart, ExecStopPost, User, WorkingDirectory, Environment, EnvironmentFile (read again for each command), StandardOutput to a file,
KillSignal, TimeoutStopSec, Restart=on-failure, RestartSec and timers with OnCalendar. A unit's processes are those that carry its
INVOCATION_ID, as a control group would. Not there: dependencies, and the protections (NoNewPrivileges, ProtectSystem, PrivateTmp, …).
"""

import os
import re
import shlex
import signal
import subprocess
import threading
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

UNITS = Path("/etc/systemd/system")
CLEAN_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGPIPE}


def read_unit(path: Path) -> dict[str, list[str]]:
    """Keys of all sections with their values in order."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        key, sign, value = line.partition("=")
        if sign and not line.startswith(("#", ";", "[")):
            found.setdefault(key.strip(), []).append(value.strip())
    return found


class Service:
    """One service; `state` is systemd's ActiveState."""

    def __init__(self, name: str):
        self.name, self.state, self.invocation = name, "inactive", ""
        self.process: subprocess.Popen | None = None
        self.stopping = False
        self.ended = threading.Event()

    @property
    def unit(self) -> dict[str, list[str]]:
        return read_unit(UNITS / self.name)

    def value(self, key: str, default: str = "") -> str:
        return self.unit.get(key, [default])[-1]

    def start(self) -> None:
        if self.state in ("active", "deactivating"):
            return
        self.invocation, self.stopping = uuid.uuid4().hex, False
        self.ended.clear()
        self.process = self.spawn(self.value("ExecStart"), {}, as_user=True)
        self.state = "active"
        threading.Thread(target=self.wait, daemon=True).start()

    def wait(self) -> None:
        """Until the main process ends; then the rest of the unit is ended, and ExecStopPost runs."""
        code = self.process.wait()
        self.state = "deactivating"
        self.end_all()
        exited = code >= 0
        status = str(code) if exited else signal.Signals(-code).name.removeprefix("SIG")
        for command in self.unit.get("ExecStopPost", []):
            self.spawn(command, {"EXIT_CODE": "exited" if exited else "killed", "EXIT_STATUS": status}, as_user=False).wait()
        failed = code > 0 or (code < 0 and -code not in CLEAN_SIGNALS)
        self.state = "failed" if failed and not self.stopping else "inactive"
        self.ended.set()
        if self.state == "failed" and self.value("Restart") == "on-failure":
            time.sleep(float(self.value("RestartSec", "0.1")))
            if not self.stopping:
                self.start()

    def spawn(self, command: str, more: dict[str, str], as_user: bool) -> subprocess.Popen:
        variables = {**os.environ, **self.environment(), **more, "INVOCATION_ID": self.invocation}
        words = [word for text in shlex.split(command.lstrip("+-")) for word in expanded(text.replace("%%", "%"), variables)]
        user, output = self.value("User") if as_user else "", self.value("StandardOutput").removeprefix("append:")
        out = open(output, "ab") if output else subprocess.DEVNULL  # noqa: SIM115
        who = {"user": user, "group": user, "extra_groups": []} if user else {}
        try:
            return subprocess.Popen(words, env=variables, cwd=self.value("WorkingDirectory") or "/", stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, **who)  # fmt: skip
        finally:
            if output:
                out.close()

    def environment(self) -> dict[str, str]:
        found = dict(word.split("=", 1) for line in self.unit.get("Environment", []) for word in shlex.split(line))
        for name in self.unit.get("EnvironmentFile", []):
            path = Path(name.lstrip("-"))
            if path.exists() or not name.startswith("-"):
                found |= dict(word.split("=", 1) for line in path.read_text().splitlines() for word in shlex.split(line))
        return found

    def processes(self) -> list[int]:
        mark, found = f"INVOCATION_ID={self.invocation}".encode(), []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self.invocation and mark in path.read_bytes().split(b"\0"):
                    found.append(int(path.parent.name))
            except OSError:
                continue
        return found

    def kill(self, number: int) -> None:
        for pid in self.processes():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def end_all(self) -> None:
        """KillSignal to all, and SIGKILL after TimeoutStopSec to what is left."""
        until = time.monotonic() + float(self.value("TimeoutStopSec", "90"))
        self.kill(signal.Signals[self.value("KillSignal", "SIGTERM")])
        while self.processes() and time.monotonic() < until:
            time.sleep(0.1)
        self.kill(signal.SIGKILL)

    def stop(self) -> None:
        self.stopping = True
        if self.state == "active":
            self.state = "deactivating"
            self.end_all()
        if self.state != "inactive":
            self.ended.wait(timeout=200)


class Timer:
    """A timer with OnCalendar as a date and time in UTC."""

    def __init__(self, name: str, start: object):
        self.name, self.start_service, self.state, self._timer = name, start, "inactive", None

    def start(self) -> None:
        unit = read_unit(UNITS / self.name)
        moment = datetime.strptime(unit["OnCalendar"][-1], "%Y-%m-%d %H:%M:%S UTC").replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
        if seconds > 0:  # a moment in the past never comes
            self._timer = threading.Timer(seconds, self.start_service, [unit["Unit"][-1]])
            self._timer.daemon = True
            self._timer.start()
        self.state = "active"

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.state = "inactive"


def expanded(word: str, variables: dict[str, str]) -> list[str]:
    """systemd's rules: a word $NAME becomes words, ${NAME} is replaced in place, $$ is a dollar."""
    if re.fullmatch(r"\$\w+", word):
        return variables.get(word[1:], "").split()
    return [re.sub(r"\$\{(\w+)\}|\$\$", lambda found: variables.get(found[1], "") if found[1] else "$", word)]


class Manager:
    """What `systemctl` asks for."""

    def __init__(self) -> None:
        self.known: dict[str, Service | Timer] = {}

    def of(self, name: str) -> Service | Timer:
        name = name if "." in name else f"{name}.service"
        if not (UNITS / name).is_file():
            raise FileNotFoundError(f"Unit {name} not found.")
        if name not in self.known:
            self.known[name] = Timer(name, lambda service: self.of(service).start()) if name.endswith(".timer") else Service(name)
        return self.known[name]

    def systemctl(self, arguments: list[str]) -> str:
        """Errors: FileNotFoundError for an unknown unit, ValueError for what this stand-in does not know."""
        options = [word for word in arguments if word.startswith("-")]
        verb, *names = [word for word in arguments if not word.startswith("-")]
        units = [self.of(name) for name in names]
        if verb in ("daemon-reload", "enable", "disable"):
            return ""
        if verb == "show":
            return f"{units[0].state}\n"
        if verb not in ("start", "stop", "restart", "kill"):
            raise ValueError(f"the stand-in for systemctl does not know {verb}")
        for unit in units:
            if verb == "kill":
                number = next((word.partition("=")[2] for word in options if word.startswith("--signal=")), "SIGTERM")
                unit.kill(signal.Signals[number])
                continue
            if verb in ("stop", "restart"):
                work = threading.Thread(target=unit.stop, daemon=True)
                work.start()
                if "--no-block" not in options:
                    work.join()
            if verb in ("start", "restart"):
                unit.start()
        return ""
