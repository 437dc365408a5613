"""A fault at each step of `up`: what exists then is listed, the same command resumes, and `down` leaves nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from mistral_lib.aws import machines, schedules
from mistral_lib.aws.errors import AwsError
from mistral_lib.instance import launch, records, removal, resources
from mistral_lib.instance.capacity import NoCapacityError
from mistral_lib.instance.launch_options import UpOptions
from mistral_lib.run import params, paths
from tests.support.aws_stand_in import FalseAws

REGION = "us-east-1"
SETTINGS = params.validate({"run_name": "first", "instance": "g4dn.xlarge"})
OPTIONS = UpOptions(region=REGION, disk_gib=90, ignore_fit=True, wait_minutes=0)
REQUESTS = [
    ("sts", "GetCallerIdentity"), ("s3", "HeadBucket"), ("s3", "CreateBucket"), ("s3", "PutBucketEncryption"), ("s3", "PutObject"), ("iam", "CreateRole"),
    ("iam", "PutRolePolicy"), ("iam", "CreateInstanceProfile"), ("ec2", "CreateSecurityGroup"), ("ec2", "DescribeInstanceTypeOfferings"),
    ("ssm", "GetParameter"), ("ec2", "DescribeSubnets"), ("ec2", "RunInstances"), ("scheduler", "CreateSchedule"),
]  # fmt: skip


def up(**changes: Any) -> records.Record:
    return launch.up("params/mine.yaml", SETTINGS, replace(OPTIONS, **changes))


def resumes_and_is_removed() -> None:
    """What exists is listed; the same command completes the launch with one machine; `down` leaves nothing."""
    before = {(one.kind, one.id) for one in resources.everything() if one.kind != "machine"}
    record = up()
    after = resources.everything()
    assert record.complete and before <= {(one.kind, one.id) for one in after}
    assert [machine.id for machine in machines.find(REGION, "first")] == [record.machine]
    assert [timer.machine_id for timer in schedules.existing(REGION)] == [record.machine]
    assert removal.down("first", yes=True) == 0 and resources.everything() == []
    assert records.load("first") is None


@pytest.mark.parametrize(("service", "action"), REQUESTS)
def test_permission_denied(home, aws: FalseAws, service: str, action: str) -> None:
    aws.deny(service, action)
    with pytest.raises(AwsError, match=r"the right .* is needed|--bucket"):
        up()
    assert [one for one in resources.everything() if one.kind == "machine"] == []
    aws.recover()
    resumes_and_is_removed()


@pytest.mark.parametrize(
    ("service", "action"), [("iam", "CreateRole"), ("ec2", "CreateSecurityGroup"), ("ec2", "RunInstances"), ("scheduler", "CreateSchedule")]
)
def test_throttled(home, aws: FalseAws, service: str, action: str) -> None:
    aws.fail(service, action, "RequestLimitExceeded" if service == "ec2" else "ThrottlingException", status=400, times=None)
    with pytest.raises(AwsError, match="wait a minute and run the command again"):
        up()
    aws.recover()
    resumes_and_is_removed()


def test_the_bucket_belongs_to_somebody_else(home, aws: FalseAws) -> None:
    aws.foreign_buckets.add("taken-name")
    with pytest.raises(AwsError, match=r"taken-name.*--bucket"):
        up(bucket="taken-name")
    resumes_and_is_removed()


def test_the_upload_is_cut(home, aws: FalseAws) -> None:
    aws.cut("s3", "PutObject", after_bytes=100, times=None)
    with pytest.raises(AwsError):
        up()
    aws.recover()
    resumes_and_is_removed()


def test_no_capacity_anywhere(home, aws: FalseAws) -> None:
    aws.fail("ec2", "RunInstances", "InsufficientInstanceCapacity", times=None)
    with pytest.raises(NoCapacityError):
        up()
    assert {one.kind for one in resources.everything()} == {"security group", "objects", "role", "bucket"}
    aws.recover()
    resumes_and_is_removed()


def test_after_no_capacity_another_type_may_be_requested(home, aws: FalseAws) -> None:
    aws.fail("ec2", "RunInstances", "InsufficientInstanceCapacity", times=None)
    with pytest.raises(NoCapacityError):
        up()
    aws.recover()
    record = up(type="g5.xlarge")
    assert record.type == "g5.xlarge" and record.attempt == 1 and record.complete


def test_the_timer_and_the_termination_fail_and_the_machine_is_still_listed(
    home, aws: FalseAws, capsys: pytest.CaptureFixture[str]
) -> None:
    aws.deny("scheduler", "CreateSchedule")
    aws.deny("ec2", "TerminateInstances")
    with pytest.raises(AwsError, match="scheduler:CreateSchedule"):
        up()
    assert "its own timer ends it at" in capsys.readouterr().err
    assert [one.state for one in resources.everything() if one.kind == "machine"] == ["running"]
    aws.recover()
    resumes_and_is_removed()


@pytest.mark.parametrize("step", records.STEPS)
def test_the_laptop_is_killed_after_a_step(home, aws: FalseAws, step: str) -> None:
    killed(aws, step)
    assert records.load("first").step == step
    if step == "machine":
        assert [one.state for one in resources.everything() if one.kind == "machine"] == ["running"]
    resumes_and_is_removed()


@pytest.mark.parametrize("step", ["bucket", "group", "machine"])
def test_down_alone_removes_what_a_killed_launch_left(home, aws: FalseAws, step: str) -> None:
    killed(aws, step)
    assert resources.everything() and removal.down("first", yes=True) == 0 and resources.everything() == []


def test_the_laptop_is_killed_while_ec2_launches(home, aws: FalseAws) -> None:
    process: list[subprocess.Popen[bytes]] = []
    aws.before("scheduler", "CreateSchedule", lambda asked: os.kill(process[0].pid, signal.SIGKILL))
    process.append(child(aws, "never"))
    assert process[0].wait(timeout=120) == -signal.SIGKILL
    resumes_and_is_removed()


def test_the_laptop_is_killed_between_the_launch_and_its_record(home, aws: FalseAws) -> None:
    """The machine is there, and neither this computer's record nor a timer in AWS knows it."""
    process: list[subprocess.Popen[bytes]] = []
    aws.before("ec2", "RunInstances", lambda asked: os.kill(process[0].pid, signal.SIGKILL))
    process.append(child(aws, "never"))
    assert process[0].wait(timeout=120) == -signal.SIGKILL
    assert records.load("first").machine == "" and schedules.existing(REGION) == []
    assert [one.state for one in resources.everything() if one.kind == "machine"] == ["running"]
    resumes_and_is_removed()


def test_another_computer_completes_a_launch_that_was_killed_before_its_timer(home, aws: FalseAws) -> None:
    killed(aws, "machine")
    records.delete("first")
    resumes_and_is_removed()


def killed(aws: FalseAws, step: str) -> None:
    process = child(aws, step)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, errors.decode()


def child(aws: FalseAws, step: str) -> subprocess.Popen[bytes]:
    """A launch in a process of its own, which kills itself after the step."""
    surroundings = {**os.environ, **aws.environment, "PYTHONPATH": str(paths.project())}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.killed_up", step], env=surroundings, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def test_another_exception_after_the_launch_ends_the_machine(home, aws: FalseAws, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    real: Callable[..., Any] = schedules.ensure
    monkeypatch.setattr(schedules, "ensure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        up()
    assert machines.find(REGION, "first") == []
    monkeypatch.setattr(schedules, "ensure", real)
    resumes_and_is_removed()
