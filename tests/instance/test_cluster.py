"""`up --nodes`: a head and workers, launched together in one zone and one placement group, each with its timers; `down` leaves nothing."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mistral_lib.aws import machines, network, schedules, session
from mistral_lib.aws.errors import AwsError
from mistral_lib.aws.machines import Machine, QuotaError
from mistral_lib.instance import launch, listing, records, removal, resources
from mistral_lib.instance.capacity import NoCapacityError
from mistral_lib.instance.cluster import placement
from mistral_lib.instance.launch_options import LaunchError, UpOptions
from mistral_lib.on_machine.user_data import Place
from mistral_lib.run import params, paths
from tests.support.aws_stand_in import FalseAws

REGION = "us-east-1"
SETTINGS = params.validate({"run_name": "first", "instance": "g4dn.xlarge"})
OPTIONS = UpOptions(region=REGION, disk_gib=90, ignore_fit=True, wait_minutes=0, nodes=3)
GROUP = "mistral-workbook-first"


@pytest.fixture(autouse=True)
def quota(aws: FalseAws) -> Iterator[None]:
    aws.quotas["L-DB2E81BA"] = 16  # vCPUs: four machines
    yield


def up(**changes: Any) -> records.Record:
    return launch.up("params/mine.yaml", SETTINGS, replace(OPTIONS, **changes))


def alive() -> list[Machine]:
    return machines.find(REGION, "first", states=("pending", "running"))


def launched(aws: FalseAws) -> list[dict[str, Any]]:
    return [one.parameters for one in aws.asked("ec2", "RunInstances")]


def place_of(machine_id: str) -> Place:
    """What the machine's script writes down."""
    found = session.client("ec2", REGION).describe_instance_attribute(InstanceId=machine_id, Attribute="userData")
    script = base64.b64decode(found["UserData"]["Value"]).decode()
    return Place(**json.loads(re.search(r"printf '%s\\n' '(.+)' > ", script)[1]))


def test_a_head_and_its_workers_are_launched_together_in_one_zone_and_group(home, aws: FalseAws) -> None:
    record = up(max_hours=3)
    assert record == records.load("first") and record.complete and record.nodes == 3
    found = {machine.id: machine for machine in alive()}
    assert set(found) == set(record.all_machines) and len(found) == 3 and len({machine.zone for machine in found.values()}) == 1
    assert [found[one].worker for one in record.all_machines] == [False, True, True]
    asked = launched(aws)
    assert len(asked) == 1 and (asked[0]["MinCount"], asked[0]["MaxCount"], asked[0]["Placement.GroupName"]) == ("3", "3", GROUP)
    assert aws.placements[REGION, GROUP]["strategy"] == "cluster" and record.placement == GROUP
    assert {machine.run for machine in found.values()} == {"first"} and {machine.nodes for machine in found.values()} == {3}
    assert aws.placements[REGION, GROUP]["tags"]["mistral-workbook"] == "first"
    assert place_of(record.machine) == place_of(record.workers[0]) and place_of(record.machine).nodes == 3


def test_nothing_comes_in_but_from_the_groups_own_members(home, aws: FalseAws) -> None:
    record = up()
    up()
    found = session.client("ec2", REGION).describe_security_groups(GroupIds=[record.group])["SecurityGroups"][0]["IpPermissions"]
    assert len(found) == 1 and [pair["GroupId"] for pair in found[0]["UserIdGroupPairs"]] == [record.group]
    assert not found[0]["IpRanges"] and not found[0]["Ipv6Ranges"] and not found[0]["PrefixListIds"]
    assert found[0]["IpProtocol"] == "tcp" and found[0]["FromPort"] == 1024, "SSH is not among the ports"
    assert not [one for one in aws.asked("ec2", "AuthorizeSecurityGroupIngress") if "Cidr" in one.text]


