"""A machine that the account had before: what a run changes on it, and how it becomes again what it was.

Its groups and profile are noted in tags on the machine before they are changed, so that any computer can undo the change. Its disks are
not touched, and nothing here terminates it.
Source: boto3, EC2.Client.modify_instance_attribute, modify_instance_metadata_options, associate_iam_instance_profile.
"""

from typing import Any

from mistral_lib.aws import errors, names, session, waiting

GROUPS, PROFILE, TOKENS, HOPS, ENDPOINT, SHUTDOWN = NOTES = tuple(
    f"{names.TAG}-{what}" for what in ("groups", "profile", "metadata", "hop-limit", "metadata-endpoint", "shutdown")
)  # tags: what it had before
NONE = "none"
DEFAULTS = {HOPS: "1", ENDPOINT: "enabled"}  # EC2's, if an earlier version of the workbook did not note them
BEHAVIOR = "instanceInitiatedShutdownBehavior"  # EC2's name of what `shutdown` on the machine does: stop or terminate
PROFILE_SECONDS = 90  # until a new instance profile is known in every place, and the one before has left the machine


def adopt(region: str, machine_id: str, run: str, profile: str, group: str) -> None:
    """Tag the machine as the run's, and give it the run's profile and group, and IMDSv2; `shutdown` on it stops it, and does not terminate
    it. May be repeated. Errors: AwsError."""
    client = session.client("ec2", region)
    with errors.explained(f"preparing {machine_id} for {run}"):
        one = _described(client, machine_id)
        if not _before(one):
            noted = _noted(one, client.describe_instance_attribute(InstanceId=machine_id, Attribute=BEHAVIOR))
            client.create_tags(Resources=[machine_id], Tags=[{"Key": names.TAG, "Value": run}, *noted])
        # First of all: every end of a run shuts the machine down, and its disks are not the run's.
        client.modify_instance_attribute(InstanceId=machine_id, Attribute=BEHAVIOR, Value="stop")
        client.modify_instance_attribute(InstanceId=machine_id, Groups=[group])
        client.modify_instance_metadata_options(
            InstanceId=machine_id, HttpTokens="required", HttpPutResponseHopLimit=1, HttpEndpoint="enabled"
        )
        _use_profile(client, machine_id, {"Name": profile})


def release(region: str, machine_id: str) -> None:
    """Give the machine back its groups, profile, metadata options and shutdown behavior, and remove the tags. Errors: AwsError."""
    client = session.client("ec2", region)
    with errors.explained(f"giving {machine_id} back what it had before"):
        before = _before(_described(client, machine_id))
        if not before:
            return
        client.modify_instance_attribute(InstanceId=machine_id, Groups=before[GROUPS].split())
        client.modify_instance_metadata_options(
            InstanceId=machine_id, HttpTokens=before[TOKENS], HttpPutResponseHopLimit=int(before[HOPS]), HttpEndpoint=before[ENDPOINT]
        )
        _use_profile(client, machine_id, {"Arn": before[PROFILE]} if before[PROFILE] != NONE else None)
        client.modify_instance_attribute(InstanceId=machine_id, Attribute=BEHAVIOR, Value=before[SHUTDOWN])
        client.delete_tags(Resources=[machine_id], Tags=[{"Key": key} for key in (names.TAG, *NOTES)])


def subnet_of(region: str, machine_id: str) -> str:
    """The subnet that the machine is in: its group must be made in the same network. Errors: AwsError."""
    client = session.client("ec2", region)
    with errors.explained(f"looking at {machine_id}"):
        return _described(client, machine_id)["SubnetId"]


def ids(region: str, run: str | None = None) -> set[str]:
    """The ids of the machines that were adopted and not given back. Errors: AwsError."""
    asked = [*names.filters(run), {"Name": "tag-key", "Values": [GROUPS]}]
    with errors.explained(f"listing the machines in {region} that were there before"):
        pages = session.client("ec2", region).get_paginator("describe_instances").paginate(Filters=asked)
        found = [one for page in pages for reservation in page["Reservations"] for one in reservation["Instances"]]
    return {one["InstanceId"] for one in found if one["State"]["Name"] not in ("shutting-down", "terminated")}


def _described(client: Any, machine_id: str) -> dict[str, Any]:
    return client.describe_instances(InstanceIds=[machine_id])["Reservations"][0]["Instances"][0]


def _noted(one: dict[str, Any], attribute: dict[str, Any]) -> list[dict[str, str]]:
    """What the machine has now, as tags."""
    options = one.get("MetadataOptions", {})
    values = {
        GROUPS: " ".join(group["GroupId"] for group in one["SecurityGroups"]),
        PROFILE: one.get("IamInstanceProfile", {}).get("Arn", NONE),
        TOKENS: options.get("HttpTokens", "optional"),
        HOPS: str(options.get("HttpPutResponseHopLimit", DEFAULTS[HOPS])),
        ENDPOINT: options.get("HttpEndpoint", DEFAULTS[ENDPOINT]),
        SHUTDOWN: attribute.get("InstanceInitiatedShutdownBehavior", {}).get("Value", "stop"),
    }
    return [{"Key": key, "Value": value} for key, value in values.items()]


def _before(one: dict[str, Any]) -> dict[str, str]:
    """What the machine had before it was adopted; empty if it was not."""
    tags = DEFAULTS | {tag["Key"]: tag["Value"] for tag in one.get("Tags", [])}
    return {key: tags[key] for key in NOTES} if GROUPS in tags else {}


def _use_profile(client: Any, machine_id: str, profile: dict[str, str] | None) -> None:
    """Put this profile, or none, in place of the machine's present one.

    The present one is taken off first: EC2 replaces a profile in one request on a running machine alone, and this one is stopped.
    """
    asked = [{"Name": "instance-id", "Values": [machine_id]}, {"Name": "state", "Values": ["associating", "associated"]}]
    for left in waiting.tries(PROFILE_SECONDS):
        present = client.describe_iam_instance_profile_associations(Filters=asked)["IamInstanceProfileAssociations"]
        if present and profile and _is(present[0]["IamInstanceProfile"]["Arn"], profile):
            return
        try:
            if present:
                client.disassociate_iam_instance_profile(AssociationId=present[0]["AssociationId"])
            if profile:
                client.associate_iam_instance_profile(InstanceId=machine_id, IamInstanceProfile=profile)
            return
        except client.exceptions.ClientError as error:
            if errors.code(error) not in ("InvalidParameterValue", "IncorrectState", "IncorrectInstanceState") or left <= 0:
                raise


def _is(arn: str, profile: dict[str, str]) -> bool:
    return arn == profile["Arn"] if "Arn" in profile else arn.rpartition("/")[2] == profile["Name"]
