"""Zones that offer a type, subnets, and the security group, made without a rule for incoming connections.

Source: boto3, EC2.Client; VPC, "Default security group rules": a new group allows nothing in and everything out.
"""

from functools import partial

from mistral_lib.aws import errors, names, session, waiting

DELETE_SECONDS = 120  # until the network interface of a terminated machine lets go of its group


def zones(region: str, type: str) -> list[str]:
    """The zones of the region that offer the type, sorted; empty if none does. Errors: AwsError."""
    asked = [{"Name": "instance-type", "Values": [type]}]
    with errors.explained(f"asking which zones of {region} offer {type}"):
        pages = session.client("ec2", region).get_paginator("describe_instance_type_offerings")
        found = pages.paginate(LocationType="availability-zone", Filters=asked)
        return sorted(offer["Location"] for page in found for offer in page["InstanceTypeOfferings"])


def subnets(region: str) -> dict[str, str]:
    """`{zone: subnet id}` of the default VPC. Errors: AwsError if there is none whose machines reach the internet."""
    asked = [{"Name": "default-for-az", "Values": ["true"]}, {"Name": "map-public-ip-on-launch", "Values": ["true"]}]
    with errors.explained(f"listing the subnets of {region}"):
        pages = session.client("ec2", region).get_paginator("describe_subnets").paginate(Filters=asked)
        found = {one["AvailabilityZone"]: one["SubnetId"] for page in pages for one in page["Subnets"]}
    if not found:
        raise errors.AwsError(
            f"{region} has no default VPC with public subnets: name a subnet whose machines reach the internet with --subnet subnet-…, "
            "or make a default VPC (`aws ec2 create-default-vpc`)",
            "NoDefaultVpc",
        )
    return dict(sorted(found.items()))


def zone_of(region: str, subnet: str) -> str:
    """The zone of a subnet. Errors: AwsError if there is none of this id."""
    with errors.explained(f"reading the subnet {subnet}"):
        return session.client("ec2", region).describe_subnets(SubnetIds=[subnet])["Subnets"][0]["AvailabilityZone"]


def ensure_group(run: str, region: str, subnet: str | None = None) -> str:
    """The id of the run's security group, made if it is missing, without a rule for incoming connections. Errors: AwsError.

    subnet: the group is made in this subnet's VPC instead of in the default one.
    """
    vpc = _vpc(region, subnet)
    found = {owner: group for group, owner in groups(region, run, vpc).items()}
    if run in found:
        return found[run]
    own = names.of(run)
    with errors.explained(f"making the security group {own.group}"):
        marked = [{"ResourceType": "security-group", "Tags": names.tags(run)}]
        asked = {"GroupName": own.group, "Description": f"mistral-workbook, run {run}: nothing comes in from outside", "VpcId": vpc}
        return session.client("ec2", region).create_security_group(**asked, TagSpecifications=marked)["GroupId"]


def groups(region: str, run: str | None = None, vpc: str | None = None) -> dict[str, str]:
    """`{group id: run}` of the workbook's security groups. Errors: AwsError."""
    asked = names.filters(run) + ([{"Name": "vpc-id", "Values": [vpc]}] if vpc else [])
    with errors.explained(f"listing the security groups of {region}"):
        pages = session.client("ec2", region).get_paginator("describe_security_groups").paginate(Filters=asked)
        return {one["GroupId"]: names.run_of(one["Tags"]) for page in pages for one in page["SecurityGroups"]}


def delete_group(run: str, region: str) -> None:
    """Delete the run's security groups; waits while a machine that ends still uses one. Errors: AwsError."""
    client = session.client("ec2", region)
    for group in groups(region, run):
        with errors.explained(f"deleting the security group {group}"):
            waiting.deleted(partial(client.delete_security_group, GroupId=group), "DependencyViolation", DELETE_SECONDS)


def _vpc(region: str, subnet: str | None) -> str:
    client = session.client("ec2", region)
    with errors.explained(f"reading the network of {region}"):
        if subnet:
            return client.describe_subnets(SubnetIds=[subnet])["Subnets"][0]["VpcId"]
        found = client.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not found:
        raise errors.AwsError(f"{region} has no default VPC: name a subnet with --subnet subnet-…", "NoDefaultVpc")
    return found[0]["VpcId"]
