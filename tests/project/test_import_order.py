"""The order of the packages is checked, and the check can fail: an import against the order is refused, inside a function as well."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mistral_lib.run import paths

LINT = Path(sys.executable).with_name("lint-imports")


def lint(folder: Path) -> subprocess.CompletedProcess:
    """import-linter over the copy of the library in a folder."""
    alone = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run([LINT, "--no-cache"], cwd=folder, env=alone, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(paths.project() / "mistral_lib", tmp_path / "mistral_lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(paths.project() / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_library_keeps_the_order(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0 and "0 broken" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("run/files.py", "def load():\n    from mistral_lib.training import train\n", "one direction"),
        ("preparation/prepare.py", "from mistral_lib.evaluation import verdict\n", "one direction"),
        ("training/train.py", "import ipywidgets\n", "widgets stay in display"),
    ],
)
def test_an_import_against_the_order_is_refused(copy: Path, module: str, line: str, contract: str) -> None:
    with open(copy / "mistral_lib" / module, "a") as file:
        file.write(line)
    done = lint(copy)
    assert done.returncode != 0 and f"{contract} BROKEN" in done.stdout, done.stdout
