"""The placement group of a cluster, and the one rule of its security group: its members reach each other, nobody else reaches them.

A cluster placement group keeps its machines in one zone, near each other in the network.
Source: boto3, EC2.Client; EC2, "Placement groups"; VPC, "Security group rules" (a group as the source).
"""

from functools import partial
from typing import Any

from mistral_lib.aws import errors, names, session, waiting

STRATEGY = "cluster"
FIRST_PORT, LAST_PORT = 1024, 65535  # of Ray and torchrun; SSH is not among them
DELETE_SECONDS = 120  # until a terminated machine has left its placement group


def ensure(run: str, region: str) -> str:
    """The name of the run's placement group, made if it is missing. Errors: AwsError."""
    name = names.of(run).group
    if name in existing(region, run):
        return name
    marked = [{"ResourceType": "placement-group", "Tags": names.tags(run)}]
    with errors.explained(f"making the placement group {name}"):
        session.client("ec2", region).create_placement_group(GroupName=name, Strategy=STRATEGY, TagSpecifications=marked)
    return name


def existing(region: str, run: str | None = None) -> dict[str, str]:
    """`{name: run}` of the workbook's placement groups in the region. Errors: AwsError."""
    with errors.explained(f"listing the placement groups of {region}"):
        found = session.client("ec2", region).describe_placement_groups(Filters=names.filters(run))["PlacementGroups"]
    return {one["GroupName"]: names.run_of(one.get("Tags")) for one in found if one["State"] != "deleted"}


def delete(run: str, region: str) -> None:
    """Delete the run's placement group; waits while a machine that ends is still in it. Errors: AwsError."""
    client = session.client("ec2", region)
    for name in existing(region, run):
        with errors.explained(f"deleting the placement group {name}"):
            waiting.deleted(partial(client.delete_placement_group, GroupName=name), "InvalidPlacementGroup.InUse", DELETE_SECONDS)


def open_to_members(group: str, region: str) -> None:
    """Let the members of the security group reach each other by TCP; a rule that is there already is accepted. Errors: AwsError."""
    client = session.client("ec2", region)
    with errors.explained(f"letting the members of {group} reach each other"):
        try:
            client.authorize_security_group_ingress(GroupId=group, IpPermissions=[members_rule(group)])
        except client.exceptions.ClientError as error:
            if errors.code(error) != "InvalidPermission.Duplicate":
                raise


def members_rule(group: str) -> dict[str, Any]:
    """The rule, whose only source is the group itself."""
    return {"IpProtocol": "tcp", "FromPort": FIRST_PORT, "ToPort": LAST_PORT, "UserIdGroupPairs": [{"GroupId": group}]}
