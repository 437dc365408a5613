"""The generated user data, really executed in a sandbox, up to a job that is not there or cannot be used: seconds, no training."""

import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mistral_lib.on_machine import user_data
from mistral_lib.on_machine.bucket.object_store import Store
from tests.support import machine_jobs
from tests.support.aws_stand_in import FalseAws
from tests.support.machine_sandbox import NEEDED, Sandbox, machine_sandbox, wait_for
from tests.support.metadata_server import MetadataServer, metadata_server

pytestmark = NEEDED


@pytest.fixture
def metadata() -> Iterator[MetadataServer]:
    with metadata_server() as running:
        yield running


class Start:
    """Switches machines on for the run `quick`."""

    def __init__(self, store: Store, aws: FalseAws, metadata: MetadataServer, folder: Path):
        self.store, self.aws, self.metadata, self.folder = store, aws, metadata, folder
        self.place = machine_jobs.upload_machine(store, "quick", minutes=60)

    def __call__(self, script: str | None = None, **options: Any) -> AbstractContextManager[Sandbox]:
        return machine_sandbox(self.folder, script or user_data.script(self.place), self.aws.url, self.metadata.url, **options)

    def status(self) -> dict[str, Any]:
        return json.loads(self.store.read("machine/status.json") or b"{}")


@pytest.fixture
def start(store: Store, aws: FalseAws, metadata: MetadataServer, tmp_path: Path) -> Start:
    return Start(store, aws, metadata, tmp_path / "machine")


def test_a_new_machine_has_two_time_limits_of_its_own_and_waits_for_its_job(start: Start) -> None:
    with start(failures={"apt-get": 2, "pip": 1}) as machine:  # a mirror and an index that are away for a moment
        wait_for("a waiting machine", lambda: start.status().get("phase") == "waiting", 60, machine)
        timer = (machine.folder / "etc" / "systemd" / "system" / "mistral-deadline.timer").read_text()
    assert machine.events("shutdown")[0] == ["-P", "+60", "mistral-workbook: the time limit of this machine"]
    assert machine.events()[0][0] == "shutdown", "before anything else"
    assert start.status()["ends_at"].replace("T", " ")[:19] in timer
    assert start.metadata.secret not in machine.logs()


def test_a_set_up_that_fails_is_reported_and_ends_the_machine(start: Start) -> None:
    start.store.write("machine.tar.gz", b"other")
    with start() as machine:
        machine.wait_until_off(60)
    assert machine.events("shutdown")[-1][:2] == ["-P", "now"]
    report = start.store.read("machine/setup.txt").decode()
    assert "machine.tar.gz: sha256 is" in report and "the machine shuts down" in report


def test_a_machine_without_a_package_mirror_ends(start: Start) -> None:
    with start(failures={"apt-get": 99}) as machine:
        machine.wait_until_off(60)
    assert machine.events("shutdown")[-1] == ["-P", "now", "mistral-workbook: the set-up failed"]


def test_the_deadline_ends_the_machine_even_if_its_program_hangs(start: Start) -> None:
    """The timer alone: the first limit, in an hour, does not come into it."""
    with tarfile.open(fileobj=io.BytesIO(user_data.archive())) as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar.getmembers()}
    hangs = machine_jobs.packed(files | {"mistral_lib/on_machine/agent.py": b"import time\ntime.sleep(3600)\n"})
    start.store.write("machine.tar.gz", hangs)
    script = user_data.script(replace(start.place, archive_sha256=machine_jobs.sha256(hangs)))
    with start(script.replace("date +%s >", "echo $(($(date +%s) - 3588)) >")) as machine:  # the hour is over in twelve seconds
        machine.wait_until_off(60)
    assert machine.events("user data") == [["0"]]
    assert machine.events("shutdown") == [["-P", "+60", "mistral-workbook: the time limit of this machine"], ["-P", "now"]]


def test_an_agent_that_is_killed_is_started_again(start: Start) -> None:
    with start() as machine:
        wait_for("a waiting machine", lambda: start.status().get("phase") == "waiting", 60, machine)
        before = start.store.read("machine/status.json")
        machine.systemctl("kill", "--signal=SIGKILL", "mistral-agent.service")
        wait_for("another status", lambda: start.store.read("machine/status.json") != before, 60, machine)


def test_a_spot_notice_before_the_job_ends_the_machine(start: Start) -> None:
    with start() as machine:
        wait_for("a waiting machine", lambda: start.status().get("phase") == "waiting", 60, machine)
        start.metadata.take_away()
        machine.wait_until_off(60)
    assert start.status()["reason"].startswith("spot notice: terminate at")


def test_the_user_data_may_run_again_on_a_machine_that_was_started_again(start: Start) -> None:
    script = user_data.script(start.place)
    twice = f"cat > /run/again.sh <<'AGAIN'\n{script}\nAGAIN\nbash /run/again.sh && sleep 1 && exec bash /run/again.sh\n"
    with start(twice) as machine:
        wait_for("the second set-up", lambda: machine.events("user data"), 60, machine)
        wait_for("a waiting machine", lambda: start.status().get("phase") == "waiting", 60, machine)
    assert machine.events("user data") == [["0"]] and len(machine.events("useradd")) == 1
    assert [call[1] for call in machine.events("shutdown")] == ["+60", "+60"]
