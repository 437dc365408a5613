"""EC2: launching once, refusals by zone and quota, the life of a machine, its network, image and leftovers."""

import pytest

from mistral_lib.aws import errors, images, machines, network, roles, session, volumes
from mistral_lib.aws.machines import CapacityError, Order, QuotaError
from tests.support.aws_stand_in import FalseAws

REGION = "us-east-1"
RUN = "demo"


def order(**changes: object) -> Order:
    """An order that can be carried out, with the role, group and subnet that it needs."""
    zone, subnet = next(iter(network.subnets(REGION).items()))
    usual = {
        "run": RUN, "type": "g5.xlarge", "region": REGION, "subnet": subnet, "zone": zone, "image": images.newest(REGION), "user_data": "#!/bin/bash\n", "volume_gib": 150,
        "profile": roles.ensure(RUN, "some-bucket", REGION), "group": network.ensure_group(RUN, REGION), "token": "first",
    }  # fmt: skip
    return Order(**(usual | changes))


def test_a_machine_is_launched_as_it_should_be(aws: FalseAws) -> None:
    machine = machines.launch(order())
    assert (machine.type, machine.run, machine.spot, machine.volume_gib, machine.name) == (
        "g5.xlarge",
        RUN,
        False,
        150,
        "mistral-workbook-demo",
    )
    found = session.client("ec2", REGION).describe_instances(InstanceIds=[machine.id])["Reservations"][0]["Instances"][0]
    assert found["MetadataOptions"]["HttpTokens"] == "required" and found["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
    assert "KeyName" not in found and found["IamInstanceProfile"]["Arn"].endswith("/mistral-workbook-demo")
    disk = session.client("ec2", REGION).describe_volumes()["Volumes"][0]
    assert disk["Encrypted"] and disk["VolumeType"] == "gp3"
    assert {"Key": "mistral-workbook", "Value": RUN} in disk["Tags"]
    assert aws.asked("ec2", "RunInstances")[0].parameters["BlockDeviceMapping.1.Ebs.DeleteOnTermination"] == "true"
    assert aws.shut_down(machine.id) == "terminated"
    assert session.client("ec2", REGION).describe_volumes()["Volumes"] == []


def test_the_same_run_never_gets_two_machines(aws: FalseAws) -> None:
    wanted = order()
    first = machines.launch(wanted)
    assert machines.launch(wanted).id == first.id and len(aws.asked("ec2", "RunInstances")) == 1
    aws.requests.clear()
    aws.launches.clear()
    # The answer to a launch is lost, and the machine is not listed yet: the token finds it.
    second = order(run="other", token="second")
    aws.cut("ec2", "RunInstances", 0)
    machine = machines.launch(second)
    assert [one.id for one in machines.find(REGION, "other")] == [machine.id]


def test_a_lost_answer_does_not_make_a_second_machine(aws: FalseAws) -> None:
    aws.fail("ec2", "RunInstances", "InternalError", status=500, after=True)
    machine = machines.launch(order())
    assert len(aws.asked("ec2", "RunInstances")) == 2
    assert [one.id for one in machines.find(REGION)] == [machine.id]


@pytest.mark.parametrize("code", ["InsufficientInstanceCapacity", "Unsupported", "SpotMaxPriceTooLow"])
def test_a_zone_without_capacity_is_named(aws: FalseAws, code: str) -> None:
    wanted = order(spot=True, max_price=0.5)
    aws.fail("ec2", "RunInstances", code, status=400)
    with pytest.raises(CapacityError, match=f"{wanted.zone} has no g5.xlarge now") as raised:
        machines.launch(wanted)
    assert raised.value.zone == wanted.zone
    machine = machines.launch(wanted)
    assert machine.spot
    asked = aws.asked("ec2", "RunInstances")[-1].parameters
    assert (
        asked["InstanceMarketOptions.SpotOptions.MaxPrice"] == "0.5"
        and asked["InstanceMarketOptions.SpotOptions.SpotInstanceType"] == "one-time"
    )


def test_each_zone_has_its_own_token(aws: FalseAws) -> None:
    aws.fail("ec2", "RunInstances", "InsufficientInstanceCapacity", times=2)
    places = list(network.subnets(REGION).items())
    for zone, subnet in places[:2]:
        with pytest.raises(CapacityError):
            machines.launch(order(zone=zone, subnet=subnet))
    assert machines.launch(order(zone=places[2][0], subnet=places[2][1])).zone == places[2][0]
    assert len({one.parameters["ClientToken"] for one in aws.asked("ec2", "RunInstances")}) == 3


def test_a_quota_that_is_too_small_is_named_with_the_place_to_ask(aws: FalseAws) -> None:
    aws.fail("ec2", "RunInstances", "VcpuLimitExceeded", times=2)
    with pytest.raises(QuotaError, match="servicequotas/home/services/ec2/quotas/L-DB2E81BA") as raised:
        machines.launch(order())
    assert raised.value.name == "Running On-Demand G and VT instances"
    with pytest.raises(QuotaError, match="L-3819A6DF"):
        machines.launch(order(spot=True))


def test_a_new_instance_profile_is_waited_for(aws: FalseAws) -> None:
    said = "Value (mistral-workbook-demo) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"
    aws.fail("ec2", "RunInstances", "InvalidParameterValue", times=3, message=said)
    assert machines.launch(order()).state == "running"
    assert len(aws.asked("ec2", "RunInstances")) == 4


def test_another_value_that_is_invalid_is_not_waited_for(aws: FalseAws) -> None:
    aws.fail("ec2", "RunInstances", "InvalidParameterValue", times=None, message="Value for parameter volume is invalid")
    with pytest.raises(errors.AwsError, match="volume is invalid"):
        machines.launch(order())
    assert len(aws.asked("ec2", "RunInstances")) == 1


def test_a_rehearsal_launches_nothing_and_finds_missing_rights(aws: FalseAws) -> None:
    machines.rehearse(order())
    assert machines.find(REGION) == []
    aws.deny("ec2", "RunInstances")
    with pytest.raises(errors.AwsError, match="ec2:RunInstances"):
        machines.rehearse(order())


def test_a_stopped_machine_changes_its_type_starts_again_and_ends(aws: FalseAws) -> None:
    machine = machines.launch(order())
    machines.stop(REGION, machine.id)
    assert machines.wait(REGION, machine.id, "stopped", 5)
    machines.change_type(REGION, machine.id, "g5.2xlarge")
    aws.fail("ec2", "StartInstances", "InsufficientInstanceCapacity", status=400)
    with pytest.raises(CapacityError, match=f"{machine.zone} has no g5.2xlarge"):
        machines.start(REGION, machine.id)
    started = machines.start(REGION, machine.id)
    assert (started.id, started.type, started.state) == (machine.id, "g5.2xlarge", "running")
    machines.terminate(REGION, machine.id)
    machines.terminate(REGION, machine.id)
    machines.terminate(REGION, "i-0123456789abcdef0")
    assert machines.wait(REGION, machine.id, "terminated", 5) and not machines.wait(REGION, machine.id, "running", 5)


def test_a_machine_that_is_not_ours_is_found_only_if_asked_for(aws: FalseAws) -> None:
    client = session.client("ec2", REGION)
    theirs = client.run_instances(MinCount=1, MaxCount=1, ImageId=images.newest(REGION), InstanceType="g4dn.xlarge")["Instances"][0]["InstanceId"]  # fmt: skip
    assert machines.find(REGION) == []
    assert [one.id for one in machines.find(REGION, tagged=False)] == [theirs]
    assert machines.get(REGION, "i-0123456789abcdef0") is None
    with pytest.raises(errors.AwsError, match="instance list"):
        machines.require(REGION, "i-0123456789abcdef0")


def test_a_machine_can_be_moved_as_an_image_and_nothing_of_it_is_left(aws: FalseAws) -> None:
    machine = machines.launch(order())
    image = machines.image_of(machine, RUN)
    assert images.wait(REGION, image, 5)
    copied = images.copy(image, REGION, "us-west-2", RUN)
    assert images.wait("us-west-2", copied, 5)
    address = session.client("ec2", REGION).allocate_address(TagSpecifications=[{"ResourceType": "elastic-ip", "Tags": [{"Key": "mistral-workbook", "Value": RUN}]}])  # fmt: skip
    kinds = {one.kind for one in volumes.leftovers(REGION, RUN)}
    assert {"volume", "image", "address"} <= kinds and volumes.leftovers(REGION, "other") == []
    assert address["AllocationId"] in {one.id for one in volumes.leftovers(REGION)}
    machines.terminate(REGION, machine.id)
    for region in (REGION, "us-west-2"):
        for one in volumes.leftovers(region, RUN):
            volumes.delete(one)
            volumes.delete(one)
        assert volumes.leftovers(region, RUN) == []


def test_the_security_group_of_a_machine_alone_never_has_a_rule_for_what_comes_in(aws: FalseAws) -> None:
    group = network.ensure_group(RUN, REGION)
    assert network.ensure_group(RUN, REGION) == group and network.groups(REGION) == {group: RUN}
    found = session.client("ec2", REGION).describe_security_groups(GroupIds=[group])["SecurityGroups"][0]
    assert found["IpPermissions"] == [] and not aws.asked("ec2", "AuthorizeSecurityGroupIngress")
    aws.fail("ec2", "DeleteSecurityGroup", "DependencyViolation", times=2)
    network.delete_group(RUN, REGION)
    network.delete_group(RUN, REGION)
    assert network.groups(REGION) == {}


def test_zones_and_subnets_are_the_regions(aws: FalseAws) -> None:
    offered = network.zones(REGION, "g5.xlarge")
    assert offered and set(offered) <= {f"us-east-1{letter}" for letter in "abcdef"} and network.zones(REGION, "zz9.plural") == []
    zone, subnet = next(iter(network.subnets(REGION).items()))
    assert network.zone_of(REGION, subnet) == zone
    client = session.client("ec2", REGION)
    for one in client.describe_subnets()["Subnets"]:
        client.delete_subnet(SubnetId=one["SubnetId"])
    with pytest.raises(errors.AwsError, match="--subnet"):
        network.subnets(REGION)


def test_more_machines_than_one_page_are_all_found(aws: FalseAws) -> None:
    client, image = session.client("ec2", REGION), images.newest(REGION)
    marked = [{"ResourceType": "instance", "Tags": [{"Key": "mistral-workbook", "Value": RUN}]}]
    for _ in range(101):  # one page has 100 reservations
        client.run_instances(MinCount=1, MaxCount=1, ImageId=image, InstanceType="t3.micro", TagSpecifications=marked)
    assert len(machines.find(REGION, RUN)) == 101
