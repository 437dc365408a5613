"""Everything in the account with the workbook's tag, in all regions that were used, and what each costs a day.

What AWS did not show is listed as such: a list without it would claim that there is nothing.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

from mistral_lib.aws import (
    buckets,
    found_machines,
    machines,
    names,
    network,
    parameters,
    prices,
    regions,
    roles,
    schedules,
    session,
    volumes,
)
from mistral_lib.aws.errors import AwsError
from mistral_lib.aws.machines import Machine
from mistral_lib.instance import plan, records
from mistral_lib.instance.cluster import placement
from mistral_lib.run import files
from mistral_lib.run.progress import say

GIB = 2**30
REGIONS_AT_ONCE = 8
GLOBAL = "global"  # roles are the same in all regions
UNSEEN = "not seen"  # state of a kind of thing that AWS did not show
KINDS = ("machine", "adopted machine", "volume", "image", "snapshot", "address", "security group", "placement group", "parameter", "objects", "schedule", "profile", "role", "bucket")  # fmt: skip


@dataclass(frozen=True)
class Resource:
    """A thing in the account."""

    kind: str  # one of KINDS
    id: str
    region: str
    run: str  # `shared` for the bucket
    state: str
    usd_per_day: float = 0.0  # if it stays as it is
    note: str = ""

    @property
    def seen(self) -> bool:
        return self.state != UNSEEN


@dataclass(frozen=True)
class Where:
    """The account and its regions that are looked into."""

    account: str
    regions: tuple[str, ...]

    def __str__(self) -> str:
        return f"{', '.join(self.regions)} of account {self.account}"


def where(extra_regions: Iterable[str] | None = None) -> Where:
    """The regions of `looked_into`; if there are none, all that the account may use.

    Errors: AccessError without boto3 or credentials; AwsError if AWS does not say what the account is; RegionError for an unknown region.
    """
    places = looked_into(regions.chosen(region) for region in extra_regions or ())
    if not places:
        places = regions.enabled()
        say(f"this computer has used no region, and none was named: all {len(places)} of the account are looked into")
    return Where(session.account(places[0]), tuple(places))


def everything(extra_regions: Iterable[str] | None = None) -> list[Resource]:
    """All kinds, machines first. extra_regions: besides those that were used. Errors: AccessError without boto3 or credentials."""
    found: list[Resource] = []
    if places := looked_into(extra_regions):
        with ThreadPoolExecutor(REGIONS_AT_ONCE) as pool:
            found += chain.from_iterable(pool.map(_in_region, places))
        found += _or_unseen("role", GLOBAL, lambda: _roles(places[0]))
    return sorted(found, key=lambda one: (KINDS.index(one.kind), one.run, one.region, one.id))


def _in_region(region: str) -> list[Resource]:
    return [one for kind, look in LOOKS.items() for one in _or_unseen(kind, region, lambda look=look: look(region))]


def looked_into(extra_regions: Iterable[str] | None = None) -> list[str]:
    """Those that were used, those of the records, and the extra ones."""
    return sorted({*regions.used(), *(record.region for record in records.all_records()), *(extra_regions or ())})


def _or_unseen(kind: str, region: str, look: Callable[[], list[Resource]]) -> list[Resource]:
    try:
        return look()
    except AwsError as error:
        return [Resource(kind, "?", region, "?", UNSEEN, note=str(error))]


# -- one function for each kind -----------------------------------------------------------------------------------------


def _machines(region: str) -> list[Resource]:
    found = machines.find(region, states=machines.COSTING)
    adopted = found_machines.ids(region) if found else set()
    return [_machine(machine, machine.id in adopted) for machine in found]


def _machine(machine: Machine, adopted: bool) -> Resource:
    """Its disk is listed apart, except that of an adopted machine, which has no tag of the workbook."""
    notes = [f"{machine.type}, worker" if machine.worker else machine.type, "spot" if machine.spot else "on demand", machine.zone]
    usd = 0.0
    if machine.state in ("pending", "running"):
        price = price_of(machine)
        usd += 24 * (price or 0.0) + (prices.DAY_PRICES["address"] if machine.public else 0.0)
        notes.append("price not listed in params/instances.yaml" if price is None else f"{price:g} USD per hour")
        notes += ["with its public address"] if machine.public else []
    if adopted:
        usd += machine.volume_gib * prices.DAY_PRICES["volume"]
        notes.append(f"was there before the run, with {machine.volume_gib} GiB of disk")
    return Resource(
        "adopted machine" if adopted else "machine", machine.id, machine.region, machine.run, machine.state, usd, ", ".join(notes)
    )


def price_of(machine: Machine) -> float | None:
    """USD per hour: that of its record, else that of params/instances.yaml; None if neither has it."""
    record = records.load(machine.run) if machine.run else None
    if record is not None and machine.id in record.all_machines:
        return record.usd_per_hour
    return plan.rented().get(machine.type, {}).get("usd_per_hour")


def _volumes(region: str) -> list[Resource]:
    """Volumes, snapshots, images and addresses."""
    found = []
    for one in volumes.leftovers(region):
        attached = f", attached to {one.machine}" if one.machine else ""
        size = f"{one.gib} GiB{attached}" if one.gib else attached.removeprefix(", ")
        usd = prices.DAY_PRICES["address"] if one.kind == "address" else one.gib * prices.DAY_PRICES.get(one.kind, 0.0)
        found.append(Resource(one.kind, one.id, region, one.run, one.state, usd, size))
    return found


def _groups(region: str) -> list[Resource]:
    return [Resource("security group", group, region, run, "there") for group, run in network.groups(region).items()]


def _schedules(region: str) -> list[Resource]:
    found = schedules.existing(region)
    return [
        Resource("schedule", one.name, region, one.run, "set", note=f"ends {one.machine_id} at {one.at:%Y-%m-%d %H:%M} UTC")
        for one in found
    ]


def _placements(region: str) -> list[Resource]:
    return [
        Resource("placement group", name, region, run, "there", note="costs nothing") for name, run in placement.existing(region).items()
    ]


def _parameters(region: str) -> list[Resource]:
    return [Resource("parameter", name, region, run, "there", note="encrypted") for name, run in parameters.existing(region).items()]


def _buckets(region: str) -> list[Resource]:
    """The workbook's buckets, with the objects of each run below; of a named bucket the objects of the runs that are recorded."""
    own, unreadable = buckets.owned_and_unreadable(region)
    found = [Resource("bucket", bucket, region, "shared", "there", note="private, its objects expire after 30 days") for bucket in own]
    for bucket in own:
        found += _objects(bucket, "runs/", region)
    here = [record for record in records.all_records() if record.region == region and not records.is_foreign(record)]
    named = {(record.bucket, record.prefix) for record in here if record.bucket not in ("", *own)}
    for bucket, prefix in sorted(named):
        found += _objects(bucket, prefix, region)
    maybe_ours = {names.bucket(session.account(region), region), *(bucket for bucket, _ in named)}
    return found + [_unreadable(bucket, region) for bucket in unreadable if bucket in maybe_ours]


