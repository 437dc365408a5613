"""EC2 instances: find, launch, start, stop, terminate, change the type, make an image.

Source: boto3, EC2.Client; EC2 API, "Eventual consistency" and "Ensuring idempotency".
"""

import hashlib
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mistral_lib.aws import errors, names, quotas, session, waiting
from mistral_lib.aws.quotas import CapacityError, QuotaError

__all__ = ["CapacityError", "Machine", "Order", "QuotaError"]

LIVE = ("pending", "running", "stopping", "stopped")
COSTING = ("pending", "running", "stopping", "stopped", "shutting-down")
PROFILE_SECONDS = 90  # until a new instance profile is known in every place
STATE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Machine:
    id: str
    type: str
    state: str
    zone: str
    region: str
    spot: bool
    launched: datetime  # the last start, UTC
    run: str  # empty: not one of the workbook's
    public: bool  # has a public address, which is paid
    volume_gib: int
    image: str
    reason: str  # why it is in this state, as AWS says, with the moment: "User initiated (2026-11-02 08:00:00 GMT)"
    name: str
    nodes: int = 1  # machines of the cluster that it was launched for
    worker: bool = False  # of that cluster; else its head, or a machine alone


@dataclass(frozen=True, slots=True)
class Order:
    """A machine as it is wanted. user_data: text of the first boot's script; volume_gib: at least; max_price: USD per hour, for spot."""

    run: str
    type: str
    region: str
    subnet: str
    image: str
    user_data: str
    volume_gib: int
    profile: str  # name of the instance profile
    group: str  # id of the security group
    spot: bool = False
    max_price: float | None = None
    token: str = ""  # the same token never makes a second machine
    zone: str = ""  # of the subnet, for messages
    count: int = 1  # machines that are launched together, or none of them
    nodes: int = 1  # of the whole cluster
    worker: bool = False  # they are added to a cluster
    placement: str = ""  # name of the cluster placement group


def find(region: str, run: str | None = None, states: tuple[str, ...] = LIVE, tagged: bool = True) -> list[Machine]:
    """The machines in these states. tagged: False finds those that the workbook did not make as well. Errors: AwsError."""
    wanted = [{"Name": "instance-state-name", "Values": list(states)}]
    return _described(region, Filters=wanted + (names.filters(run) if tagged or run else []))


def get(region: str, machine_id: str) -> Machine | None:
    """The machine, or None if the region has none of this id. Errors: AwsError."""
    try:
        found = _described(region, InstanceIds=[machine_id])
    except errors.AwsError as error:
        if error.not_there:
            return None
        raise
    return found[0] if found else None


def launch(order: Order) -> Machine:
    """The run's machine, of a cluster its head: the one that lives already, or a new one. Workers that are added are always new ones.

    Errors: CapacityError, QuotaError, AwsError.

    The order's token counts for one machine: AWS gives a machine that has ended again to whoever repeats its token within hours.
    """
    alive = [] if order.worker else [machine for machine in find(order.region, order.run) if not machine.worker]
    return alive[0] if alive else launch_all(order)[0]


def launch_all(order: Order) -> list[Machine]:
    """The machines of the order, all of them or none, by their launch index: the first one is the head. Errors: as `launch`."""
    made = _run_instances(order, _request(order))["Instances"]
    return [_seen(order.region, one["InstanceId"]) for one in sorted(made, key=lambda one: one.get("AmiLaunchIndex", 0))]


def rehearse(order: Order) -> None:
    """Ask EC2 whether the order would be accepted, without launching. Capacity and quota are not checked. Errors: AwsError."""
    client, asked = session.client("ec2", order.region), _request(order)
    with errors.explained(f"rehearsing the launch of {order.type}"):
        try:
            client.run_instances(**asked, DryRun=True)
        except client.exceptions.ClientError as error:
            if errors.code(error) != "DryRunOperation":
                raise


