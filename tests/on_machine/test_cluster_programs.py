"""The programs of a head and of a worker: who is which, how they find each other, and when a worker ends. `systemctl` is a stub."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mistral_lib.on_machine import agent as agent_module
from mistral_lib.on_machine import inputs
from mistral_lib.on_machine.agent import Agent, Pace
from mistral_lib.on_machine.bucket.object_store import Store
from mistral_lib.on_machine.cluster import head, ray_unit, roles, worker
from mistral_lib.on_machine.cluster.worker import Worker
from mistral_lib.on_machine.ending import EndError, Limits
from mistral_lib.on_machine.folders import Folders
from mistral_lib.on_machine.heartbeat import Facts
from mistral_lib.on_machine.job import Job
from mistral_lib.on_machine.metadata import Metadata, MetadataError
from mistral_lib.on_machine.programs import ProgramError
from mistral_lib.on_machine.user_data import Place
from tests.support import machine_jobs
from tests.support.metadata_server import metadata_server

PLACE = Place("quick", "a-bucket", "runs/quick/", "us-east-1", "a" * 64, 60, nodes=3)
FAST = Pace(job=0.01, run=0.01, uploads=0.01, heartbeat=0.05, retry=0.01)
HEAD = {"address": "10.0.0.5", "machine": "i-0head"}
# Ray starts when it is asked to, and is ready at once unless the file `slow` is there.
SYSTEMCTL = """
case "$1" in
  start) cp {runtime}/ray.env {base}/seen.env; echo active > {base}/state; [ -e {base}/slow ] || touch {base}/ray/ray_current_cluster ;;
  stop) echo inactive > {base}/state ;;
  show) cat {base}/state 2>/dev/null || echo inactive ;;
esac
"""


@pytest.fixture
def systemctl(program: Callable[[str, str], Path], folders: Folders, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The calls of the stub."""
    monkeypatch.setattr(ray_unit.shutil, "chown", lambda *names: None)
    return program("systemctl", SYSTEMCTL.format(runtime=folders.runtime, base=folders.base))


def facts(**changes: Any) -> Facts:
    now = time.time()
    return replace(Facts("quick", Limits(now, now + 3600), machine="i-0worker"), **changes)


def a_worker(folders: Folders, store: Store, lost_minutes: float = 1.0) -> Worker:
    return Worker(folders, store, facts(), lambda name: "", FAST, "10.0.0.6", lost_minutes)


def report(store: Store, phase: str, machine: str = "i-0head", ago: float = 0.0, **more: Any) -> None:
    """The head's status."""
    updated = (datetime.now(UTC) - timedelta(seconds=ago)).isoformat()
    store.write("machine/status.json", json.dumps({"phase": phase, "machine": machine, "updated": updated, **more}).encode())


def calls(systemctl: Path, verb: str) -> int:
    return sum(line.startswith(verb) for line in systemctl.read_text().splitlines())


@pytest.mark.parametrize(
    ("place", "index", "expected"),
    [(PLACE, "0", False), (PLACE, "2", True), (replace(PLACE, worker=True), "0", True), (replace(PLACE, nodes=1), "3", False)],
)
def test_the_first_machine_of_the_launch_is_the_head(place: Place, index: str, expected: bool) -> None:
    with metadata_server() as metadata:
        metadata.facts |= {"ami-launch-index": index, "local-ipv4": "10.0.0.5"}
        assert roles.is_worker(place, Metadata(metadata.url)) == expected
        assert roles.private_address(Metadata(metadata.url)) == "10.0.0.5"


def test_a_machine_that_does_not_know_its_role_says_so_and_tries_again() -> None:
    with metadata_server() as metadata, pytest.raises(MetadataError, match="it has no ami-launch-index"):
        roles.is_worker(PLACE, Metadata(metadata.url))


