"""A command with a log file. All its processes end when the caller stops it or ends itself: by SIGTERM, so that a training saves.

A process of its own stands between the two, because a caller that is killed can do nothing more.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

STOP_SECONDS = 110  # after SIGTERM, for a checkpoint; then SIGKILL
POLL_SECONDS = 0.2


class Supervised:
    """The caller's side. words: the arguments of Python."""

    def __init__(self, words: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        command = [sys.executable, "-m", __name__, str(log), *words]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(environment))
        self._process.wait()  # what supervises is its child: a caller that ends its own children does not end that one
        self._code: int | None = None

    def wait(self, seconds: float) -> int | None:
        """The exit code of the command, negative for a signal; None if it still runs after so many seconds."""
        if self._code is None and select.select([self._process.stdout], [], [], seconds)[0]:
            self._code = int(self._process.stdout.readline() or -signal.SIGKILL)
        return self._code

    def stop(self) -> int | None:
        """Stop all its processes and wait for them."""
        self._process.stdin.close()
        return self.wait(STOP_SECONDS + 10)


def supervise(log: Path, words: Sequence[str]) -> None:
    """Run the command until it ends or until stdin is closed, and print its exit code."""
    if os.fork():
        os._exit(0)
    os.setsid()  # an interrupt at the terminal is for the caller
    signal.pthread_sigmask(signal.SIG_SETMASK, ())  # Ray's workers block SIGINT
    with open(log, "ab") as out:
        child = subprocess.Popen([sys.executable, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    while child.poll() is None:
        if select.select([sys.stdin], [], [], POLL_SECONDS)[0]:
            stop_all(child)
    try:
        print(child.returncode, flush=True)
    except BrokenPipeError:  # the caller has ended
        os._exit(0)


def stop_all(child: subprocess.Popen) -> None:
    """SIGTERM to the command and all its descendants, such as kernels and trainers; SIGKILL to those that do not end."""
    own = psutil.Process(child.pid)
    family = [*own.children(recursive=True), own]
    for process in family:
        _send(process, signal.SIGTERM)
    child_code = _reaped(child)
    _, left = psutil.wait_procs([process for process in family if process.pid != child.pid], timeout=STOP_SECONDS)
    for process in left:
        _send(process, signal.SIGKILL)
    if child_code is None:
        child.kill()
    child.wait()


def _reaped(child: subprocess.Popen) -> int | None:
    try:
        return child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        return None


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


if __name__ == "__main__":
    supervise(Path(sys.argv[1]), sys.argv[2:])