def _unreadable(bucket: str, region: str) -> Resource:
    """A bucket that the workbook uses, and perhaps made."""
    note = f"{bucket}: whether it is the workbook's was not seen: the right s3:GetBucketTagging is needed for it"
    return Resource("bucket", bucket, region, "?", UNSEEN, note=note)


def _objects(bucket: str, below: str, region: str) -> list[Resource]:
    """Those of each run; none of a bucket that is gone. Errors: AwsError."""
    sizes: dict[str, list[int]] = {}
    try:
        there = buckets.listing(bucket, below, region)
    except AwsError as error:
        if error.not_there:
            return []
        raise
    for key, size in there.items():
        sizes.setdefault(key.split("/")[1], []).append(size)
    return [
        Resource(
            "objects", f"s3://{bucket}/runs/{run}/", region, run, "stored", sum(all_of) / GIB * prices.DAY_PRICES["bucket"],
            f"{len(all_of):,} objects, {files.size_text(sum(all_of))}",
        )
        for run, all_of in sorted(sizes.items())
    ]  # fmt: skip


def _roles(region: str) -> list[Resource]:
    found = []
    for name, run in roles.existing(None, region).items():
        kind = "profile" if name.startswith("profile/") else "role"
        found.append(Resource(kind, name.removeprefix("profile/"), GLOBAL, run, "there"))
    return found


LOOKS: dict[str, Callable[[str], list[Resource]]] = {
    "machine": _machines, "volume": _volumes, "security group": _groups, "placement group": _placements, "parameter": _parameters, "schedule": _schedules, "bucket": _buckets,
}  # fmt: skip