def start(region: str, machine_id: str) -> Machine:
    """Start a stopped machine. Errors: CapacityError if its zone has none of its type, QuotaError, AwsError."""
    machine = require(region, machine_id)
    client = session.client("ec2", region)
    with errors.explained(f"starting {machine_id}"):
        try:
            client.start_instances(InstanceIds=[machine_id])
        except client.exceptions.ClientError as error:
            raise (quotas.refusal(error, machine.type, machine.spot, region, machine.zone) or error) from error
    return require(region, machine_id)


def stop(region: str, machine_id: str) -> None:
    with errors.explained(f"stopping {machine_id}"):
        session.client("ec2", region).stop_instances(InstanceIds=[machine_id])


def terminate(region: str, machine_id: str) -> None:
    """Terminate the machine; one that is gone is accepted. Errors: AwsError."""
    with errors.explained(f"terminating {machine_id}"):
        try:
            session.client("ec2", region).terminate_instances(InstanceIds=[machine_id])
        except Exception as error:
            if not errors.is_not_there(errors.code(error)):
                raise


def wait(region: str, machine_id: str, state: str, seconds: float = STATE_SECONDS) -> bool:
    """Whether the machine reaches the state within the seconds; False at once if it has ended. A machine that is gone counts as terminated.

    Errors: AwsError.
    """
    for _ in waiting.tries(seconds, first=2.0):
        machine = get(region, machine_id)
        found = machine.state if machine else "terminated"
        if found == state or found == "terminated":
            return found == state
    return False


def change_type(region: str, machine_id: str, type: str) -> None:
    """Give a stopped machine another type. Errors: AwsError."""
    with errors.explained(f"changing {machine_id} to {type}"):
        session.client("ec2", region).modify_instance_attribute(InstanceId=machine_id, InstanceType={"Value": type})


def image_of(machine: Machine, run: str) -> str:
    """Begin an image of the machine's disks, tagged as the run's; its id. `images.wait` says when it can be used. Errors: AwsError."""
    marked = [{"ResourceType": kind, "Tags": names.tags(run)} for kind in ("image", "snapshot")]
    with errors.explained(f"making an image of {machine.id}"):
        client = session.client("ec2", machine.region)
        title = f"{names.TAG}-{run}-{machine.id}"[:128]
        return client.create_image(InstanceId=machine.id, Name=title, TagSpecifications=marked)["ImageId"]


def require(region: str, machine_id: str) -> Machine:
    """Errors: AwsError if the region has no machine of this id."""
    machine = get(region, machine_id)
    if machine is None:
        raise errors.AwsError(f"{region} has no machine {machine_id}: `python -m mistral_lib instance list` shows those that exist, by region", "InvalidInstanceID.NotFound")  # fmt: skip
    return machine


def _request(order: Order) -> dict[str, Any]:
    """RunInstances' parameters, with the root device that the image has."""
    with errors.explained(f"reading the image {order.image}"):
        image = session.client("ec2", order.region).describe_images(ImageIds=[order.image])["Images"][0]
    device = image.get("RootDeviceName", "/dev/sda1")
    sizes = [disk["Ebs"].get("VolumeSize", 0) for disk in image.get("BlockDeviceMappings", []) if disk.get("DeviceName") == device and "Ebs" in disk]  # fmt: skip
    return _parameters(order, device, max(sizes, default=0))