@pytest.mark.parametrize("index", ["0", "1"])
def test_the_machines_program_is_that_of_its_role(folders: Folders, store: Store, monkeypatch: pytest.MonkeyPatch, index: str) -> None:
    with metadata_server() as metadata:
        metadata.facts |= {"ami-launch-index": index, "local-ipv4": "10.0.0.5"}
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url)
        program = agent_module.program(folders, store, facts(), PLACE)
    if index == "0":
        assert type(program) is Agent and (program.nodes, program.address) == (3, "10.0.0.5")
    else:
        assert program.node == "10.0.0.5" and program.heartbeat.folder == "machine/workers/i-0worker"


def test_the_head_starts_ray_publishes_its_address_and_waits_for_its_workers(folders: Folders, store: Store, systemctl: Path) -> None:
    said: list[str] = []

    def say(what: str) -> None:
        said.append(what)
        if "0 of 2" in what:
            for name in ("a", "b"):
                status = {"doing": f"{head.JOINED} 10.0.0.5", "updated": datetime.now(UTC).isoformat()}
                store.write(f"machine/workers/i-{name}/status.json", json.dumps(status).encode())

    head.begin(folders, store, 3, "10.0.0.5", "i-0head", {"HF_TOKEN": "hf_secret"}, say, lambda: None, 0.01)
    assert (
        json.loads(store.read("machine/head.json")).items() >= HEAD.items() and "hf_secret" not in store.read("machine/head.json").decode()
    )
    assert said[-1] == "2 of 2 workers have joined" and calls(systemctl, "start") == 1
    seen = (folders.base / "seen.env").read_text()
    assert 'MISTRAL_NODE="10.0.0.5"' in seen and 'HF_TOKEN="hf_secret"' in seen and not ray_unit.environment_file(folders).exists()


def test_a_report_that_is_old_or_of_another_head_or_of_a_worker_that_still_starts_does_not_count(store: Store) -> None:
    now, own, earlier = datetime.now(UTC), f"{head.JOINED} 10.0.0.5", f"{head.JOINED} 10.0.0.4"
    reports = {"a": (own, now - timedelta(hours=1)), "b": ("environment, step 1 of 4", now), "c": (own, now), "d": (earlier, now)}
    for name, (doing, updated) in reports.items():
        store.write(f"machine/workers/i-{name}/status.json", json.dumps({"doing": doing, "updated": updated.isoformat()}).encode())
    store.write("machine/workers/i-c/setup.txt", b"a log")
    assert head.joined(store, "10.0.0.5") == 1


def test_the_run_starts_without_workers_that_do_not_come(folders: Folders, store: Store, systemctl: Path, monkeypatch) -> None:
    monkeypatch.setattr(head, "WAIT_SECONDS", 0.2)
    said: list[str] = []
    head.begin(folders, store, 3, "10.0.0.5", "i-0head", {}, said.append, lambda: None, 0.01)
    assert said[-1].startswith("the run starts with 0 of 2 workers")


def test_a_head_whose_ray_does_not_start_says_what_it_printed(folders: Folders, store: Store, systemctl: Path, monkeypatch) -> None:
    monkeypatch.setattr(head, "START_SECONDS", 0.1)
    (folders.base / "slow").touch()
    (folders.base / "ray.log").write_text("Exception: no room\n")
    with pytest.raises(ProgramError, match=r"in 3 attempts: Exception: no room"):
        head.begin(folders, store, 3, "10.0.0.5", "i-0head", {}, lambda what: None, lambda: None, 0.01)
    assert calls(systemctl, "start") == calls(systemctl, "stop") == 3


def test_the_heads_run_uses_ray_and_shares_its_work_in_the_bucket(store: Store) -> None:
    job = Job.from_dict(machine_jobs.job("quick", store))
    found = head.run_variables(job, "run_name: quick\n", "10.0.0.5", {"RUN_OPTIONS": "--only 02"})
    place = f"s3://{store.bucket}/runs/quick/work"
    assert found["RUN_OPTIONS"] == f"--only 02 --set engine=ray --set ray_address=auto --set shared_folder={place}"
    assert found["RAY_ADDRESS"] == "10.0.0.5:6379"
    own = head.run_variables(job, "shared_folder: s3://mine/work\n", "10.0.0.5", {})
    assert own["RUN_OPTIONS"] == "--set engine=ray --set ray_address=auto"