def test_each_machine_has_its_two_timers_and_the_limits_hold_for_all_together(home, aws: FalseAws, capsys) -> None:
    aws.prices[REGION, "g4dn.xlarge"] = 0.5
    record = up(max_usd=3.0)
    assert record.max_hours == pytest.approx(2.0) and record.usd_per_hour_of_all == 1.5
    assert "on demand, 3 machines in us-east-1, at most 1.5 USD per hour" in capsys.readouterr().err
    timers = schedules.existing(REGION, "first")
    assert sorted(one.machine_id for one in timers) == sorted(record.all_machines)
    assert all(timedelta(0) < one.at - record.ends_at <= timedelta(minutes=11) for one in timers)
    assert {place_of(one).minutes for one in record.all_machines} == {120}
    assert sorted(aws.ring(now=timers[0].at)) == sorted(record.all_machines) and alive() == []


def test_the_next_zone_is_taken_for_all_together(home, aws: FalseAws) -> None:
    offering, subnets = network.zones(REGION, "g4dn.xlarge"), network.subnets(REGION)
    first, second = [zone for zone in subnets if zone in offering][:2]
    full = subnets[first]
    aws.fail("ec2", "RunInstances", "InsufficientInstanceCapacity", 500, times=None, when=lambda asked: asked["SubnetId"] == full)
    record = up()
    assert {machine.zone for machine in alive()} == {second} and len(record.workers) == 2


def test_without_capacity_the_error_says_how_many_are_there(home, aws: FalseAws) -> None:
    aws.fail("ec2", "RunInstances", "InsufficientInstanceCapacity", times=None)
    with pytest.raises(
        NoCapacityError, match=r"0 of 3 machines of first are there: no capacity for 3 g4dn\.xlarge together.*fewer --nodes"
    ):
        up()
    assert alive() == []
    aws.recover()
    record = up()
    machines.terminate(REGION, record.workers[0])
    aws.fail("ec2", "RunInstances", "InsufficientInstanceCapacity", times=None)
    with pytest.raises(NoCapacityError, match=r"2 of 3 machines of first are there"):
        up()
    assert {one.id for one in alive()} == {record.machine, record.workers[1]}, "the others stay"
    assert removal.down("first", yes=True) == 0 and resources.everything() == []


def test_a_quota_for_one_machine_is_not_enough_for_three(home, aws: FalseAws) -> None:
    aws.quotas["L-DB2E81BA"] = 8
    with pytest.raises(QuotaError, match="8 vCPUs, 0 in use, 12 needed for 3 machines"):
        up()
    assert not launched(aws)


def test_a_second_up_finds_all_and_replaces_a_worker_that_is_gone(home, aws: FalseAws) -> None:
    first = up()
    assert up(nodes=None) == first and len(launched(aws)) == 1
    machines.terminate(REGION, first.workers[0])
    second = up()
    assert (second.machine, second.ends_at, len(second.workers)) == (first.machine, first.ends_at, 2) and len(launched(aws)) == 2
    new = next(one for one in second.workers if one not in first.workers)
    assert place_of(new).worker and machines.get(REGION, new).worker
    assert machines.get(REGION, new).zone == machines.get(REGION, first.machine).zone
    assert {one.machine_id for one in schedules.existing(REGION, "first")} >= set(second.all_machines)
    assert place_of(new).minutes <= 12 * 60
    assert up() == second


def test_a_second_computer_finds_the_cluster(home, aws: FalseAws) -> None:
    first = up()
    records.delete("first")
    second = up(nodes=None)
    assert second.all_machines == first.all_machines and second.nodes == 3 and len(launched(aws)) == 1
    records.delete("first")
    with pytest.raises(LaunchError, match="launched with --nodes 3; requested was 2"):
        up(nodes=2)


def test_another_number_of_machines_is_refused(home, aws: FalseAws) -> None:
    up()
    with pytest.raises(LaunchError, match=r"nodes 4 \(now 3\)"):
        up(nodes=4)
    with pytest.raises(LaunchError, match="--nodes is 0, expected 1 or more"):
        launch.up("params/other.yaml", params.validate({"run_name": "other", "instance": "g4dn.xlarge"}), replace(OPTIONS, nodes=0))


def test_workers_whose_head_is_gone_are_replaced_with_it(home, aws: FalseAws) -> None:
    first = up()
    machines.terminate(REGION, first.machine)
    second = up()
    assert second.attempt == 2 and len(alive()) == 3 and not set(second.all_machines) & set(first.all_machines)


