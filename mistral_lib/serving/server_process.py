"""A server in a process of its own: started, watched until it answers, and stopped so that neither process nor port is left.

The process gets its key as the first line of its stdin, which then stays open: it ends when the process at the other end does, whatever ended
that. Knows processes, ports and logs; knows nothing of models.
"""

import fcntl
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mistral_lib.run import paths
from mistral_lib.run.progress import say
from mistral_lib.serving.endpoint import Endpoint, EndpointError

LOOPBACK = "127.0.0.1"
FIRST_PORT, PORTS = 8001, 100
FAULT = "fault: "  # begins the line of a server's log that says in words for people why it could not start
GRACE = 30.0  # seconds for running requests when a server is stopped
TO_EXIT = 10.0  # seconds more until a server that does not end is killed
PATIENCE = 900.0  # seconds to load a model: 14 GB from a new network disk take minutes
POLL = 5.0  # seconds for an answer to "are you ready?": another program may listen there and say nothing
SPOKEN_AFTER = 10.0  # seconds of loading without a word
TAIL = 6  # last lines of a log in an error


class ServerError(RuntimeError):
    """A server that cannot start, or that has ended; the message says why and what to do."""


class PortInUseError(ServerError):
    """Another process listens on the requested port."""


@dataclass
class RunningServer:
    """A server on this machine. A context manager, which stops it at the end."""

    url: str  # http://127.0.0.1:8001
    alias: str
    key: str = field(repr=False)
    log: Path
    process: subprocess.Popen = field(repr=False)
    log_from: int = 0  # where in the log this server begins, bytes

    @property
    def pid(self) -> int:
        return self.process.pid

    @cached_property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.url, self.key)

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def output(self) -> str:
        """What it has printed."""
        with open(self.log, "rb") as file:
            file.seek(self.log_from)
            return file.read().decode(errors="replace")

    def wait_until_ready(self, seconds: float = PATIENCE) -> None:
        """Until it answers under its alias. Errors: ServerError if it ends before, or is not ready in time: it is then stopped."""
        began, spoken = time.monotonic(), False
        try:
            while not self._answers():
                waited = time.monotonic() - began
                if waited > seconds:
                    raise ServerError(
                        f"{self.alias}: still not ready after {waited:.0f} s; its log is {paths.short(self.log)}{self.tail()}"
                    )
                if waited > SPOKEN_AFTER and not spoken:
                    spoken = True
                    say(f"{self.alias}: loading; its log is {paths.short(self.log)}")
                time.sleep(0.05)
        except BaseException:
            self.stop(0)
            raise

    def _answers(self) -> bool:
        """Errors: ServerError if the process has ended."""
        if not self.is_alive():
            raise self.ended()
        poll = Endpoint(self.url, self.key, seconds=POLL)
        try:
            return poll.health() == "ready" and self.alias in poll.models()
        except EndpointError:
            return False

    def ended(self) -> ServerError:
        """Why the process ended, by its own words, else by its exit status and last lines."""
        status, output = self.process.wait(), self.output()
        if faults := [line.removeprefix(FAULT) for line in output.splitlines() if line.startswith(FAULT)]:
            return ServerError(f"{self.alias}: {faults[-1]}")
        words = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        if status == -signal.SIGKILL:
            words += ", as the kernel does if memory is short"
        return ServerError(f"{self.alias}: the server {words}; its log is {paths.short(self.log)}{self.tail()}")

    def tail(self) -> str:
        lines = self.output().splitlines()[-TAIL:]
        return "".join(f"\n  {line[:300]}" for line in lines)

    def stop(self, seconds: float = GRACE) -> None:
        """End it; running requests may take `seconds` more. Its port is free afterwards."""
        if self.is_alive():
            self.process.terminate()
            try:
                self.process.wait(seconds + TO_EXIT)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                self.process.kill()
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # processes that it started and left
        self.process.wait()
        with suppress(BrokenPipeError):
            self.process.stdin.close()

    close = stop

    def __enter__(self) -> "RunningServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(command: Sequence[str], port: int, alias: str, key: str, logs: Path) -> RunningServer:
    """Start a server on this machine; it loads when this returns. command: `python -m` a module that calls `read_key` and `until_stopped`.
    logs: the folder of its log, <port>.log, which is continued."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{port}.log"
    with open(log, "ab") as out:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out, stderr=out, cwd=paths.project(), start_new_session=True)
        began = out.tell()
    with suppress(BrokenPipeError):  # it has ended already; its log says why
        process.stdin.write(f"{key}\n".encode())
        process.stdin.flush()
    return RunningServer(f"http://{LOOPBACK}:{port}", alias, key, log, process, began)


# -- ports ---------------------------------------------------------------------------------------------------------------


def free_port(first: int = FIRST_PORT) -> int:
    """The first port from `first` on that nobody listens on. Errors: PortInUseError."""
    for port in range(first, first + PORTS):
        if is_free(port):
            return port
    raise PortInUseError(f"ports {first} to {first + PORTS - 1} are all in use; choose another one with --port")


def require_free(port: int) -> None:
    """Errors: PortInUseError; ValueError if it is no port that a user's process can have."""
    if not 1024 <= port <= 65535:
        raise ValueError(f"port {port}: expected 1024 to 65535")
    if not is_free(port):
        raise PortInUseError(
            f"port {port} is in use by another process; choose another one, or leave --port out: the first free one from {FIRST_PORT} on is taken"
        )


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: connections that have just ended do not count
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


# -- inside the server's process -----------------------------------------------------------------------------------------


def read_key() -> str:
    """The first line of stdin; no byte more is read. Errors: EOFError."""
    line = sys.stdin.buffer.raw.readline().decode().strip()
    if not line:
        raise EOFError("no key on stdin: this module is started by `serve`")
    return line


@contextmanager
def ending_with_stdin() -> Iterator[None]:
    """In this block the process ends at once, also inside a library that holds Python's lock, when the other end of stdin closes.

    The kernel then sends SIGIO, whose default action ends the process; on macOS it does nothing. Source: fcntl(2), signal(7)
    """
    flags = fcntl.fcntl(0, fcntl.F_GETFL)
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, flags | os.O_ASYNC)
    try:
        yield
    finally:
        fcntl.fcntl(0, fcntl.F_SETFL, flags)


def until_stopped(ended: Callable[[], bool] | None = None) -> None:
    """Return at SIGTERM or SIGINT, when the other end of stdin closes, or when `ended` says so. A second signal ends the process at once."""
    reader, writer = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(writer, b"."))
    while not (ended and ended()):
        ready, _, _ = select.select([0, reader], [], [], 0.2 if ended else None)
        if reader in ready or (0 in ready and not os.read(0, 1024)):
            break
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
