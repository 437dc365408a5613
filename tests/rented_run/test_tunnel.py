"""The tunnel: the program listens on the machine's loopback alone, and without AWS's plugin the exact steps are printed."""

import json
import os
import re
import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from mistral_lib.aws import buckets
from mistral_lib.aws.shell_commands import CommandError
from mistral_lib.instance.records import Record, RecordError
from mistral_lib.rented_run import tunnel
from mistral_lib.rented_run.tunnel import TunnelError
from tests.support import rented
from tests.support.aws_stand_in import FalseAws

ADDRESS = "http://127.0.0.1:8888/lab/tree/workbook/00_start_here.ipynb?token=abc"


@pytest.fixture
def record(aws: FalseAws, home: Path) -> Record:
    record = rented.rent()

    def shell(machine: str, lines: list[str]) -> tuple[int, str]:
        rented.put(record, re.search(r"machine/reach-\w+\.txt", lines[0])[0], f"{ADDRESS}\n".encode())
        return 0, ""

    aws.shell = shell
    return record


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins of `aws` and its plugin that write down their arguments."""
    for name in tunnel.PROGRAMS:
        place = tmp_path / "bin" / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(f'#!/bin/sh\nfor one in "$@"; do printf "%s\\n" "$one"; done > {tmp_path}/{name}.asked\n')
        place.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path


def test_jupyterlab_is_started_there_and_reached_here(record: Record, programs: Path, capsys: pytest.CaptureFixture) -> None:
    port = free_port()
    assert tunnel.lab("small", port=port) == 0
    asked = (programs / "aws.asked").read_text().split("\n")
    assert asked[:2] == ["ssm", "start-session"] and record.machine in asked and tunnel.DOCUMENT in asked
    assert json.loads(asked[asked.index("--parameters") + 1]) == {"portNumber": ["8888"], "localPortNumber": [str(port)]}
    assert ADDRESS.replace("8888", str(port)) in capsys.readouterr().out


def test_the_key_is_in_no_command_and_no_object_of_it_is_left(aws: FalseAws, record: Record, programs: Path) -> None:
    tunnel.lab("small", port=free_port())
    assert not any("token" in row["StandardOutputContent"] + row["StandardErrorContent"] for row in aws.invocations.values())
    assert not [key for key in buckets.listing(record.bucket, record.prefix, record.region) if "reach" in key]
    aws.shell = lambda machine, lines: (0, "")
    with pytest.raises(TunnelError, match="did not arrive in the bucket"):
        tunnel.lab("small", port=free_port())


def test_without_the_plugin_the_steps_are_printed(record: Record, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(tunnel.shutil, "which", lambda name: None)
    assert tunnel.lab("small", port=free_port()) == 1
    shown = capsys.readouterr().out
    assert "1. install aws: https" in shown and "2. install session-manager-plugin: https" in shown
    assert f"aws ssm start-session --region {record.region} --target {record.machine} --document-name {tunnel.DOCUMENT}" in shown


@pytest.mark.parametrize("what", ["jupyter", "served"])
def test_what_runs_on_the_machine_is_valid_shell_as_the_runs_user_and_never_listens_to_the_world(what: str) -> None:
    line, = tunnel.start_lines(tunnel.programs("small")[what], "machine/reach-0.txt")  # fmt: skip
    inside = shlex.split(line)[2]
    assert subprocess.run(["bash", "-n", "-c", inside], capture_output=True).returncode == 0
    assert "--uid=workbook" in inside and "0.0.0.0" not in inside and "--ip" not in inside


def test_a_command_that_fails_or_a_machine_that_is_gone_is_named(aws: FalseAws, record: Record) -> None:
    aws.shell = lambda machine, lines: (1, "No module named jupyterlab\n")
    with pytest.raises(CommandError, match="No module named jupyterlab"):
        tunnel.lab("small", port=free_port())
    rented.end(record)
    with pytest.raises(TunnelError, match="is gone, expected running"):
        tunnel.lab("small")
    with pytest.raises(RecordError):
        tunnel.lab("other")


def test_a_port_that_is_taken_here_is_named_before_anything_starts(aws: FalseAws, record: Record) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(TunnelError, match="in use: give another one with --port"):
            tunnel.lab("small", port=taken.getsockname()[1])
    assert not aws.asked("ssm", "SendCommand")