def test_if_a_timer_cannot_be_set_all_machines_are_terminated(home, aws: FalseAws) -> None:
    created: list[str] = []

    def second_fails(asked: Any) -> bool:
        created.append(asked["Name"])
        return len(created) > 1

    aws.fail("scheduler", "CreateSchedule", "AccessDeniedException", times=None, when=second_fails)
    with pytest.raises(AwsError):
        up()
    assert alive() == [] and records.load("first").workers == []
    aws.recover()
    assert len(up().workers) == 2


def test_a_worker_that_is_added_without_its_timer_is_terminated_alone(home, aws: FalseAws) -> None:
    first = up()
    machines.terminate(REGION, first.workers[0])
    kept = {first.machine, first.workers[1]}
    aws.deny("scheduler", "CreateSchedule")
    aws.deny("scheduler", "UpdateSchedule")
    with pytest.raises(AwsError):
        up()
    assert {one.id for one in alive()} == kept


def test_list_counts_all_machines_and_down_leaves_nothing(home, aws: FalseAws, capsys: pytest.CaptureFixture[str]) -> None:
    record = up()
    found = resources.everything()
    counted = [one for one in found if one.kind == "machine"]
    assert len(counted) == 3 and sum("worker" in one.note for one in counted) == 2
    assert all(one.usd_per_day >= 24 * record.usd_per_hour for one in counted)
    assert {"placement group", "security group", "schedule", "volume"} <= {one.kind for one in found}
    assert "placement group" in listing.text()
    assert removal.down("first", yes=True) == 0
    assert resources.everything() == [] and aws.placements == {} and records.load("first") is None
    assert "nothing is left of first" in capsys.readouterr().out


def test_a_dry_run_shows_the_price_of_all_and_writes_the_policy_of_clusters(home, aws: FalseAws, capsys) -> None:
    up(dry_run=True, max_hours=2)
    shown = capsys.readouterr().out
    assert "3 g4dn.xlarge in one placement group, on demand, 1.578 USD" in shown and "open to its own members alone" in shown
    assert "at most 3.16 USD for the machines" in shown and "cluster.json" in shown
    assert not aws.asked("ec2", "CreatePlacementGroup") and not launched(aws)


@pytest.mark.parametrize("step", ["group", "machine"])
def test_the_laptop_is_killed_after_a_step(home, aws: FalseAws, step: str) -> None:
    surroundings = {**os.environ, **aws.environment, "PYTHONPATH": str(paths.project())}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_up", step, "3"], env=surroundings, capture_output=True, timeout=180, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    record = up()
    assert record.complete and {one.id for one in alive()} == set(record.all_machines) and len(record.workers) == 2
    assert {one.machine_id for one in schedules.existing(REGION)} == set(record.all_machines)
    assert removal.down("first", yes=True) == 0 and resources.everything() == []


def test_the_laptop_is_killed_right_after_ec2_launched(home, aws: FalseAws) -> None:
    process: list[subprocess.Popen[bytes]] = []
    aws.before("scheduler", "CreateSchedule", lambda asked: os.kill(process[0].pid, signal.SIGKILL))
    surroundings = {**os.environ, **aws.environment, "PYTHONPATH": str(paths.project())}
    process.append(
        subprocess.Popen([sys.executable, "-m", "tests.support.killed_up", "never", "3"], env=surroundings, stderr=subprocess.DEVNULL)
    )
    assert process[0].wait(timeout=180) == -signal.SIGKILL
    assert len(alive()) == 3
    record = up()
    assert len(launched(aws)) == 1 and {one.id for one in alive()} == set(record.all_machines)
    assert removal.down("first", yes=True) == 0 and resources.everything() == []


def test_the_group_waits_for_machines_that_end_and_is_deleted_once(home, aws: FalseAws) -> None:
    up()
    aws.fail("ec2", "DeletePlacementGroup", "InvalidPlacementGroup.InUse", times=2)
    assert removal.down("first", yes=True) == 0 and placement.existing(REGION) == {}
    placement.delete("first", REGION)
