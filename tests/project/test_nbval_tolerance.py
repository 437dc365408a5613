"""The regression test of the notebooks is itself tested: wrong outputs fail, correct ones pass."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from mistral_lib.run import hardware, paths
from tests.support.nbval_tolerance import Tolerant

SOURCE = "print('kept 7880 records')\nprint('loss 2.5687')"
TRUE = "kept 7880 records\nloss 2.5687\n"


def nbval(folder: Path, stored: str, count: int | None = 1, **metadata: str) -> int:
    """The exit status of nbval with our tolerance on a notebook of one cell with this stored output."""
    cell = nbformat.v4.new_code_cell(SOURCE, execution_count=count, outputs=[nbformat.v4.new_output("stream", name="stdout", text=stored)])
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=metadata), folder / "x.ipynb")
    command = [sys.executable, "-m", "pytest", "--nbval", "-p", "tests.support.nbval_tolerance", "-p", "no:cacheprovider"]
    return subprocess.run([*command, str(folder / "x.ipynb")], cwd=paths.project(), capture_output=True).returncode


@pytest.mark.parametrize(
    ("stored", "passes"),
    [
        (TRUE, True),
        (TRUE.replace("2.5687", "2.5698"), True),  # another processor's rounding
        (TRUE.replace("7880", "7881"), False),  # a changed count
        (TRUE.replace("2.5687", "2.6971"), False),  # a loss off by 5 %
        (TRUE.replace("kept", "lost"), False),  # a changed word
    ],
)
def test_nbval_fails_on_a_wrong_output(tmp_path: Path, stored: str, passes: bool) -> None:
    assert (nbval(tmp_path, stored) == 0) == passes


def test_outputs_of_another_compute_type_are_not_compared(tmp_path: Path) -> None:
    here = hardware.choose_dtype()[0]
    other = "float32" if here != "float32" else "bfloat16"
    assert nbval(tmp_path, TRUE.replace("2.5687", "2.6971"), compute_type=other) == 0
    assert nbval(tmp_path, TRUE.replace("2.5687", "2.6971"), compute_type=here) != 0


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("loss -0.368", "loss -0.369", True),
        ("loss -0.368", "loss 0.368", False),
        ("a   1\nb   2", "a 1\nb 2", True),
        ("1.5 2.5", "1.5", False),
        ("0.0", "0.01", False),
        ("12 of 13", "12 of 14", False),
        ("nan", "0.0", False),
    ],
)
def test_the_tolerance(one: str, two: str, same: bool) -> None:
    assert (Tolerant(one) == two) is same and (Tolerant(two) == one) is same
