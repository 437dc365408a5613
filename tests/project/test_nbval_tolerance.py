"""The regression test of the notebooks is itself tested: wrong outputs fail, correct ones pass."""

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from mistral_lib.run import hardware, paths
from tests.support.nbval_tolerance import Tolerant

SOURCE = "print('kept 7880 records')\nprint('loss 2.5687')"
TRUE = "kept 7880 records\nloss 2.5687\n"


STORED = {
    TRUE: "PASSED",
    TRUE.replace("2.5687", "2.5698"): "PASSED",  # another processor's rounding
    TRUE.replace("7880", "7881"): "FAILED",  # a changed count
    TRUE.replace("2.5687", "2.6971"): "FAILED",  # a loss off by 5 %
    TRUE.replace("kept", "lost"): "FAILED",  # a changed word
}


def nbval(folder: Path, name: str, **metadata: str) -> list[str]:
    """What nbval with our tolerance says of each cell of a notebook whose cells have the outputs of STORED."""
    cells = [
        nbformat.v4.new_code_cell(SOURCE, execution_count=n, outputs=[nbformat.v4.new_output("stream", name="stdout", text=stored)])
        for n, stored in enumerate(STORED, 1)
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), folder / f"{name}.ipynb")
    command = [sys.executable, "-m", "pytest", "-v", "--nbval", "-p", "tests.support.nbval_tolerance", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, str(folder / f"{name}.ipynb")], cwd=paths.project(), capture_output=True, text=True)
    return re.findall(r"::Cell \d+ (PASSED|FAILED)", done.stdout)


def test_nbval_fails_on_a_wrong_output(tmp_path: Path) -> None:
    assert nbval(tmp_path, "x") == list(STORED.values())


def test_outputs_of_another_compute_type_are_not_compared(tmp_path: Path) -> None:
    here = hardware.choose_dtype()[0]
    other = "float32" if here != "float32" else "bfloat16"
    assert nbval(tmp_path, "here", compute_type=here) == list(STORED.values())
    assert nbval(tmp_path, "other", compute_type=other) == ["PASSED"] * len(STORED)


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
