"""The first process of a sandboxed machine: a private view of the file system, the stub programs, then the user data.

Started by machine_sandbox.py in new mount, PID and UTS namespaces, as `python machine_root.py <folder>`. In the folder: settings.json, and
opt, etc, run, tmp, home, which the machine sees as its own. Everything else of the file system is read-only for it.
"""

import contextlib
import ctypes
import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from machine_programs import NAMES, SOCKET
from service_manager import Manager

READ_ONLY, BIND, REMOUNT, RECURSIVE = 1, 4096, 32, 16384
OWN = {"opt": "/opt", "etc": "/etc", "run": "/run", "tmp": "/tmp", "var_tmp": "/var/tmp", "home": "/home"}
STUBS = Path("/opt/machine-stubs")
PLACES = ("/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), flags, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} at {target}: {os.strerror(number)}")


def bind(descriptor: int, target: str) -> None:
    mount(f"/proc/self/fd/{descriptor}", target, flags=BIND | RECURSIVE)


def private_view(folder: Path, prefixes: list[str]) -> None:
    """The machine's own folders, and the two places of Python at their paths even if those are hidden now, or were not for all."""
    own = {place: os.open(folder / name, os.O_PATH) for name, place in OWN.items()}
    kept = {prefix: os.open(prefix, os.O_PATH) for prefix in prefixes}
    closed = {private_parent(prefix) for prefix in prefixes} - {None}
    for place, descriptor in own.items():
        bind(descriptor, place)
    for place in closed:
        mount("tmpfs", place, "tmpfs", options="mode=755,size=1m")
    for prefix, descriptor in kept.items():
        if not Path(prefix).exists():
            Path(prefix).mkdir(parents=True, exist_ok=True)
            bind(descriptor, prefix)
    mount("proc", "/proc", "proc")
    mount("", "/", flags=BIND | REMOUNT | READ_ONLY)


def private_parent(prefix: str) -> str | None:
    """The topmost folder above that only its owner may enter, such as /root."""
    return next((str(place) for place in reversed(Path(prefix).parents) if not place.stat().st_mode & 0o001), None)


def install_stubs(settings: dict) -> None:
    """The stubs come first on PATH, and take the place of the real programs, which would act on this computer."""
    STUBS.mkdir()
    text = settings["programs"].replace("@PREPARED@", settings["prepared"]).replace("@BASE_PYTHON@", settings["base_python"])
    for name in NAMES:
        stub = STUBS / name
        stub.write_text(f"#!{settings['base_python']} -ES\n{text}")
        stub.chmod(0o755)
        for real in (Path(place, name) for place in PLACES):
            if name != "python3" and real.is_file() and not real.is_symlink():
                mount(str(stub), str(real), flags=BIND)


class Machine:
    """Writes down what the programs are asked, and does what systemctl and shutdown ask for."""

    def __init__(self, failures: dict[str, int]):
        self.events = open("/run/events.jsonl", "a")  # noqa: SIM115
        self.failures, self.manager, self.lock = failures, Manager(), threading.Lock()

    def note(self, program: str, arguments: list[str]) -> None:
        with self.lock:
            self.events.write(json.dumps({"time": time.time(), "program": program, "arguments": arguments}) + "\n")
            self.events.flush()

    def answer(self, program: str, arguments: list[str]) -> dict:
        self.note(program, arguments)
        if self.fails(" ".join([program, *arguments])):
            return {"code": 1, "output": f"{program}: a failure that the test ordered\n"}
        try:
            if program == "systemctl":
                return {"code": 0, "output": self.manager.systemctl(arguments)}
            if program == "shutdown":
                self.shut_down(arguments)
        except (OSError, ValueError, KeyError) as error:
            return {"code": 5, "output": f"{error}\n"}
        return {"code": 0, "output": ""}

    def fails(self, command: str) -> bool:
        with self.lock:
            for begin, left in self.failures.items():
                if command.startswith(begin) and left:
                    self.failures[begin] -= 1
                    return True
        return False

    def shut_down(self, arguments: list[str]) -> None:
        when = next(word for word in arguments if not word.startswith("-"))
        timer = threading.Timer(0.2 if when == "now" else 60 * float(when), self.power_off)
        timer.daemon = True
        timer.start()

    def power_off(self) -> None:
        self.note("power off", [])
        os._exit(0)


def serve(machine: Machine) -> None:
    class Call(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked = json.loads(self.rfile.readline())
            with contextlib.suppress(BrokenPipeError):
                self.wfile.write(json.dumps(machine.answer(asked["program"], asked["arguments"])).encode())

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    server = Server(SOCKET, Call)
    Path(SOCKET).chmod(0o666)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main(folder: Path) -> None:
    settings = json.loads((folder / "settings.json").read_text())
    script = (folder / "user_data.sh").read_text()
    private_view(folder, settings["prefixes"])
    install_stubs(settings)
    machine = Machine(settings["failures"])
    os.environ.clear()
    os.environ.update(settings["environment"], PATH=f"{STUBS}:/usr/sbin:/usr/bin:/sbin:/bin", LANG="C.UTF-8")
    os.chdir("/")
    serve(machine)
    place = Path("/run/user-data.sh")
    place.write_text(script)
    place.chmod(0o700)
    with open("/run/user-data.log", "wb") as log:
        code = subprocess.run(["/bin/bash", str(place)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False).returncode
    machine.note("user data", [str(code)])
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    if child := os.fork():  # the first process reaps orphans; the machine is off when it ends
        while os.wait()[0] != child:
            continue
    else:
        main(Path(sys.argv[1]))
