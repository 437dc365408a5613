"""A supervised command: its output and exit code, and that all its processes end when the caller stops it or is killed."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

from mistral_lib.engine import supervised
from mistral_lib.engine.supervised import Supervised

# A command with a child in a session of its own, as a trainer is; both print `saved` when they get SIGTERM.
FAMILY = textwrap.dedent("""
    import signal, subprocess, sys, time
    def save(*_):
        print(sys.argv[1], "saved", flush=True)
        sys.exit(3)
    signal.signal(signal.SIGTERM, save)
    if sys.argv[1] == "parent":
        subprocess.Popen([sys.executable, sys.argv[0], "child"], start_new_session=True)
    print(sys.argv[1], "runs", flush=True)
    time.sleep(60)
""")


def until(true: Callable[[], bool], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


def family(folder: Path) -> list[str]:
    (folder / "family.py").write_text(FAMILY)
    return [str(folder / "family.py"), "parent"]


def test_its_output_is_in_the_log_and_its_exit_code_is_returned(tmp_path: Path) -> None:
    for code in (0, 5):
        child = Supervised(["-c", f"print('done'); exit({code})"], tmp_path / "log", os.environ)
        assert child.wait(30) == code == child.wait(0), "asked again, it says the same"
    assert (tmp_path / "log").read_text() == "done\ndone\n", "the log is continued"
    killed = Supervised(["-c", "import os; os.kill(os.getpid(), 9)"], tmp_path / "log", os.environ)
    assert killed.wait(30) == -signal.SIGKILL


def test_stopped_all_its_processes_save(tmp_path: Path) -> None:
    child, log = Supervised(family(tmp_path), tmp_path / "log", os.environ), tmp_path / "log"
    assert until(lambda: log.exists() and "parent runs" in log.read_text() and "child runs" in log.read_text())
    assert child.wait(0) is None and child.stop() == 3
    assert sorted(log.read_text().splitlines()[2:]) == ["child saved", "parent saved"]


def test_a_process_that_does_not_end_is_killed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(supervised, "STOP_SECONDS", 0.3)
    deaf = subprocess.Popen(
        [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE,
    )
    deaf.stdout.readline()
    supervised.stop_all(deaf)
    assert deaf.returncode == -signal.SIGKILL


def test_if_the_caller_is_killed_all_its_processes_save(tmp_path: Path) -> None:
    log = tmp_path / "log"
    code = f"import os, time; from mistral_lib.engine.supervised import Supervised; child = Supervised({family(tmp_path)}, {str(log)!r}, os.environ); time.sleep(60)"
    caller = subprocess.Popen([sys.executable, "-c", code])
    assert until(lambda: log.exists() and "parent runs" in log.read_text() and "child runs" in log.read_text())
    caller.kill()
    caller.wait()
    assert until(lambda: log.read_text().count("saved") == 2), log.read_text()
