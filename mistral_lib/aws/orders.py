"""What is ordered from EC2, and why EC2 refuses.

Source: EC2 API, RunInstances and "Error codes for the Amazon EC2 API"; Service Quotas, "Amazon EC2".
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from mistral_lib.aws import errors, names, quotas

NO_CAPACITY = ("InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacity", "Unsupported", "SpotMaxPriceTooLow", "InsufficientReservedInstanceCapacity")  # fmt: skip
NO_QUOTA = ("VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded")


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
    shutdown: str = "terminate"  # what `shutdown` on the machine does: terminate or stop
    zone: str = ""  # of the subnet, for messages


class CapacityError(errors.AwsError):
    """The zone has no machine of this type now; another zone may."""

    def __init__(self, zone: str, type: str, code: str) -> None:
        super().__init__(f"{zone} has no {type} now ({code}): try another zone, or later", code)
        self.zone = zone


class QuotaError(errors.AwsError):
    """The account may not run so many vCPUs. quota_code, name: of Service Quotas; place: its page in the console."""

    def __init__(self, type: str, spot: bool, region: str, code: str) -> None:
        family = quotas.of(type, spot)
        self.quota_code, self.name = family.code, family.name
        self.place = quotas.console(region, family.code)
        super().__init__(f"the account's quota {self.name!r} ({self.quota_code}) in {region} is too small for one {type} ({code}): ask for more vCPUs at {self.place}; AWS answers within hours or days", code)  # fmt: skip


def refusal(error: BaseException, order: Order) -> errors.AwsError | None:
    """The error as CapacityError or QuotaError; None if it is another one."""
    found = errors.code(error)
    if found in NO_CAPACITY:
        return CapacityError(order.zone or order.subnet, order.type, found)
    if found in NO_QUOTA:
        return QuotaError(order.type, order.spot, order.region, found)
    return None


def request(order: Order, device: str, least_gib: int) -> dict[str, Any]:
    """The parameters of RunInstances. device: the image's root device; least_gib: the size of its snapshot."""
    volume = {"VolumeSize": max(order.volume_gib, least_gib), "VolumeType": "gp3", "Encrypted": True, "DeleteOnTermination": True}
    kinds = ["instance", "volume", *(["spot-instances-request"] if order.spot else [])]
    asked: dict[str, Any] = {
        "MinCount": 1, "MaxCount": 1, "ImageId": order.image, "InstanceType": order.type, "SubnetId": order.subnet, "SecurityGroupIds": [order.group],
        "UserData": order.user_data, "IamInstanceProfile": {"Name": order.profile}, "InstanceInitiatedShutdownBehavior": order.shutdown,
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"},
        "BlockDeviceMappings": [{"DeviceName": device, "Ebs": volume}],
        "TagSpecifications": [{"ResourceType": kind, "Tags": names.tags(order.run)} for kind in kinds],
    }  # fmt: skip
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
