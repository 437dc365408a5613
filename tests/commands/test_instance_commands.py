"""The command line of a rented machine: every option reaches its work, and nothing is loaded before it is needed."""

import argparse
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from mistral_lib import __main__
from mistral_lib.commands import instance_commands
from mistral_lib.instance.launch_options import StartOptions, UpOptions
from mistral_lib.rented_run.uploading import RunOptions

ACTIONS = ("plan", "up", "start", "run", "watch", "fetch", "lab", "list", "down")
NOT_TYPED = {"usd_before"}  # of RunOptions: `run --retry` counts it


def parsed(*words: str) -> argparse.Namespace:
    return __main__.parser().parse_args(["instance", *words])


def test_all_actions_are_there_with_a_sentence(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    shown = capsys.readouterr().out
    assert all(f"\n    {action} " in shown for action in ACTIONS), shown


@pytest.mark.parametrize(
    ("words", "kind"),
    [(("up", "a.yaml"), UpOptions), (("start", "a.yaml", "i-1"), StartOptions), (("run", "a.yaml"), RunOptions)],
)
def test_each_option_of_the_library_can_be_typed_and_has_the_same_default(words: tuple[str, ...], kind: type) -> None:
    arguments = parsed(*words)
    assert {field.name for field in fields(kind)} - NOT_TYPED <= set(vars(arguments))
    assert instance_commands._options(kind, arguments) == kind()


def test_what_is_typed_reaches_the_options() -> None:
    typed = parsed(
        "up", "a.yaml", "--region", "us-east-1", "--type", "g5.xlarge", "--spot", "--max-hours", "3", "--max-usd", "4", "--dry-run"
    )
    expected = UpOptions(region="us-east-1", type="g5.xlarge", spot=True, max_hours=3.0, max_usd=4.0, dry_run=True)
    assert instance_commands._options(UpOptions, typed) == expected
    typed = parsed("run", "a.yaml", "--only", "02", "03", "--dirty", "--upload-model", "models/a", "--hang-minutes", "5")
    expected = RunOptions(only=["02", "03"], dirty=True, upload_model=Path("models/a"), hang_minutes=5.0)
    assert instance_commands._options(RunOptions, typed) == expected


def test_down_wants_one_run_or_all_said_explicitly() -> None:
    for words in ((), ("small", "--all")):
        with pytest.raises(ValueError, match="expected the name of one run, or --all"):
            instance_commands.down(parsed("down", *words))


@pytest.mark.parametrize("words", [("list",), ("up", "params/quick.yaml", "--type", "g4dn.xlarge", "--region", "us-east-1")])
def test_without_boto3_the_command_that_installs_it_is_named(
    words: tuple[str, ...], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.setattr(sys, "argv", ["mistral_lib", "instance", *words])
    assert __main__.main() == 1
    assert "pip install -e '.[aws]'" in capsys.readouterr().err


def test_without_credentials_the_plan_comes_from_the_shipped_table(home: Path) -> None:
    words = ["-m", "mistral_lib", "instance", "plan", "params/quick.yaml", "--tokens", "100000"]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    files = {"AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_CONFIG_FILE": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true"}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=outside | files)
    assert done.returncode == 0, done.stderr
    assert "g5.xlarge" in done.stdout and "no AWS credentials" in done.stdout and "instance up params/quick.yaml" in done.stdout


def test_the_command_line_starts_without_boto3_and_torch() -> None:
    loaded = "import sys, mistral_lib.__main__ as m; m.parser(); print({'boto3', 'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True).stdout.strip() == "set()"