def test_a_worker_joins_and_ends_with_the_run_of_its_head(folders: Folders, store: Store, systemctl: Path, monkeypatch) -> None:
    job = Job.from_dict(machine_jobs.job("quick", store))
    one = a_worker(folders, store)
    (folders.params).write_text("run_name: quick\n")
    store.write("machine/head.json", json.dumps(HEAD).encode())
    report(store, "ended", machine="i-0earlier")  # that of an earlier machine says nothing

    def answers(address: str) -> bool:
        if one.facts.doing.startswith(head.JOINED):
            report(store, "uploading", reason="complete")
        return address == "10.0.0.5"

    monkeypatch.setattr(ray_unit, "answers", answers)
    assert one.run(job) == "the run on the head has ended: complete"
    assert calls(systemctl, "start") == 1 and calls(systemctl, "stop") == 1
    assert 'MISTRAL_HEAD="10.0.0.5:6379"' in (folders.base / "seen.env").read_text()


def test_a_worker_that_loses_its_head_ends_after_a_limit(folders: Folders, store: Store, systemctl: Path, monkeypatch) -> None:
    store.write("machine/head.json", json.dumps(HEAD).encode())
    report(store, "running", ago=3600)
    monkeypatch.setattr(ray_unit, "answers", lambda address: False)
    began = time.monotonic()
    reason = a_worker(folders, store, lost_minutes=0.005).run(Job.from_dict(machine_jobs.job("quick", store)))
    assert reason == "lost: the head 10.0.0.5 has not answered for 0.005 minutes" and time.monotonic() - began >= 0.3


def test_a_worker_waits_for_a_head_that_still_prepares(folders: Folders, store: Store, systemctl: Path, monkeypatch) -> None:
    one = a_worker(folders, store, lost_minutes=0.005)
    report(store, "setting up")
    looks: list[None] = []

    def stop() -> str | None:
        looks.append(None)
        return "time: the machine's time is over" if len(looks) > 60 else None

    monkeypatch.setattr(one, "must_stop", stop)
    assert one.run(Job.from_dict(machine_jobs.job("quick", store))) == "time: the machine's time is over"
    assert calls(systemctl, "start") == 0


def test_a_worker_starts_ray_again_if_it_fails(folders: Folders, store: Store, systemctl: Path, monkeypatch) -> None:
    one = a_worker(folders, store)
    folders.params.write_text("run_name: quick\n")
    one.head = dict(HEAD)
    monkeypatch.setattr(ray_unit, "answers", lambda address: True)
    ray_unit.install(folders, worker=True)
    job = Job.from_dict(machine_jobs.job("quick", store))
    assert one.joins(job) and one.facts.doing == f"{head.JOINED} 10.0.0.5"
    (folders.base / "state").write_text("failed\n")
    assert one.joins(job) and calls(systemctl, "start") == 2


def test_a_worker_prepares_as_the_head_does_without_results_and_money(folders: Folders, store: Store, monkeypatch) -> None:
    one, asked = a_worker(folders, store), {}
    monkeypatch.setattr(inputs, "fetch", lambda *parts, **options: asked.update(options))
    monkeypatch.setattr(worker.environment, "build", lambda *parts: None)
    monkeypatch.setattr("mistral_lib.on_machine.install.set_deadline", lambda *parts: None)
    job = Job.from_dict(machine_jobs.job("quick", store, max_usd=1.0, usd_per_hour=9.0, attempt=2))
    store.write("job.json", json.dumps(job.to_dict()).encode())
    assert one.preparation.job_in_place() == job
    assert asked == {"results": False} and one.facts.limits.max_usd == 0.0 and one.facts.limits.usd_before == 0.0


def test_a_worker_without_a_job_ends_like_every_machine(folders: Folders, store: Store) -> None:
    one = a_worker(folders, store)
    one.facts.limits = replace(one.facts.limits, idle_minutes=0.001)
    with pytest.raises(EndError, match="idle: no usable job"):
        one.preparation.job_in_place()
