"""This computer is killed while it sends a run: `list` shows what exists, the same command resumes, `down` leaves nothing."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mistral_lib.instance import listing, removal
from mistral_lib.run import files
from tests.support import rented
from tests.support.aws_stand_in import FalseAws

HANGS_UP = {"code.tar.gz": 1, "params.yaml": 1, "corpora/small/red.jsonl": 1, "job.json": 1}


def run(aws: FalseAws, params_file: Path) -> subprocess.Popen:
    """`instance run` as a process of its own, the tracked files as they are."""
    command = [sys.executable, "-m", "mistral_lib", "instance", "run", str(params_file), "--dirty"]
    return subprocess.Popen(command, env=os.environ | aws.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture
def params_file(corpus: Path, home: Path) -> Path:
    files.write_text(home / "small.yaml", "run_name: small\ncorpus_paths: [corpora/small]\nretention_paths: []\n")
    return home / "small.yaml"


@pytest.mark.parametrize("moment", HANGS_UP)
def test_killed_at_any_upload_the_same_command_resumes_and_down_leaves_nothing(aws: FalseAws, params_file: Path, moment: str) -> None:
    record = rented.rent()
    running: list[subprocess.Popen] = []

    def kill(asked: Any) -> None:
        if asked.path.endswith(moment) and running and running[0].poll() is None:
            os.kill(running[0].pid, signal.SIGKILL)

    aws.before("s3", "PutObject", kill, times=None)
    running.append(run(aws, params_file))
    running[0].communicate(timeout=300)
    assert running[0].returncode == -signal.SIGKILL
    shown = listing.text()
    assert record.machine in shown and record.bucket in shown
    aws.recover()
    again = run(aws, params_file)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert json.loads(rented.get(record, "job.json"))["run"] == "small"
    assert removal.down("small", yes=True, delete_results=True) == 0
    assert record.machine not in listing.text()
