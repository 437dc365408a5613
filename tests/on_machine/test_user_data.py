"""The script of the first boot and its archive: small, without faults of the shell, the same each time."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mistral_lib.on_machine import user_data
from mistral_lib.on_machine.user_data import Place, UserDataError

PLACE = Place("a-run", "a-bucket", "runs/a-run/", "eu-central-1", "a" * 64, 90)


def test_the_script_fits_into_user_data_and_begins_with_the_time_limit() -> None:
    lines = [line for line in user_data.script(PLACE).splitlines() if line and not line.startswith("#")]
    assert len(user_data.script(PLACE).encode()) < 16_000
    assert lines[0] == "set -euo pipefail" and lines[1].startswith("trap ")
    assert lines[2] == "shutdown -P +90 'mistral-workbook: the time limit of this machine'"


@pytest.mark.parametrize("fails", ["the time limit", "the folder"])
def test_a_machine_whose_first_commands_fail_shuts_down(program: Callable[[str, str], Path], tmp_path: Path, fails: str) -> None:
    calls = program("shutdown", "[[ $2 == now ]]" if fails == "the time limit" else "")
    (tmp_path / "full").touch()  # a file, in which no folder can be made
    variables = {**os.environ, "MISTRAL_MACHINE_FOLDER": str(tmp_path / "full" / "base")}
    done = subprocess.run(["bash", "-c", user_data.script(PLACE)], env=variables, capture_output=True, check=False)
    assert done.returncode != 0
    assert [line.split()[1] for line in calls.read_text().splitlines()] == ["+90", "now"]


def test_a_machine_without_time_is_refused() -> None:
    with pytest.raises(UserDataError, match="--max-hours"):
        user_data.script(Place("r", "b", "p/", "eu-central-1", "a" * 64, 0))


def test_user_data_that_is_too_long_for_ec2_is_refused() -> None:
    with pytest.raises(UserDataError, match="shorten run_name"):
        user_data.script(Place("r" * 16_000, "b", "p/", "eu-central-1", "a" * 64, 5))


def test_shellcheck_finds_nothing(tmp_path: Path) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed: `make machine-tools` as root")
    (tmp_path / "user_data.sh").write_text(user_data.script(PLACE))
    done = subprocess.run(["shellcheck", "--severity=style", tmp_path / "user_data.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_names_cannot_break_out_of_their_quotes(tmp_path: Path) -> None:
    place = Place("it's $(touch /tmp/x) `id`", "b", "p/", "eu-central-1", "a" * 64, 5)
    line = next(line for line in user_data.script(place).splitlines() if line.startswith("printf"))
    subprocess.run(["bash", "-euc", f"base={tmp_path}\n{line}"], check=True)
    assert Place(**__import__("json").loads((tmp_path / "place.json").read_text())) == place


def test_the_archive_is_the_same_each_time_and_runs_without_the_library(tmp_path: Path) -> None:
    packed = user_data.archive()
    assert packed == user_data.archive()
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert all(name == "mistral_lib/__init__.py" or name.startswith("mistral_lib/on_machine/") for name in tar.getnames())
        tar.extractall(tmp_path, filter="data")
    modules = ["agent", "install", "spot", "cluster.worker"]
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); " + "; ".join(f"import mistral_lib.on_machine.{name}" for name in modules)
    outside = f"{code}; print([name for name in sys.modules if name.split('.')[0] in ('torch', 'orjson', 'yaml', 'numpy', 'boto3')])"
    done = subprocess.run([sys.executable, "-I", "-c", outside], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
