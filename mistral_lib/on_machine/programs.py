"""Programs of the machine (systemctl, uv, nvidia-smi, …), found on PATH, with a time limit and an error that shows what they said."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class ProgramError(RuntimeError):
    """A program could not be started, failed, or took too long."""


def output(arguments: Sequence[str], seconds: float = 60.0, any_code: bool = False, environment: Mapping[str, str] | None = None) -> str:
    """What a program prints on stdout. any_code: its exit code is no error. Errors: ProgramError."""
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, errors="replace", timeout=seconds, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProgramError(f"{arguments[0]}: {error}") from None
    if done.returncode and not any_code:
        raise ProgramError(f"`{' '.join(arguments)}` ended with {done.returncode}: {_last(done.stderr or done.stdout)}")
    return done.stdout


def run(
    arguments: Sequence[str], log: Path, check: Callable[[], None], seconds: float, environment: Mapping[str, str] | None = None
) -> None:
    """Run a long program, whose output is appended to `log`. check: called each second; if it raises, the program is ended.

    Errors: ProgramError, and what `check` raises.
    """
    begin = log.stat().st_size if log.exists() else 0
    try:
        with open(log, "ab") as out:
            process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment, start_new_session=True)
    except OSError as error:
        raise ProgramError(f"{arguments[0]}: {error}") from None
    try:
        _wait(process, check, time.monotonic() + seconds)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode:
        said = log.read_bytes()[begin:][-4000:].decode(errors="replace")
        raise ProgramError(f"`{' '.join(arguments[:4])} …` ended with {process.returncode}: {_last(said)}")


def _wait(process: subprocess.Popen, check: Callable[[], None], until: float) -> None:
    while True:
        try:
            process.wait(1.0)
            return
        except subprocess.TimeoutExpired:
            check()
        if time.monotonic() > until:
            raise ProgramError(f"`{process.args[0]} …` is not done in time, process {process.pid} is ended")


def _last(text: str) -> str:
    """The last lines, where the reason stands."""
    return " | ".join(text.strip().splitlines()[-6:]) or "no output"
