"""`start`: a stopped machine of one's own is prepared, started and set up; without capacity only what was requested is done."""

import base64
from dataclasses import replace
from typing import Any

import pytest

from mistral_lib.aws import found_machines, images, machines, network, schedules, session
from mistral_lib.aws.errors import AwsError
from mistral_lib.aws.shell_commands import CommandError
from mistral_lib.instance import launch, moving, records, removal, resources, restart
from mistral_lib.instance.capacity import NoCapacityError
from mistral_lib.instance.launch_options import LaunchError, StartOptions, UpOptions
from mistral_lib.run import params
from tests.support import aws_missing
from tests.support.aws_stand_in import FalseAws

REGION, FAR = "us-east-1", "us-west-2"
SETTINGS = params.validate({"run_name": "first", "instance": "g4dn.xlarge"})
OPTIONS = StartOptions(region=REGION, ignore_fit=True)


def own_machine(region: str = REGION, type: str = "g4dn.xlarge", stopped: bool = True, **asked: Any) -> str:
    """A machine that was there before the workbook: no tag, the open default group, no profile unless it is asked for; its id."""
    client = session.client("ec2", region)
    subnet = next(iter(network.subnets(region).values()))
    wanted = {"ImageId": images.newest(region), "InstanceType": type, "MinCount": 1, "MaxCount": 1, "SubnetId": subnet}
    made = client.run_instances(**wanted, **asked)["Instances"][0]
    if stopped:
        client.stop_instances(InstanceIds=[made["InstanceId"]])
    return made["InstanceId"]


def start(machine: str, **changes: Any) -> records.Record:
    return restart.start(machine, "params/mine.yaml", SETTINGS, replace(OPTIONS, **changes))


def described(machine: str) -> dict[str, Any]:
    return session.client("ec2", REGION).describe_instances(InstanceIds=[machine])["Reservations"][0]["Instances"][0]


def no_capacity(aws: FalseAws, times: int | None = None) -> None:
    aws.fail("ec2", "StartInstances", "InsufficientInstanceCapacity", times=times)


def test_an_own_stopped_machine_is_prepared_started_and_set_up(home, aws: FalseAws) -> None:
    sent: list[str] = []
    aws.shell = lambda machine, lines: (sent.extend(lines), (0, ""))[1]
    machine = own_machine()
    record = start(machine, max_hours=2, idle_minutes=90)
    assert record.machine == machine and record.complete and record.adopted and record.attempt == 1
    now = described(machine)
    assert now["State"]["Name"] == "running" and [group["GroupId"] for group in now["SecurityGroups"]] == [record.group]
    assert record.profile in now["IamInstanceProfile"]["Arn"] and now["MetadataOptions"]["HttpTokens"] == "required"
    script = base64.b64decode(sent[0].split()[1]).decode()
    assert "shutdown -P +" in script and record.archive_sha256 in script and sent[1].startswith("bash ")
    assert '"idle_minutes": 90, "adopted": true' in script, "its units begin at no later start, which is its owner's"


def test_the_timer_is_set_before_the_machine_starts_and_stops_it(home, aws: FalseAws) -> None:
    machine = own_machine()
    start(machine)
    order = [one.action for one in aws.requests if one.action in ("CreateSchedule", "StartInstances", "SendCommand")]
    assert list(dict.fromkeys(order)) == ["CreateSchedule", "StartInstances", "SendCommand"]
    timer = schedules.existing(REGION, "first")[0]
    assert timer.machine_id == machine
    aws.ring(now=timer.at)
    assert machines.get(REGION, machine).state == "stopped"


def test_shutdown_on_a_machine_of_ones_own_stops_it_even_if_it_was_set_to_terminate(home, aws: FalseAws) -> None:
    machine = own_machine(InstanceInitiatedShutdownBehavior="terminate")
    assert aws_missing.machine(REGION, machine).instance_initiated_shutdown_behavior == "terminate"
    start(machine)
    assert aws.shut_down(machine) == "stopped"
    assert removal.down("first", yes=True) == 0
    assert aws_missing.machine(REGION, machine).instance_initiated_shutdown_behavior == "terminate", "as it was before"


