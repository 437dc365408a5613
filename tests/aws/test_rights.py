"""Roles and policies: least rights, nobody else's role is touched, and the administrator's policy covers every request of the workbook."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mistral_lib.aws import (  # isort: skip
    buckets, errors, found_machines, images, machines, names, network, parameters, policies, prices, quotas, regions, roles, schedules, session, shell_commands, volumes,
)  # fmt: skip
from mistral_lib.instance.cluster import placement
from mistral_lib.run import files
from tests.support.aws_stand_in import FalseAws

REGION = "us-east-1"
ACCOUNT = "123456789012"
BUCKET = f"mistral-workbook-{ACCOUNT}-{REGION}"
# The right that a request needs, where it has not the operation's own name.
RIGHTS = {
    "s3:HeadBucket": "s3:ListBucket", "s3:ListObjectsV2": "s3:ListBucket", "s3:ListBuckets": "s3:ListAllMyBuckets", "s3:HeadObject": "s3:GetObject", "s3:DeleteObjects": "s3:DeleteObject",
    "s3:CreateMultipartUpload": "s3:PutObject", "s3:UploadPart": "s3:PutObject", "s3:CompleteMultipartUpload": "s3:PutObject", "s3:PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "s3:PutBucketEncryption": "s3:PutEncryptionConfiguration", "s3:PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration", "s3:ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "service-quotas:GetServiceQuota": "servicequotas:GetServiceQuota", "service-quotas:GetAWSDefaultServiceQuota": "servicequotas:GetAWSDefaultServiceQuota",
}  # fmt: skip


def actions(policy: policies.Policy) -> set[str]:
    statements = policy["Statement"]
    return {one for statement in statements for one in ([statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"])}  # fmt: skip


def every_policy(region: str = REGION) -> dict[str, policies.Policy]:
    own = names.of("demo")
    return {
        "machine": policies.machine_policy(own, BUCKET, ACCOUNT, region), "timer": policies.timer_policy(own, ACCOUNT, region),
        "administrator": policies.administrator_policy(BUCKET, ACCOUNT, region), "cluster": policies.cluster_policy(ACCOUNT, region),
    }  # fmt: skip


def test_no_policy_names_a_pattern_as_an_action_and_all_are_short_enough() -> None:
    for name, policy in every_policy().items():
        assert not [one for one in actions(policy) if "*" in one or "?" in one], name
        assert len(json.dumps(policy, separators=(",", ":"))) <= 6144, name  # characters of a managed policy
        assert len({one["Sid"] for one in policy["Statement"]}) == len(policy["Statement"])


@pytest.mark.parametrize("region", ["us-east-1", "ap-southeast-1", "us-gov-west-1"])
def test_the_administrators_policy_fits_a_managed_policy_with_the_longest_bucket_name(region: str) -> None:
    policy = policies.administrator_policy("b" * 63, ACCOUNT, region)
    assert len(json.dumps(policy, separators=(",", ":"))) <= 6144


def test_the_machine_reaches_only_its_own_prefix_and_parameter() -> None:
    policy = every_policy()["machine"]
    named = {one["Sid"]: one["Resource"] for one in policy["Statement"]}
    assert named["OwnPrefix"] == f"arn:aws:s3:::{BUCKET}/runs/demo/*"
    assert named["HubToken"] == f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/mistral-workbook/demo/hf-token"
    assert [sid for sid, resource in named.items() if resource == "*"] == ["AgentChannels"]
    assert not [one for one in actions(policy) if one.split(":")[0] in ("iam", "ec2", "sts", "kms")]


def test_the_timer_terminates_only_the_runs_machines_and_only_the_scheduler_of_this_account_uses_it() -> None:
    statement = every_policy()["timer"]["Statement"][0]
    assert statement["Action"] == ["ec2:TerminateInstances", "ec2:StopInstances"]  # stopped: what was there before the run
    assert statement["Condition"] == {"StringEquals": {"aws:ResourceTag/mistral-workbook": "demo"}}
    assert policies.timer_trust(ACCOUNT, REGION)["Statement"][0]["Condition"]["StringEquals"]["aws:SourceAccount"] == ACCOUNT


def test_arns_follow_the_regions_partition() -> None:
    assert (regions.partition("cn-north-1"), regions.partition("us-gov-west-1"), regions.partition(REGION)) == (
        "aws-cn",
        "aws-us-gov",
        "aws",
    )
    assert "arn:aws:" not in json.dumps(every_policy("cn-north-1"))
    assert policies.machine_trust("cn-north-1")["Statement"][0]["Principal"]["Service"] == "ec2.amazonaws.com.cn"


def test_roles_are_made_once_and_deleted_without_a_rest(aws: FalseAws) -> None:
    for _ in range(2):
        assert roles.ensure("demo", BUCKET, REGION) == "mistral-workbook-demo"
        assert roles.ensure_timer("demo", REGION).endswith(":role/mistral-workbook-demo-timer")
    assert roles.existing(None, REGION) == {"mistral-workbook-demo": "demo", "mistral-workbook-demo-timer": "demo"}
    assert roles.existing("other", REGION) == {}
    client = session.client("iam", REGION)
    kept = client.get_role_policy(RoleName="mistral-workbook-demo", PolicyName=roles.POLICY)["PolicyDocument"]
    assert kept == policies.machine_policy(names.of("demo"), BUCKET, ACCOUNT, REGION)
    assert [one["RoleName"] for one in client.get_instance_profile(InstanceProfileName="mistral-workbook-demo")["InstanceProfile"]["Roles"]] == ["mistral-workbook-demo"]  # fmt: skip
    for _ in range(2):
        roles.delete("demo", REGION)
    assert roles.existing(None, REGION) == {} and client.list_instance_profiles()["InstanceProfiles"] == []


@pytest.mark.parametrize("action", ["CreateRole", "PutRolePolicy", "CreateInstanceProfile", "AddRoleToInstanceProfile"])
def test_roles_half_made_are_listed_completed_and_deleted(aws: FalseAws, action: str) -> None:
    aws.fail("iam", action, "ServiceUnavailable", 503, times=3)  # as often as a client tries
    with pytest.raises(errors.AwsError, match="run the command again"):
        roles.ensure("demo", BUCKET, REGION)
    assert bool(roles.existing(None, REGION)) == (action != "CreateRole")
    roles.ensure("demo", BUCKET, REGION)
    aws.fail("iam", "DeleteInstanceProfile", "ServiceUnavailable", 503, times=3)
    with pytest.raises(errors.AwsError):
        roles.delete("demo", REGION)
    roles.delete("demo", REGION)
    assert roles.existing(None, REGION) == {}


def test_a_profile_without_its_role_is_listed(aws: FalseAws) -> None:
    session.client("iam", REGION).create_instance_profile(InstanceProfileName="mistral-workbook-demo", Tags=names.tags("demo"))
    assert roles.existing(None, REGION) == {"profile/mistral-workbook-demo": "demo"}
    roles.delete("demo", REGION)
    assert roles.existing(None, REGION) == {}


def test_a_role_of_somebody_else_is_left_alone(aws: FalseAws) -> None:
    trust = json.dumps(policies.machine_trust(REGION))
    session.client("iam", REGION).create_role(RoleName="mistral-workbook-demo", AssumeRolePolicyDocument=trust)
    with pytest.raises(errors.AwsError, match="left as it is"):
        roles.ensure("demo", BUCKET, REGION)
    assert not aws.asked("iam", "PutRolePolicy") and roles.existing(None, REGION) == {}


def test_without_the_right_to_make_roles_an_administrator_gets_the_policy(aws: FalseAws, home: Path) -> None:
    aws.deny("iam", "CreateRole")
    with pytest.raises(errors.AwsError, match=r"iam:CreateRole is needed.*demo-policies/machine\.json.*--profile-name"):
        roles.ensure("demo", BUCKET, REGION)
    written = files.read_json(home / "runs" / ".instances" / "demo-policies" / "machine.json")
    assert written["policy"] == policies.machine_policy(names.of("demo"), BUCKET, ACCOUNT, REGION)
    assert written["trust"] == policies.machine_trust(REGION) and written["instance_profile"] == "mistral-workbook-demo"


def test_more_roles_than_one_page_are_all_found(aws: FalseAws) -> None:
    client, trust = session.client("iam", REGION), json.dumps(policies.machine_trust(REGION))
    for number in range(105):  # one page has 100
        client.create_role(RoleName=f"mistral-workbook-{number:03}", AssumeRolePolicyDocument=trust, Tags=names.tags(f"{number:03}"))
    assert len(roles.existing(None, REGION)) == 105


def test_the_administrators_policy_covers_every_request(aws: FalseAws, home: Path, tmp_path: Path) -> None:
    whole_life(aws, tmp_path)
    made = {f"{one.service}:{one.action}" for one in aws.requests}
    needed = {RIGHTS.get(one, one) for one in made}
    given = actions(every_policy()["administrator"]) | actions(every_policy()["cluster"])
    assert needed <= given, needed - given
    # Rights without a request of this test: they belong to other requests, or to the machine's own life.
    indirect = {"iam:PassRole", "iam:CreateServiceLinkedRole", "iam:TagRole", "iam:TagInstanceProfile", "ssm:StartSession", "ssm:TerminateSession", "s3:AbortMultipartUpload", "scheduler:UpdateSchedule", "ec2:ReplaceIamInstanceProfileAssociation"}  # fmt: skip
    assert given - needed <= indirect, given - needed - indirect


def test_the_administrators_policy_without_that_of_clusters_is_enough_for_one_machine() -> None:
    cluster = actions(every_policy()["cluster"]) - actions(every_policy()["administrator"])
    assert cluster == {"ec2:CreatePlacementGroup", "ec2:DeletePlacementGroup", "ec2:AuthorizeSecurityGroupIngress"}


def whole_life(aws: FalseAws, folder: Path) -> None:
    """Everything that the package can ask for."""
    regions.enabled(REGION)
    aws.quotas.pop("L-3819A6DF")
    for spot in (False, True):
        quotas.vcpus(REGION, "g5.xlarge", spot)
    prices.spot(REGION, "g5.xlarge")
    prices.on_demand(REGION, "g5.xlarge")
    network.zones(REGION, "g5.xlarge")
    bucket = buckets.ensure(None, "demo", REGION)
    small, large = folder / "small", folder / "large"
    small.write_bytes(b"x")
    large.write_bytes(bytes(40 * 2**20))
    for path in (small, large):
        buckets.upload(path, bucket, f"runs/demo/{path.name}", files.sha256(path), REGION)
    buckets.download(bucket, "runs/demo/small", folder / "copy", files.sha256(small), REGION)
    profile, timer = roles.ensure("demo", bucket, REGION), roles.ensure_timer("demo", REGION)
    roles.ensure("demo", bucket, REGION)
    zone, subnet = next(iter(network.subnets(REGION).items()))
    group = network.ensure_group("demo", REGION)
    placement.open_to_members(group, REGION)
    placed = placement.ensure("demo", REGION)
    order = machines.Order("demo", "g5.xlarge", REGION, subnet, images.newest(REGION), "", 150, profile, group, zone=zone, placement=placed)
    machines.rehearse(order)
    machine = machines.launch(order)
    schedules.ensure("demo", REGION, machine.id, datetime.now(UTC) + timedelta(hours=1), timer)
    schedules.existing(REGION)
    parameters.put_token("demo", REGION, "hf_secret")
    parameters.existing(REGION)
    shell_commands.reachable(machine.id, REGION)
    shell_commands.send(machine.id, REGION, ["true"], 30)
    machines.stop(REGION, machine.id)
    machines.change_type(REGION, machine.id, "g5.2xlarge")
    images.copy(machines.image_of(machine, "demo"), REGION, REGION, "demo")
    machines.start(REGION, machine.id)
    marked = [{"ResourceType": "elastic-ip", "Tags": names.tags("demo")}]
    theirs = session.client("ec2", REGION).run_instances(MinCount=1, MaxCount=1, ImageId=order.image, InstanceType=order.type, SubnetId=subnet)["Instances"][0]["InstanceId"]  # fmt: skip
    found_machines.adopt(REGION, theirs, "demo", profile, group)
    found_machines.ids(REGION)
    found_machines.release(REGION, theirs)
    address = session.client("ec2", REGION).allocate_address(TagSpecifications=marked)
    session.client("ec2", REGION).create_volume(AvailabilityZone=zone, Size=1, TagSpecifications=[{"ResourceType": "volume", "Tags": names.tags("demo")}])  # fmt: skip
    aws.requests[:] = [one for one in aws.requests if one.action not in ("AllocateAddress", "CreateVolume")]
    machines.terminate(REGION, machine.id)
    assert address["AllocationId"]
    for leftover in volumes.leftovers(REGION):
        volumes.delete(leftover)
    network.delete_group("demo", REGION)
    placement.delete("demo", REGION)
    parameters.delete("demo", REGION)
    roles.existing(None, REGION)
    roles.delete("demo", REGION)
    schedules.delete("demo", REGION)
    buckets.owned(REGION)
    buckets.empty(bucket, "runs/demo/", REGION)
    buckets.delete_if_empty(bucket, REGION)
