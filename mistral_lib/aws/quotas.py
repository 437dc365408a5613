"""How many vCPUs of a family the account may run in a region, how many run now, and the errors of a launch for want of quota or capacity.

Source: Service Quotas, "Amazon EC2"; EC2, "On-Demand Instance quotas" and "Spot Instance limits"; EC2 API, "Error codes".
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from mistral_lib.aws import errors, session

NO_CAPACITY = ("InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacity", "Unsupported", "SpotMaxPriceTooLow", "InsufficientReservedInstanceCapacity")  # fmt: skip
NO_QUOTA = ("VcpuLimitExceeded", "InstanceLimitExceeded", "MaxSpotInstanceCountExceeded")


class Family(NamedTuple):
    letters: str  # how a type of the family begins, before the generation's digit
    code: str
    name: str


ON_DEMAND = (
    Family("g vt", "L-DB2E81BA", "Running On-Demand G and VT instances"),
    Family("p", "L-417A185B", "Running On-Demand P instances"),
    Family("a c d h i m r t z", "L-1216C47A", "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances"),
)
SPOT = (
    Family("g vt", "L-3819A6DF", "All G and VT Spot Instance Requests"),
    Family("p", "L-7212CCBC", "All P4, P3 and P2 Spot Instance Requests"),
    Family("a c d h i m r t z", "L-34B43A08", "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests"),
)


class CapacityError(errors.AwsError):
    """The zone has no machine of this type now; another zone may."""

    def __init__(self, zone: str, type: str, code: str) -> None:
        super().__init__(f"{zone} has no {type} now ({code}): try another zone, or later", code)
        self.zone = zone


class QuotaError(errors.AwsError):
    """The account may not run so many vCPUs. quota_code, name: of Service Quotas; place: its page in the console."""

    def __init__(self, type: str, spot: bool, region: str, code: str) -> None:
        family = of(type, spot)
        self.quota_code, self.name = family.code, family.name
        self.place = console(region, family.code)
        super().__init__(f"the account's quota {self.name!r} ({self.quota_code}) in {region} is too small for one {type} ({code}): ask for more vCPUs at {self.place}; AWS answers within hours or days", code)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Quota:
    code: str
    name: str
    limit: float | None  # vCPUs; None: not seen
    used: int | None  # vCPUs that run now; None: not seen
    needed: int | None  # vCPUs of one machine of the type
    note: str = ""  # why something was not seen

    @property
    def enough(self) -> bool | None:
        """Whether one more machine of the type fits; None if it cannot be said."""
        return None if self.limit is None or self.used is None or self.needed is None else self.used + self.needed <= self.limit


def of(type: str, spot: bool) -> Family:
    """The quota that a machine of this type counts against."""
    letters = type.split(".")[0].rstrip("abcdefghijklmnopqrstuvwxyz-").rstrip("0123456789")
    known = [family for family in (SPOT if spot else ON_DEMAND) if letters in family.letters.split()]
    return known[0] if known else Family(letters, "", f"the quota of {letters.upper()} instances")


def console(region: str, code: str) -> str:
    """The quota's page in the AWS console, where more is asked for."""
    return f"https://{region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas{f'/{code}' if code else ''}?region={region}"


def refusal(error: BaseException, type: str, spot: bool, region: str, zone: str) -> errors.AwsError | None:
    """The error of a launch as CapacityError or QuotaError; None if it is another one."""
    found = errors.code(error)
    if found in NO_CAPACITY:
        return CapacityError(zone, type, found)
    return QuotaError(type, spot, region, found) if found in NO_QUOTA else None


def vcpus(region: str, type: str, spot: bool) -> Quota:
    """The quota of the type's family with what runs now. What cannot be seen is None, with the reason. Errors: AccessError."""
    family = of(type, spot)
    notes: list[str] = []
    limit = _or_note(notes, lambda: _limit(region, family.code)) if family.code else None
    needed = _or_note(notes, lambda: _sizes(region, {type})[type])
    used = _or_note(notes, lambda: _running(region, family, spot))
    return Quota(family.code, family.name, limit, used, needed, "; ".join(dict.fromkeys(notes)))


def _limit(region: str, code: str) -> float:
    """The account's own value, or AWS's default if it never asked for another one."""
    client = session.client("service-quotas", region)
    asked = {"ServiceCode": "ec2", "QuotaCode": code}
    with errors.explained(f"reading the quota {code} in {region}"):
        try:
            return client.get_service_quota(**asked)["Quota"]["Value"]
        except client.exceptions.NoSuchResourceException:
            return client.get_aws_default_service_quota(**asked)["Quota"]["Value"]


def _running(region: str, family: Family, spot: bool) -> int:
    """vCPUs of the family's machines that run or start."""
    client = session.client("ec2", region)
    alive = [{"Name": "instance-state-name", "Values": ["pending", "running"]}]
    with errors.explained(f"counting the machines that run in {region}"):
        pages = client.get_paginator("describe_instances").paginate(Filters=alive)
        found = [one for page in pages for reservation in page["Reservations"] for one in reservation["Instances"]]
    types = [
        one["InstanceType"] for one in found if (one.get("InstanceLifecycle") == "spot") == spot and of(one["InstanceType"], spot) == family
    ]
    sizes = _sizes(region, set(types))
    return sum(sizes[type] for type in types)


def _sizes(region: str, types: set[str]) -> dict[str, int]:
    """vCPUs by type."""
    if not types:
        return {}
    with errors.explained(f"reading the sizes of {', '.join(sorted(types))}"):
        pages = session.client("ec2", region).get_paginator("describe_instance_types").paginate(InstanceTypes=sorted(types))
        return {one["InstanceType"]: one["VCpuInfo"]["DefaultVCpus"] for page in pages for one in page["InstanceTypes"]}


def _or_note(notes: list[str], look: Any) -> Any:
    try:
        return look()
    except errors.AwsError as error:
        notes.append(str(error))
        return None
