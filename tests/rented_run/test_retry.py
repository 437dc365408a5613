"""After a spot notice another machine gets the run, within the limits of time and money that were given for all machines together."""

import json
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mistral_lib.aws import buckets, prices
from mistral_lib.aws.errors import AwsError
from mistral_lib.instance import launch, records
from mistral_lib.instance.capacity import NoCapacityError
from mistral_lib.instance.launch_options import UpOptions
from mistral_lib.instance.records import Record
from mistral_lib.rented_run import packing, retry, uploading
from mistral_lib.rented_run.packing import Code
from mistral_lib.rented_run.uploading import RunOptions
from mistral_lib.run.settings import Settings
from tests.rented_run.test_watching import report
from tests.support import rented
from tests.support.aws_stand_in import REGION, FalseAws

FILE = Path("params/quick.yaml")


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(packing, "code", lambda dirty: Code(b"code", "c" * 40))
    monkeypatch.setattr(prices, "spot", lambda region, type: {f"{region}a": 0.4})  # moto's are a fraction of a cent
    return Settings(run_name="small")


@pytest.fixture
def first(aws: FalseAws, settings: Settings) -> Record:
    """A spot machine that has worked for two hours on its job, launched by `up`."""
    options = UpOptions(
        region=REGION, type="g4dn.xlarge", spot=True, max_hours=10, max_usd=4.0, disk_gib=100, ignore_fit=True, usd_per_hour=0.5
    )
    record = launch.up(FILE, settings, options)
    uploading.run(settings, RunOptions())
    record = replace(record, launched=datetime.now(UTC) - timedelta(hours=2))
    records.save(record)
    return record


def taken_away(record: Record) -> None:
    report(record, minutes_ago=0, phase="ended", spot_notice={"action": "terminate"})
    rented.end(record)


def job(record: Record) -> dict | None:
    return buckets.get_json(record.bucket, f"{record.prefix}job.json", record.region)


def completes(attempt: int) -> threading.Thread:
    """The machine of this attempt: it completes the run as soon as it has its job."""

    def work() -> None:
        for _ in range(600):
            record = records.load("small")
            if record and record.attempt == attempt and record.complete and (job(record) or {}).get("attempt") == attempt:
                time.sleep(0.2)
                report(record, minutes_ago=-0.1, phase="ended", complete=True)
                return
            time.sleep(0.1)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_another_machine_gets_the_job_with_what_remains_of_time_and_money(first: Record, settings: Settings) -> None:
    taken_away(first)
    machine = completes(attempt=2)
    assert retry.run(FILE, settings, RunOptions(), retries=1, seconds=0.1) == 0
    machine.join(30)
    second, found = records.load("small"), job(first)
    assert second.machine != first.machine and second.attempt == found["attempt"] == 2 and second.spot and second.type == first.type
    assert second.max_usd == pytest.approx(3.0, abs=0.05) and second.max_hours <= 8.0
    assert found["max_usd"] == pytest.approx(4.0, abs=0.05)  # of all machines, as the machine counts it


def test_with_no_retry_left_the_run_stays_interrupted(aws: FalseAws, first: Record, settings: Settings) -> None:
    taken_away(first)
    before = len(aws.asked("ec2", "RunInstances"))
    assert retry.run(FILE, settings, RunOptions(), retries=0, seconds=0.1) == 3
    assert len(aws.asked("ec2", "RunInstances")) == before


@pytest.mark.parametrize("changes", [{"max_usd": 1.05}, {"max_hours": 2.1}])
def test_without_time_or_money_left_no_machine_is_launched(
    aws: FalseAws, first: Record, settings: Settings, changes: dict, capsys: pytest.CaptureFixture
) -> None:
    records.save(replace(first, **changes))
    taken_away(first)
    before = len(aws.asked("ec2", "RunInstances"))
    assert retry.run(FILE, settings, RunOptions(), retries=2, seconds=0.1) == 3
    assert len(aws.asked("ec2", "RunInstances")) == before and "nearly used up" in capsys.readouterr().err


def test_a_retry_that_finds_no_capacity_continues_when_it_is_repeated(
    aws: FalseAws, first: Record, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_away(first)
    aws.fail("ec2", "RunInstances", "InsufficientInstanceCapacity", 500, times=None)
    monkeypatch.setattr(retry, "WAIT_MINUTES", 0.0)
    with pytest.raises(NoCapacityError):
        retry.run(FILE, settings, RunOptions(), retries=2, seconds=0.1)
    assert job(first) is None  # the machine that comes does not take the old one's job
    aws.recover()
    machine = completes(attempt=2)
    assert retry.run(FILE, settings, RunOptions(), retries=2, seconds=0.1) == 0
    machine.join(30)
    assert json.loads(rented.get(first, "job.json"))["attempt"] == 2


def test_a_refused_upload_after_the_launch_is_sent_when_it_is_repeated(aws: FalseAws, first: Record, settings: Settings) -> None:
    taken_away(first)
    aws.fail("s3", "PutObject", "AccessDenied", 403, times=1, when=lambda parameters: "job.json" in str(parameters))
    with pytest.raises(AwsError):
        retry.run(FILE, settings, RunOptions(), retries=2, seconds=0.1)
    machine = completes(attempt=2)
    assert retry.run(FILE, settings, RunOptions(), retries=2, seconds=0.1) == 0
    machine.join(30)
