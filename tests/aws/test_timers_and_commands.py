"""The outside timer, the hub's token, commands by Systems Manager, quotas and prices."""

import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from mistral_lib.aws import (
    errors,
    images,
    machines,
    names,
    network,
    parameters,
    policies,
    prices,
    quotas,
    roles,
    schedules,
    session,
    shell_commands,
)
from tests.support.aws_stand_in import FalseAws

REGION = "us-east-1"


@pytest.fixture
def machine(aws: FalseAws) -> machines.Machine:
    subnet = next(iter(network.subnets(REGION).values()))
    profile = roles.ensure("demo", "some-bucket", REGION)
    return machines.launch(machines.Order("demo", "g5.xlarge", REGION, subnet, images.newest(REGION), "", 150, profile, network.ensure_group("demo", REGION)))  # fmt: skip


def in_an_hour() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


def test_the_outside_timer_terminates_the_machine_and_deletes_itself(aws: FalseAws, machine: machines.Machine) -> None:
    at = in_an_hour()
    made = schedules.ensure("demo", REGION, machine.id, at, roles.ensure_timer("demo", REGION))
    assert schedules.existing(REGION) == schedules.existing(REGION, "demo") == [made] and schedules.existing(REGION, "other") == []
    assert aws.ring(now=at - timedelta(minutes=1)) == [] and aws.ring(now=at) == [machine.id]
    assert machines.find(REGION) == [] and schedules.existing(REGION) == []
    asked = aws.asked("scheduler", "CreateSchedule")[0].parameters
    assert asked["ActionAfterCompletion"] == "DELETE" and asked["Target"]["Arn"] == "arn:aws:scheduler:::aws-sdk:ec2:terminateInstances"
    assert asked["FlexibleTimeWindow"] == {"Mode": "OFF"} and asked["ScheduleExpressionTimezone"] == "UTC"


def test_a_second_call_moves_the_timer(aws: FalseAws) -> None:
    role = roles.ensure_timer("demo", REGION)
    schedules.ensure("demo", REGION, "i-1", in_an_hour(), role)
    later = schedules.ensure("demo", REGION, "i-2", in_an_hour() + timedelta(hours=2), role)
    assert schedules.existing(REGION) == [later] and later.machine_id == "i-2"
    schedules.delete("demo", REGION)
    schedules.delete("demo", REGION)
    assert schedules.existing(REGION) == []


def test_a_new_role_is_waited_for(aws: FalseAws) -> None:
    said = "The execution role you provide must allow AWS EventBridge Scheduler to assume the role."
    aws.fail("scheduler", "CreateSchedule", "ValidationException", times=3, message=said)
    schedules.ensure("demo", REGION, "i-1", in_an_hour(), roles.ensure_timer("demo", REGION))
    assert len(aws.asked("scheduler", "CreateSchedule")) == 4


def test_a_role_that_never_works_is_reported(aws: FalseAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedules, "ROLE_SECONDS", 0.2)
    aws.fail("scheduler", "CreateSchedule", "ValidationException", times=None, message="the role cannot be assumed")
    with pytest.raises(errors.AwsError, match="role cannot be assumed"):
        schedules.ensure("demo", REGION, "i-1", in_an_hour(), "arn:aws:iam::123456789012:role/x")


@pytest.mark.parametrize("at", [datetime(2020, 1, 1, tzinfo=UTC), datetime(2099, 1, 1)])
def test_a_timer_in_the_past_or_without_a_time_zone_is_refused(aws: FalseAws, at: datetime) -> None:
    with pytest.raises(ValueError, match="in the future with its time zone"):
        schedules.ensure("demo", REGION, "i-1", at, "arn")
    assert not aws.asked("scheduler")


def test_schedules_of_others_are_left_out(aws: FalseAws) -> None:
    target = {"Arn": "arn:aws:sqs:us-east-1:123456789012:q", "RoleArn": "arn:aws:iam::123456789012:role/x"}
    for name in ("mistral-workbook-theirs", "other"):
        session.client("scheduler", REGION).create_schedule(Name=name, ScheduleExpression="rate(1 hour)", FlexibleTimeWindow={"Mode": "OFF"}, Target=target)  # fmt: skip
    assert schedules.existing(REGION) == []


def test_the_token_is_encrypted_replaced_and_deleted_and_in_no_message(aws: FalseAws) -> None:
    name = parameters.put_token("demo", REGION, "hf_first")
    assert parameters.put_token("demo", REGION, "hf_second") == name == "/mistral-workbook/demo/hf-token"
    kept = session.client("ssm", REGION).get_parameter(Name=name, WithDecryption=True)["Parameter"]
    assert (kept["Type"], kept["Value"]) == ("SecureString", "hf_second")
    assert parameters.existing(REGION) == {name: "demo"} and parameters.existing(REGION, "other") == {}
    aws.deny("ssm", "PutParameter", times=1)
    with pytest.raises(errors.AwsError, match="ssm:PutParameter") as raised:
        parameters.put_token("demo", REGION, "hf_third")
    assert "hf_" not in str(raised.value)
    for _ in range(2):
        parameters.delete("demo", REGION)
    assert parameters.existing(REGION) == {}


