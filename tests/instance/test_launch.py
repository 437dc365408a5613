"""`up`: what it makes, in which order, that a second call finds the first machine, and that capacity, quota and timer are respected."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mistral_lib.aws import buckets, machines, names, network, prices, schedules, session
from mistral_lib.aws.errors import AwsError
from mistral_lib.aws.machines import QuotaError
from mistral_lib.aws.regions import RegionError
from mistral_lib.instance import capacity, launch, launch_options, records
from mistral_lib.instance.capacity import NoCapacityError
from mistral_lib.instance.launch_options import LaunchError, UpOptions
from mistral_lib.run import params
from tests.support.aws_stand_in import FalseAws

REGION = "us-east-1"
OPTIONS = UpOptions(region=REGION, disk_gib=90, ignore_fit=True, wait_minutes=0)
SETTINGS = params.validate({"run_name": "first", "instance": "g4dn.xlarge"})


def up(**changes: Any) -> records.Record:
    return launch.up("params/mine.yaml", SETTINGS, replace(OPTIONS, **changes))


def launched(aws: FalseAws) -> list[dict[str, Any]]:
    return [one.parameters for one in aws.asked("ec2", "RunInstances")]


def test_up_makes_bucket_roles_group_machine_and_timer_and_records_them(home, aws: FalseAws) -> None:
    record = up(max_hours=3)
    assert record == records.load("first") and record.complete
    machine = machines.get(REGION, record.machine)
    assert machine.type == "g4dn.xlarge" and machine.run == "first" and not machine.spot and machine.volume_gib == 90
    assert record.ends_at == machine.launched + timedelta(hours=3)
    assert record.bucket == f"mistral-workbook-{session.account(REGION)}-{REGION}"
    assert buckets.sha256_of(record.bucket, "runs/first/machine.tar.gz", REGION) == record.archive_sha256
    timer = schedules.existing(REGION, "first")[0]
    assert timer.machine_id == record.machine and timedelta(0) < timer.at - record.ends_at <= timedelta(minutes=11)
    assert list(network.groups(REGION, "first")) == [record.group]
    assert not aws.asked("ec2", "AuthorizeSecurityGroupIngress")


def test_the_machines_own_timer_is_in_its_user_data_and_no_credential_is(home, aws: FalseAws) -> None:
    record = up(max_hours=2.5)
    backend = session.client("ec2", REGION)
    attribute = backend.describe_instance_attribute(InstanceId=record.machine, Attribute="userData")
    script = base64.b64decode(attribute["UserData"]["Value"]).decode()
    assert "shutdown -P +150" in script and "testing" not in script and record.archive_sha256 in script


def test_the_timer_stays_with_the_machine_that_runs_if_another_computer_launched_it(home, aws: FalseAws) -> None:
    first = up()
    machines.terminate(REGION, first.machine)
    second = up()  # as from another computer, of which this one's record knows nothing:
    records.save(first)
    found = up()
    assert found.machine == second.machine and found.complete and records.load("first") == found
    assert [timer.machine_id for timer in schedules.existing(REGION)] == [second.machine]


def test_a_second_up_finds_the_first_machine(home, aws: FalseAws) -> None:
    first = up()
    assert up() == first and len(launched(aws)) == 1


def test_a_second_computer_finds_the_first_machine(home, aws: FalseAws) -> None:
    first = up(max_hours=4)
    records.delete("first")
    second = up(max_hours=4)
    assert second.machine == first.machine and second.ends_at == first.ends_at and len(launched(aws)) == 1


def test_another_computer_never_moves_the_end_to_a_later_time(home, aws: FalseAws, capsys: pytest.CaptureFixture[str]) -> None:
    first = up(max_hours=2)
    timer = schedules.get("first", REGION)
    records.delete("first")  # as on another computer
    second = up(max_hours=9)
    assert second.complete and schedules.get("first", REGION) == timer
    assert abs(second.ends_at - first.ends_at) < timedelta(seconds=1) and second.max_hours == pytest.approx(2, abs=0.001)
    assert "its end is never moved to a later time" in capsys.readouterr().err
    records.save(replace(second, ends_at=second.ends_at + timedelta(hours=5)))  # an older record than the schedule
    assert up().ends_at == second.ends_at == records.load("first").ends_at and schedules.get("first", REGION) == timer


def test_another_computer_may_move_the_end_to_an_earlier_time(home, aws: FalseAws) -> None:
    first = up(max_hours=9)
    records.delete("first")
    second = up(max_hours=2)
    assert first.ends_at - second.ends_at == timedelta(hours=7)
    assert schedules.get("first", REGION).at == (second.ends_at + timedelta(minutes=10)).replace(microsecond=0)


def test_a_machine_that_has_its_timer_is_not_ended_by_a_computer_that_may_not_change_it(home, aws: FalseAws) -> None:
    first = up(max_hours=9)
    timer = schedules.get("first", REGION)
    records.delete("first")
    aws.deny("scheduler", "UpdateSchedule")
    with pytest.raises(AwsError, match="scheduler:UpdateSchedule"):
        up(max_hours=2)
    assert machines.get(REGION, first.machine).state == "running" and schedules.get("first", REGION) == timer


def test_a_second_up_that_requests_another_machine_is_refused(home, aws: FalseAws) -> None:
    first = up()
    with pytest.raises(LaunchError, match=r"type g5\.xlarge \(now g4dn\.xlarge\).*instance down first"):
        up(type="g5.xlarge")
    assert records.load("first") == first


def test_after_the_machine_has_ended_up_launches_another_one_for_the_same_results(home, aws: FalseAws) -> None:
    first = up()
    machines.terminate(REGION, first.machine)
    second = up(region=None)
    assert second.machine != first.machine and second.attempt == 2 and second.region == REGION
    assert (second.bucket, second.prefix) == (first.bucket, first.prefix)
    assert schedules.existing(REGION, "first")[0].machine_id == second.machine


def test_a_stopped_machine_of_the_run_is_not_doubled(home, aws: FalseAws) -> None:
    first = up()
    machines.stop(REGION, first.machine)
    with pytest.raises(LaunchError, match=f"is stopped: start it with `python -m mistral_lib instance start <file> {first.machine}`"):
        up()


def test_the_third_zone_is_taken_if_two_have_no_capacity(home, aws: FalseAws) -> None:
    zones, subnets = launch_zones(), network.subnets(REGION)
    for zone, code, status in ((zones[0], "InsufficientInstanceCapacity", 500), (zones[1], "Unsupported", 400)):
        full = subnets[zone]
        aws.fail("ec2", "RunInstances", code, status, times=None, when=lambda asked, full=full: asked["SubnetId"] == full)
    record = up()
    tried = [one["SubnetId"] for one in launched(aws)]
    assert list(dict.fromkeys(tried)) == [subnets[zone] for zone in zones[:3]]
    assert machines.get(REGION, record.machine).zone == zones[2]


def launch_zones() -> list[str]:
    offering = network.zones(REGION, "g4dn.xlarge")
    return [zone for zone in network.subnets(REGION) if zone in offering]


def test_without_capacity_the_zones_are_tried_again_until_the_time_is_over(home, aws: FalseAws) -> None:
    count = len(launch_zones())
    aws.fail("ec2", "RunInstances", "InsufficientInstanceCapacity", times=None)
    with pytest.raises(NoCapacityError, match=r"after 2 attempt.*--wait-minutes"):
        up(wait_minutes=0.005)
    assert len(launched(aws)) == 2 * count
    aws.recover()
    assert up().complete


def test_pauses_grow_and_the_last_attempt_is_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, pauses = [0.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(capacity.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(capacity.time, "sleep", sleep)
    with pytest.raises(NoCapacityError):
        capacity.until_there_is_capacity(lambda number: None, "x", 20, "try later")
    assert pauses == [15, 30, 60, 120, 300, 300, 300, 75]


def test_a_quota_that_is_too_small_stops_before_anything_is_made(home, aws: FalseAws) -> None:
    aws.quotas["L-DB2E81BA"] = 0
    with pytest.raises(QuotaError, match=r"Running On-Demand G and VT.*0 vCPUs.*4 needed.*console\.aws\.amazon"):
        up()
    assert not launched(aws) and not aws.asked("s3", "CreateBucket") and not aws.asked("iam", "CreateRole")


def test_a_quota_that_only_ec2_knows_stops_at_the_launch(home, aws: FalseAws) -> None:
    aws.deny("service-quotas", "*")
    aws.fail("ec2", "RunInstances", "VcpuLimitExceeded")
    with pytest.raises(QuotaError, match="L-DB2E81BA"):
        up()
    assert len(launched(aws)) == 1


def test_if_the_timer_cannot_be_set_the_machine_is_terminated_and_up_can_be_repeated(home, aws: FalseAws) -> None:
    aws.deny("scheduler", "CreateSchedule", times=1)
    with pytest.raises(AwsError, match="scheduler:CreateSchedule"):
        up()
    assert machines.find(REGION, "first") == [] and records.load("first").step == "group"
    record = up()
    assert record.complete and len(launched(aws)) == 2 and len(schedules.existing(REGION)) == 1


def test_a_lost_answer_to_the_launch_makes_no_second_machine(home, aws: FalseAws) -> None:
    aws.fail("ec2", "RunInstances", "InternalError", status=500, times=1, after=True)
    record = up()
    assert [machine.id for machine in machines.find(REGION, "first")] == [record.machine]


def test_money_sets_the_end_and_spot_is_counted_at_its_bid(home, aws: FalseAws, monkeypatch: pytest.MonkeyPatch) -> None:
    aws.prices[(REGION, "g4dn.xlarge")] = 0.5
    assert up(max_usd=1.0, dry_run=True).max_hours == pytest.approx(2.0)
    monkeypatch.setattr(prices, "spot", lambda region, type: {"us-east-1b": 0.16, "us-east-1a": 0.20})
    record = up(spot=True, max_usd=1.0)
    assert record.usd_per_hour == 0.25 and record.max_hours == pytest.approx(4.0)
    asked = launched(aws)[0]
    assert "0.25" in json.dumps(asked) and machines.get(REGION, record.machine).zone == "us-east-1b"


def test_the_bid_is_never_above_the_price_on_demand(home, aws: FalseAws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prices, "spot", lambda region, type: {"us-east-1b": 0.9})
    assert launch_options.usd_per_hour("g4dn.xlarge", REGION, True, None) == 0.526


def test_the_region_is_never_guessed(home, aws: FalseAws) -> None:
    with pytest.raises(RegionError, match="none is guessed"):
        up(region=None)
    with pytest.raises(RegionError, match="us-east-1"):
        up(region="us-est-1")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "g99.xlarge"}, "--type g99.xlarge: not in params/instances.yaml"),
        ({"max_hours": 0}, "--max-hours is 0, expected a number above 0"),
        ({"max_usd": -1}, "--max-usd is -1"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused_before_anything_is_made(home, aws: FalseAws, changes, message) -> None:
    with pytest.raises(LaunchError, match=message):
        up(**changes)
    assert not aws.asked("s3", "CreateBucket")


def test_parameters_for_this_computer_need_a_type(home, aws: FalseAws) -> None:
    with pytest.raises(LaunchError, match="instance is 'cpu' in the parameters"):
        launch.up("params/quick.yaml", params.validate({"run_name": "first"}), OPTIONS)


def test_a_run_that_does_not_fit_is_not_launched(home, aws: FalseAws) -> None:
    large = params.validate({
        "run_name": "large", "instance": "g4dn.xlarge", "base_model": "mistralai/Mistral-7B-Instruct-v0.3", "quantization": "none",
        "corpus_paths": ["corpora/nothing"],
    })  # fmt: skip
    with pytest.raises(LaunchError, match=r"does not fit on g4dn\.xlarge.*--ignore-fit"):
        launch.up("params/mine.yaml", large, UpOptions(region=REGION))
    assert not launched(aws)


def test_a_dry_run_makes_nothing_and_writes_the_policies(home, aws: FalseAws, capsys: pytest.CaptureFixture[str]) -> None:
    up(dry_run=True)
    shown = capsys.readouterr().out
    for word in ("g4dn.xlarge", "90 GiB", "mistral-workbook-first", "without a rule", "policies"):
        assert word in shown
    policies = [json.loads(path.read_text()) for path in (records.folder() / "first-policies").glob("*.json")]
    assert len(policies) == 3
    made = [one.action for one in aws.requests if one.action.startswith(("Create", "Put", "RunInstances"))]
    assert made == [] and records.load("first") is None


def test_a_dry_run_asks_ec2_if_the_group_is_there(home, aws: FalseAws, capsys: pytest.CaptureFixture[str]) -> None:
    aws.fail("ec2", "RunInstances", "InsufficientInstanceCapacity", times=None, when=lambda asked: "DryRun" not in asked)
    with pytest.raises(NoCapacityError):
        up()
    up(dry_run=True)
    assert "would accept the order" in capsys.readouterr().out


def test_another_subnet_and_image_and_an_administrators_roles_are_used(home, aws: FalseAws) -> None:
    from mistral_lib.aws import images, roles

    account = session.account(REGION)
    roles.ensure("admin", "a-bucket-of-mine", REGION)
    aws.deny("iam", "CreateRole")
    own = names.of("admin")
    with pytest.raises(AwsError, match="--profile-name"):
        up()
    subnet = network.subnets(REGION)["us-east-1c"]
    record = up(profile_name=own.profile, timer_role=f"arn:aws:iam::{account}:role/t", subnet=subnet, image=images.newest(REGION))
    machine = machines.get(REGION, record.machine)
    assert machine.zone == "us-east-1c" and record.profile == own.profile


def test_times_of_a_record_are_read_back(home) -> None:
    now = datetime.now(UTC)
    record = records.Record("a", REGION, "g5.xlarge", False, 1.0, 2.0, 0.0, launched=now, ends_at=now + timedelta(hours=2), fetched=None)
    records.save(record)
    assert records.load("a") == record and records.all_records() == [record]
    records.place("a").write_text('{"run": "a"}')
    with pytest.raises(records.RecordError, match=r"runs/\.instances/a\.json cannot be read"):
        records.load("a")


def test_only_one_process_launches_for_a_run_at_a_time(home, aws: FalseAws) -> None:
    from mistral_lib.instance import launch_steps

    with launch_steps.only_one("first"), pytest.raises(LaunchError, match="another process"):
        up()