def _parameters(order: Order, device: str, least_gib: int) -> dict[str, Any]:
    """The parameters of RunInstances. device: the image's root device; least_gib: the size of its snapshot."""
    volume = {"VolumeSize": max(order.volume_gib, least_gib), "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    kinds = ["instance", "volume", *(["spot-instances-request"] if order.spot else [])]
    asked: dict[str, Any] = {
        "MinCount": order.count, "MaxCount": order.count, "ImageId": order.image, "InstanceType": order.type, "SubnetId": order.subnet, "SecurityGroupIds": [order.group],
        "UserData": order.user_data, "IamInstanceProfile": {"Name": order.profile}, "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"},
        "BlockDeviceMappings": [{"DeviceName": device, "Ebs": volume}],
        "TagSpecifications": [{"ResourceType": kind, "Tags": names.tags(order.run, order.nodes, order.worker)} for kind in kinds],
    }  # fmt: skip
    if order.placement:
        asked["Placement"] = {"GroupName": order.placement}
    if order.spot:
        price = {"MaxPrice": str(order.max_price)} if order.max_price else {}
        asked["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate", **price},
        }
    if order.token:
        # AWS refuses a token that comes back with other parameters, so each zone has its own.
        asked["ClientToken"] = hashlib.sha256(json.dumps([order.token, asked], sort_keys=True).encode()).hexdigest()
    return asked


def _run_instances(order: Order, asked: dict[str, Any]) -> dict[str, Any]:
    """A new instance profile is not known everywhere at once: until it is, the launch is tried again."""
    client = session.client("ec2", order.region)
    with errors.explained(f"launching {order.type} in {order.zone or order.subnet}"):
        for left in waiting.tries(PROFILE_SECONDS):
            try:
                return client.run_instances(**asked)
            except client.exceptions.ClientError as error:
                if not (_profile_unknown(error) and left > 0):
                    raise (quotas.refusal(error, order.type, order.spot, order.region, order.zone or order.subnet) or error) from error
        return client.run_instances(**asked)


def _profile_unknown(error: Any) -> bool:
    return errors.code(error) == "InvalidParameterValue" and "iam instance profile" in str(error).lower()


def _seen(region: str, machine_id: str) -> Machine:
    """A new machine; AWS may need some seconds until it lists it."""
    for _ in waiting.tries(30):
        machine = get(region, machine_id)
        if machine:
            return machine
    return require(region, machine_id)


def _described(region: str, **asked: Any) -> list[Machine]:
    client = session.client("ec2", region)
    with errors.explained(f"listing the machines in {region}"):
        pages = client.get_paginator("describe_instances").paginate(**asked)
        found = [one for page in pages for reservation in page["Reservations"] for one in reservation["Instances"]]
        sizes = _sizes(client, found)
    return sorted((_machine(one, region, sizes) for one in found), key=lambda machine: machine.launched)


def _sizes(client: Any, found: list[dict[str, Any]]) -> dict[str, int]:
    """GiB of the volumes by the id of the machine that they are attached to."""
    ids = [one["InstanceId"] for one in found if one["State"]["Name"] in COSTING]
    sizes: dict[str, int] = {}
    for begin in range(0, len(ids), 200):  # values that one filter accepts
        attached = [{"Name": "attachment.instance-id", "Values": ids[begin : begin + 200]}]
        for page in client.get_paginator("describe_volumes").paginate(Filters=attached):
            for volume in page["Volumes"]:
                owner = volume["Attachments"][0]["InstanceId"]
                sizes[owner] = sizes.get(owner, 0) + volume["Size"]
    return sizes


def _machine(one: dict[str, Any], region: str, sizes: dict[str, int]) -> Machine:
    tags = one.get("Tags")
    return Machine(
        id=one["InstanceId"], type=one["InstanceType"], state=one["State"]["Name"], zone=one.get("Placement", {}).get("AvailabilityZone", ""), region=region,
        spot=one.get("InstanceLifecycle") == "spot", launched=one["LaunchTime"], run=names.run_of(tags), public=bool(one.get("PublicIpAddress")),
        volume_gib=sizes.get(one["InstanceId"], 0), image=one.get("ImageId", ""), reason=one.get("StateTransitionReason") or one.get("StateReason", {}).get("Message", ""),
        name=next((tag["Value"] for tag in tags or [] if tag["Key"] == "Name"), ""),
        nodes=names.nodes_of(tags), worker=names.is_worker(tags, one.get("AmiLaunchIndex", 0)),
    )  # fmt: skip
