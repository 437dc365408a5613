"""The agent's decisions, with a tiny process in place of the run: why the machine ends, and that its results are uploaded before."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mistral_lib.on_machine import agent, units
from mistral_lib.on_machine.agent import Agent, Pace
from mistral_lib.on_machine.bucket.object_store import Store
from mistral_lib.on_machine.bucket.results_list import Results
from mistral_lib.on_machine.ending import Limits
from mistral_lib.on_machine.folders import Folders
from mistral_lib.on_machine.heartbeat import Facts
from tests.on_machine.conftest import BUCKET, PREFIX
from tests.on_machine.test_preparation import CODE, PARAMS
from tests.support import machine_jobs
from tests.support.aws_stand_in import FalseAws
from tests.support.run_folders import checkpoint, run_folder

FAST = Pace(job=0.05, run=0.05, uploads=0.05, heartbeat=0.2, retry=0.01)
SYSTEMCTL = """
pid=$(cat {state}/pid 2>/dev/null)
case "$*" in
  "start {unit}") ( bash {state}/run.sh & echo $! > {state}/pid; wait $!; code=$?
      if [ $code -ge 128 ]; then echo "killed TERM" > {end}; else echo "exited $code" > {end}; fi; rm {state}/pid ) > {state}/out 2>&1 &
      until [ -e {state}/pid ] || [ -e {end} ]; do sleep 0.01; done ;;
  "show {unit}"*) if [ -n "$pid" ]; then echo active; else echo inactive; fi ;;
  "stop --no-block {unit}"|"kill --signal=SIGTERM {unit}") [ -z "$pid" ] || kill -TERM "$pid" ;;