def test_a_stopped_machine_that_has_a_profile_gets_the_runs_and_then_its_own_again(home, aws: FalseAws) -> None:
    # EC2 replaces the profile of a running machine alone.
    aws.fail("ec2", "ReplaceIamInstanceProfileAssociation", "IncorrectState", times=None)
    profile = session.client("iam", REGION).create_instance_profile(InstanceProfileName="theirs")["InstanceProfile"]["Arn"]
    machine = own_machine(IamInstanceProfile={"Name": "theirs"})
    # The old association takes some seconds to go.
    aws.fail("ec2", "AssociateIamInstanceProfile", "IncorrectState", times=1)
    record = start(machine)
    assert described(machine)["IamInstanceProfile"]["Arn"].endswith(f"/{record.profile}")
    assert removal.down("first", yes=True) == 0 and described(machine)["IamInstanceProfile"]["Arn"] == profile


def test_down_gives_a_machine_back_as_it_was(home, aws: FalseAws, capsys: pytest.CaptureFixture[str]) -> None:
    machine = own_machine()
    # Containers on it need two hops to the metadata service.
    options = {"HttpTokens": "optional", "HttpPutResponseHopLimit": 3, "HttpEndpoint": "enabled"}
    session.client("ec2", REGION).modify_instance_metadata_options(InstanceId=machine, **options)
    before = described(machine)
    start(machine)
    assert described(machine)["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    found = {one.kind: one for one in resources.everything()}
    assert found["adopted machine"].id == machine and "was there before" in found["adopted machine"].note
    assert removal.down("first", yes=True) == 0 and resources.everything() == []
    after = described(machine)
    assert after["State"]["Name"] == "stopped" and after["SecurityGroups"] == before["SecurityGroups"]
    for option in ("HttpTokens", "HttpPutResponseHopLimit", "HttpEndpoint"):
        assert after["MetadataOptions"][option] == before["MetadataOptions"][option]
    assert "IamInstanceProfile" not in after and not any(tag["Key"].startswith("mistral") for tag in after.get("Tags", []))
    assert not aws.asked("ec2", "TerminateInstances")


def test_a_second_start_finds_the_machine_running_and_sets_it_up_again(home, aws: FalseAws) -> None:
    machine = own_machine()
    first = start(machine)
    second = start(machine)
    assert second.machine == first.machine and second.adopted and len(aws.asked("ec2", "StartInstances")) == 1


def test_a_start_of_a_machine_that_runs_never_moves_its_end_to_a_later_time(
    home, aws: FalseAws, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = own_machine()
    start(machine, max_hours=2)
    timer = schedules.get("first", REGION)
    assert start(machine, max_hours=9).max_hours == pytest.approx(2, abs=0.01) and schedules.get("first", REGION) == timer
    assert "its end is never moved to a later time" in capsys.readouterr().err
    machines.stop(REGION, machine)
    assert start(machine, max_hours=9).max_hours == 9 and schedules.get("first", REGION).at > timer.at
    assert f"the timer in AWS for {machine} moves from" in capsys.readouterr().err


def test_a_stopped_machine_of_the_run_itself_is_started(home, aws: FalseAws) -> None:
    launched = launch.up("params/mine.yaml", SETTINGS, UpOptions(region=REGION, disk_gib=90, ignore_fit=True, wait_minutes=0))
    machines.stop(REGION, launched.machine)
    record = start(launched.machine)
    assert record.complete and not record.adopted and record.bucket == launched.bucket
    assert removal.down("first", yes=True) == 0 and machines.get(REGION, launched.machine).state == "terminated"


def test_without_capacity_nothing_is_done_that_was_not_requested(home, aws: FalseAws) -> None:
    machine = own_machine()
    no_capacity(aws)
    with pytest.raises(NoCapacityError, match=r"--retry-minutes N.*--change-type.*--move-to"):
        start(machine)
    assert machines.get(REGION, machine).type == "g4dn.xlarge" and not aws.asked("ec2", "CreateImage")
    assert removal.down("first", yes=True) == 0 and machines.get(REGION, machine).state == "stopped"


def test_waiting_is_requested_by_an_option(home, aws: FalseAws) -> None:
    machine = own_machine()
    no_capacity(aws, times=1)
    assert start(machine, retry_minutes=0.02).complete


def test_another_type_is_requested_by_an_option(home, aws: FalseAws) -> None:
    machine = own_machine()
    no_capacity(aws, times=1)
    record = start(machine, change_type="g5.xlarge")
    assert record.type == "g5.xlarge" and record.usd_per_hour == 1.006 and machines.get(REGION, machine).type == "g5.xlarge"


def test_another_zone_gets_an_image_of_the_machine(home, aws: FalseAws) -> None:
    machine = own_machine()
    zone = list(network.subnets(REGION))[1]
    no_capacity(aws)
    record = start(machine, move_to=zone)
    new = machines.get(REGION, record.machine)
    assert new.id != machine and new.zone == zone and new.image == record.image and not record.adopted and record.complete
    assert "mistral-workbook" not in {tag["Key"] for tag in described(machine).get("Tags", [])}
    assert [timer.machine_id for timer in schedules.existing(REGION)] == [new.id]
    assert {"image", "snapshot"} <= {one.kind for one in resources.everything()}
    assert removal.down("first", yes=True) == 0 and resources.everything() == []
    assert machines.get(REGION, machine).state == "stopped"


def test_another_region_gets_a_copy_of_the_image_and_a_bucket_there(home, aws: FalseAws) -> None:
    machine = own_machine()
    no_capacity(aws)
    record = start(machine, move_to=FAR)
    assert record.region == FAR and record.complete and record.bucket.endswith(FAR)
    assert machines.get(FAR, record.machine).state == "running" and schedules.existing(REGION) == []
    assert removal.down("first", yes=True) == 0 and resources.everything() == []


def test_a_copy_of_the_image_that_an_earlier_call_began_is_taken(home, aws: FalseAws, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = own_machine()
    no_capacity(aws)
    with monkeypatch.context() as patch:
        patch.setattr(images, "wait", lambda region, image: region == REGION)  # the copy is not ready in time
        with pytest.raises(AwsError, match="run the command again, it is found"):
            start(machine, move_to=FAR)
    assert start(machine, move_to=FAR).complete
    assert len(aws.asked("ec2", "CopyImage")) == 1 and len(aws.asked("ec2", "CreateImage")) == 1


def test_a_type_and_a_place_are_typed_at_the_question(home, aws: FalseAws, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = own_machine()
    monkeypatch.setattr(restart.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: "no")
    no_capacity(aws, times=2)
    with pytest.raises(NoCapacityError):
        start(machine)
    monkeypatch.setattr("builtins.input", lambda question: "type g5.xlarge")
    assert start(machine).type == "g5.xlarge"


def test_a_place_is_a_zone_or_a_region(home, aws: FalseAws) -> None:
    assert moving.region_and_zone("eu-west-1") == ("eu-west-1", None)
    assert moving.region_and_zone("eu-west-1b") == ("eu-west-1", "eu-west-1b")
    with pytest.raises(ValueError, match="near ones"):
        moving.region_and_zone("nowhere")


def test_a_machine_that_cannot_be_set_up_is_stopped_again(home, aws: FalseAws, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = own_machine()
    aws.shell = lambda machine, lines: (3, "no space left")
    with pytest.raises(CommandError, match="no space left"):
        start(machine)
    assert machines.get(REGION, machine).state == "stopped"
    aws.unreachable.add(machine)
    monkeypatch.setattr(restart, "REACHABLE_SECONDS", 0.1)
    with pytest.raises(CommandError, match="does not report to Systems Manager"):
        start(machine)
    assert machines.get(REGION, machine).state == "stopped"
    aws.unreachable.clear()
    aws.shell = lambda machine, lines: (0, "")
    assert start(machine).complete


def test_a_machine_whose_set_up_is_interrupted_is_stopped_again(home, aws: FalseAws, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    machine = own_machine()
    monkeypatch.setattr(restart.shell_commands, "wait_reachable", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start(machine)
    assert machines.get(REGION, machine).state == "stopped"


def test_without_the_outside_timer_it_is_not_started(home, aws: FalseAws) -> None:
    machine = own_machine()
    aws.deny("scheduler", "CreateSchedule")
    with pytest.raises(AwsError, match="scheduler:CreateSchedule"):
        start(machine)
    assert not aws.asked("ec2", "StartInstances")
    aws.recover()
    assert removal.down("first", yes=True) == 0 and resources.everything() == []


def test_a_machine_that_does_not_suit_is_refused(home, aws: FalseAws) -> None:
    with pytest.raises(AwsError, match="has no machine i-0123456789abcdef0"):
        start("i-0123456789abcdef0")
    running = own_machine(stopped=False)
    with pytest.raises(LaunchError, match="is running and was not started for first"):
        start(running)
    small = own_machine(type="t3.micro")
    with pytest.raises(LaunchError, match=r"t3\.micro"):
        start(small)
    other = own_machine()
    restart.start(other, "x", params.validate({"run_name": "second", "instance": "g4dn.xlarge"}), OPTIONS)
    with pytest.raises(LaunchError, match="belongs to the run second"):
        start(other)
    terminated = own_machine()
    machines.terminate(REGION, terminated)
    with pytest.raises(LaunchError, match="is terminated"):
        start(terminated)
    assert aws_missing.machine(REGION, running).state == "running" and found_machines.ids(REGION, "first") == set()