def test_a_command_returns_what_it_prints(aws: FalseAws, machine: machines.Machine) -> None:
    aws.shell = lambda machine_id, lines: (0, f"{machine_id}: {lines}")
    assert shell_commands.wait_reachable(machine.id, REGION, 5)
    assert shell_commands.send(machine.id, REGION, ["uptime", "who"], 30) == f"{machine.id}: ['uptime', 'who']"


def test_a_command_that_fails_gives_its_exit_code_and_last_lines(aws: FalseAws, machine: machines.Machine) -> None:
    aws.shell = lambda machine_id, lines: (7, "\n".join(f"line {number}" for number in range(50)))
    with pytest.raises(shell_commands.CommandError, match=r"(?s)exit code 7; its last lines:\nline 40.*line 49$") as raised:
        shell_commands.send(machine.id, REGION, ["false"], 30)
    assert raised.value.exit_code == 7


def test_a_command_that_takes_too_long_is_reported(aws: FalseAws, machine: machines.Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell_commands, "LISTED_SECONDS", 0)
    aws.shell = lambda machine_id, lines: (time.sleep(3), (0, ""))[1]
    with pytest.raises(shell_commands.CommandError, match="did not end within 1 s") as raised:
        shell_commands.send(machine.id, REGION, ["sleep 3"], 1)
    assert raised.value.exit_code is None


def test_a_machine_that_cannot_be_reached_is_named(aws: FalseAws, machine: machines.Machine) -> None:
    aws.unreachable.add(machine.id)
    assert not shell_commands.reachable(machine.id, REGION)
    assert not shell_commands.wait_reachable(machine.id, REGION, 0.1)
    with pytest.raises(shell_commands.CommandError, match="does not report to Systems Manager"):
        shell_commands.send(machine.id, REGION, ["true"], 30)


def test_an_invocation_that_is_not_listed_yet_is_waited_for(aws: FalseAws, machine: machines.Machine) -> None:
    aws.fail("ssm", "GetCommandInvocation", "InvocationDoesNotExist", times=2)
    aws.shell = lambda machine_id, lines: (0, "done")
    assert shell_commands.send(machine.id, REGION, ["true"], 30) == "done"


def test_quotas_say_what_is_allowed_used_and_needed(aws: FalseAws, machine: machines.Machine) -> None:
    found = quotas.vcpus(REGION, "g5.xlarge", spot=False)
    assert (found.code, found.limit, found.used, found.needed, found.enough) == ("L-DB2E81BA", 8.0, 4, 4, True)
    assert quotas.vcpus(REGION, "g5.2xlarge", spot=False).enough is False
    assert quotas.vcpus(REGION, "g4dn.xlarge", spot=True).used == 0
    aws.quotas["L-3819A6DF"] = 0.0
    assert quotas.vcpus(REGION, "g4dn.xlarge", spot=True).enough is False


def test_a_quota_that_cannot_be_seen_is_none_with_the_reason(aws: FalseAws) -> None:
    aws.deny("service-quotas", "GetServiceQuota")
    aws.deny("ec2", "DescribeInstances")
    found = quotas.vcpus(REGION, "g5.xlarge", spot=False)
    assert (found.limit, found.used, found.needed, found.enough) == (None, None, 4, None)
    assert "servicequotas:GetServiceQuota is needed" in found.note and "ec2:DescribeInstances is needed" in found.note


@pytest.mark.parametrize(
    ("type", "code"),
    [
        ("g4dn.xlarge", "L-DB2E81BA"),
        ("g6e.xlarge", "L-DB2E81BA"),
        ("p5.48xlarge", "L-417A185B"),
        ("t3.micro", "L-1216C47A"),
        ("u-6tb1.metal", ""),
    ],
)
def test_each_type_counts_against_its_family(type: str, code: str) -> None:
    assert quotas.of(type, spot=False).code == code
    assert quotas.console(REGION, code).startswith("https://us-east-1.console.aws.amazon.com/servicequotas/")


def test_prices_are_by_zone_and_by_list(aws: FalseAws) -> None:
    assert all(zone.startswith(REGION) and price > 0 for zone, price in prices.spot(REGION, "g5.xlarge").items())
    aws.prices[(REGION, "g5.xlarge")] = 1.006
    assert prices.on_demand(REGION, "g5.xlarge") == 1.006 and prices.on_demand(REGION, "g6.xlarge") is None
    assert aws.asked("pricing")[0].region == prices.PRICE_LIST_REGION
    assert 0.002 < prices.DAY_PRICES["volume"] < 0.003 and prices.DAY_PRICES["address"] == pytest.approx(0.12)


def test_the_policy_of_the_timer_is_what_the_role_has(aws: FalseAws) -> None:
    roles.ensure_timer("demo", REGION)
    kept = session.client("iam", REGION).get_role_policy(RoleName="mistral-workbook-demo-timer", PolicyName=roles.POLICY)["PolicyDocument"]
    assert json.dumps(kept) == json.dumps(policies.timer_policy(names.of("demo"), "123456789012", REGION))