esac
"""


class Machine:
    """The folders of a machine whose run is a shell script."""

    def __init__(self, folders: Folders, store: Store, program: Callable[..., Path], state: Path):
        self.folders, self.store, self.state = folders, store, state
        self.run_folder = folders.run_folder("quick")
        self.limits = Limits(time.time(), time.time() + 7200)
        for name in ("uv", "chown", "nvidia-smi"):
            program(name)
        self.systemctl = program("systemctl", SYSTEMCTL.format(state=state, unit=units.RUN, end=folders.run_end))
        self.shutdown = program("shutdown")

    def order(self, script: str, **changes: Any) -> None:
        """A run that does this, in its run folder, on SIGTERM too."""
        (self.state / "run.sh").write_text(f"mkdir -p {self.run_folder}; cd {self.run_folder}\n{script}\n")
        machine_jobs.upload_job(self.store, "quick", CODE, PARAMS, **changes)

    def work(self) -> str:
        return Agent(self.folders, self.store, Facts("quick", self.limits), str, FAST).work()

    def status(self) -> dict[str, Any]:
        return json.loads(self.store.read("machine/status.json"))

    def results(self) -> Results:
        return Results.from_json(self.store.read("results.json"))


@pytest.fixture
def machine(folders: Folders, store: Store, program: Callable[..., Path], tmp_path: Path) -> Machine:
    (tmp_path / "state").mkdir()
    return Machine(folders, store, program, tmp_path / "state")


def test_a_run_that_is_done_is_uploaded_before_the_machine_ends(machine: Machine) -> None:
    machine.order("echo result > result.json; sleep 0.3; echo more >> result.json")
    assert machine.work() == "complete"
    status = machine.status()
    assert (status["phase"], status["complete"], status["exit_code"]) == ("ended", True, 0)
    assert machine.results().complete and machine.store.read("results/result.json") == b"result\nmore\n"


def test_a_run_that_fails_is_uploaded_too_and_is_not_complete(machine: Machine) -> None:
    machine.order("echo half > manifest.json; exit 7")
    assert machine.work() == "failed: the run ended with exit code 7"
    assert machine.store.read("results/manifest.json") == b"half\n" and not machine.results().complete
    assert (machine.status()["exit_code"], machine.status()["complete"]) == (7, False)


def test_a_run_that_cannot_be_started_ends_the_machine_with_what_systemd_says(machine: Machine, program: Callable[..., Path]) -> None:
    machine.order("echo never")
    program("systemctl", f"[ \"$*\" != 'start {units.RUN}' ] || {{ echo 'Failed to start: 203/EXEC' >&2; exit 1; }}")
    assert "203/EXEC" in machine.work()
    assert machine.status()["reason"].startswith("failed: the run could not be started")


@pytest.mark.parametrize(
    ("changes", "reason"), [({"hang_minutes": 0.01}, "hung: no file was written"), ({"max_usd": 0.01, "usd_per_hour": 1e6}, "budget: ")]
)
def test_a_run_that_hangs_or_costs_too_much_is_asked_to_save_and_is_uploaded(machine: Machine, changes: dict[str, float], reason: str) -> None:  # fmt: skip
    machine.order("trap 'echo saved > saved.json; exit 3' TERM; touch begun; sleep 60 & wait", **({"max_usd": 0.0} | changes))
    if "max_usd" in changes:  # the set-up costs nothing here; the run does
        machine.limits = Limits(time.time() + 1.0, time.time() + 7200)
    assert machine.work().startswith(reason)
    assert machine.store.read("results/saved.json") == b"saved\n" and not machine.results().complete
    assert machine.status()["exit_code"] == 3


def test_the_run_is_stopped_in_time_for_the_last_upload(machine: Machine) -> None:
    machine.limits = Limits(time.time() - 1000, time.time() + 114.5)  # stops three seconds from now
    machine.order("trap 'echo saved > saved.json; exit 3' TERM; sleep 60 & wait")
    assert machine.work() == "time: the machine's time is over"
    assert machine.store.read("results/saved.json") == b"saved\n"


def test_a_spot_notice_during_the_run_brings_the_last_checkpoint_to_the_bucket(machine: Machine) -> None:
    run_folder(machine.run_folder, steps=(4,))
    new = checkpoint(machine.state, 8)
    place = machine.run_folder / "training" / "checkpoints"
    machine.order(f"trap 'cp -r {new} {place}/checkpoint-8; exit 3' TERM; sleep 60 & wait")
    threading.Timer(1.0, lambda: machine.folders.notice.write_text('{"action": "terminate", "time": "2030-01-01T00:02:00Z"}')).start()
    assert machine.work() == "spot notice: terminate at 2030-01-01T00:02:00Z"
    assert "training/checkpoints/checkpoint-8/complete.json" in machine.results().files
    assert machine.status()["spot_notice"]["action"] == "terminate"


def test_a_run_that_the_watch_for_notices_has_signaled_did_not_fail(machine: Machine) -> None:
    notice = f'echo \'{{"action": "stop"}}\' > {machine.folders.notice}'
    machine.order(f"{notice}; kill -TERM $$")
    assert machine.work() == "spot notice: stop at any moment"


def test_a_spot_notice_during_the_set_up_ends_the_machine_without_a_run(machine: Machine) -> None:
    machine.order("echo never > never.json")
    machine.folders.notice.write_text('{"action": "terminate"}')
    assert machine.work().startswith("spot notice")
    assert f"start {units.RUN}" not in machine.systemctl.read_text() and machine.status()["phase"] == "ended"


def test_a_spot_notice_during_the_last_upload_does_not_stop_it(machine: Machine, aws: FalseAws) -> None:
    machine.order("for n in 1 2 3 4 5; do echo $n > $n.json; done")
    aws.before(
        "s3", "PutObject", lambda asked: machine.folders.notice.write_text("{}") if "results/5.json" in str(asked) else None, times=None
    )
    assert machine.work() in ("complete", "spot notice: the machine is taken away at any moment")
    assert machine.results().complete and machine.status()["complete"]


def test_s3_that_fails_during_the_run_and_the_last_upload_is_waited_for(machine: Machine, aws: FalseAws) -> None:
    machine.order("echo result > result.json; sleep 0.5")
    aws.fail("s3", "PutObject", "AccessDenied", 403, times=4, when=lambda asked: "results" in str(asked))
    assert machine.work() == "complete"
    assert machine.results().complete


def test_s3_that_fails_for_good_ends_the_machine_at_its_time_and_says_so(machine: Machine, aws: FalseAws) -> None:
    machine.order("echo result > result.json")
    machine.limits = Limits(time.time(), time.time() + 6)
    aws.fail("s3", "PutObject", "AccessDenied", 403, times=None, when=lambda asked: "results" in str(asked))
    begin = time.time()
    assert "the last upload failed: upload: writing" in machine.work()
    assert time.time() - begin < 20


def test_a_damaged_checkpoint_is_named_and_left_out_of_the_last_upload(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    run_folder(machine.run_folder, steps=(4, 8))
    weights = machine.run_folder / "training" / "checkpoints" / "checkpoint-8" / "adapter_model.safetensors"
    weights.write_bytes(b"x" * weights.stat().st_size)
    machine.order("exit 0")
    assert machine.work() == "complete; not uploaded, since damaged or still changing: training/checkpoints/checkpoint-8"
    assert not machine.results().complete and "training/checkpoints/checkpoint-4/complete.json" in machine.results().files


def test_an_agent_that_is_killed_continues_with_the_run_that_works_even_without_s3(machine: Machine, aws: FalseAws) -> None:
    machine.order("echo begun > begun.json; until [ -e go ]; do sleep 0.05; done; echo done > done.json")
    first = started(machine)
    waits(lambda: (machine.run_folder / "begun.json").exists())
    first.kill()
    first.wait()
    aws.fail("s3", "GetObject", "AccessDenied", 403, times=None)
    second = started(machine)
    time.sleep(1.0)
    assert (machine.state / "pid").exists(), "the run was not disturbed"
    aws.recover()
    (machine.run_folder / "go").touch()
    assert second.wait(60) == 0
    assert machine.systemctl.read_text().count(f"start {units.RUN}") == 1
    assert machine.results().complete and machine.shutdown.read_text() == "-P now\n"


def test_an_agent_that_is_killed_during_the_last_upload_completes_it(machine: Machine, aws: FalseAws) -> None:
    machine.order("for n in 1 2 3 4 5 6; do echo $n > $n.json; done")
    aws.delay("s3", "PutObject", 0.4, times=None, when=lambda asked: "results" in str(asked))
    first = started(machine)
    waits(lambda: machine.folders.run_end.exists() and aws.asked("s3", "PutObject"))
    first.kill()
    first.wait()
    aws.recover()
    assert started(machine).wait(60) == 0
    assert machine.results().complete and len(machine.results().files) == 6
    assert machine.systemctl.read_text().count(f"start {units.RUN}") == 1


def test_a_program_that_always_fails_uploads_what_is_there_and_ends_the_machine_at_the_fifth_time(machine: Machine) -> None:
    run_folder(machine.run_folder, steps=(4,))
    machine.folders.run_log.write_text("the last words of the run\n")
    machine.folders.job.write_text("{")  # what nobody foresaw
    machine.folders.run_end.write_text("exited 0")
    assert [started(machine).wait(60) for _ in range(5)] == [1, 1, 1, 1, 0]
    assert machine.shutdown.read_text() == "-P now\n"
    status = machine.status()
    assert status["phase"] == "ended" and status["reason"].startswith("the machine's program failed 5 times: JobError")
    assert machine.store.read("machine/log.txt") == b"the last words of the run\n"
    assert "training/checkpoints/checkpoint-4/complete.json" in machine.results().files and not machine.results().complete


def test_a_text_with_a_key_reaches_the_bucket_alone(machine: Machine) -> None:
    started(machine, "mistral_lib.on_machine.bucket.handover", "machine/reach-0.txt", text=b"key: abc\n").wait(60)
    assert machine.store.read("machine/reach-0.txt") == b"key: abc\n" and b"abc" not in (machine.state / "agent.log").read_bytes()
    assert started(machine, "mistral_lib.on_machine.bucket.handover", "machine/reach-1.txt").wait(60) == 1
    assert machine.store.read("machine/reach-1.txt") is None


def started(machine: Machine, *command: str, text: bytes = b"") -> subprocess.Popen:
    """The agent as systemd starts it, or another module with its arguments and what it reads."""
    place = {"run": "quick", "bucket": BUCKET, "prefix": PREFIX, "region": "us-east-1", "archive_sha256": "0" * 64, "minutes": 60}
    (machine.folders.base / "place.json").write_text(json.dumps(place))
    (machine.folders.base / "started").write_text(str(machine.limits.started))
    names = {"FOLDER": machine.folders.base, "RUNTIME": machine.folders.runtime, "UNITS": machine.folders.units}
    variables = {f"MISTRAL_MACHINE_{name}": str(place) for name, place in names.items()}
    with open(machine.state / "agent.log", "ab") as log:
        arguments = [sys.executable, "-m", *(command or [agent.__name__])]
        process = subprocess.Popen(arguments, env={**os.environ, **variables}, stdin=subprocess.PIPE, stdout=log, stderr=log)
    process.stdin.write(text)
    process.stdin.close()
    return process


def waits(condition: Callable[[], object], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "not in time"
        time.sleep(0.02)
