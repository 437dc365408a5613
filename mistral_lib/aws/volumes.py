"""Volumes, snapshots, images and addresses with the workbook's tag: what may be left behind, and costs.

Source: boto3, EC2.Client.
"""

from dataclasses import dataclass
from typing import Any

from mistral_lib.aws import errors, names, session


@dataclass(frozen=True, slots=True)
class Leftover:
    kind: str  # volume, snapshot, image or address
    id: str
    region: str
    run: str
    state: str  # volumes: in-use or available; addresses: in-use or available
    gib: int  # of storage; 0 for addresses and images, whose snapshots are listed apart
    machine: str = ""  # that it is attached to


def leftovers(region: str, run: str | None = None) -> list[Leftover]:
    """All four kinds. Errors: AwsError."""
    return [*volumes(region, run), *images(region, run), *snapshots(region, run), *addresses(region, run)]


def volumes(region: str, run: str | None = None) -> list[Leftover]:
    found = _pages(region, "describe_volumes", "Volumes", Filters=names.filters(run))
    return [
        Leftover("volume", one["VolumeId"], region, names.run_of(one.get("Tags")), one["State"], one["Size"], _attached(one))
        for one in found
    ]


def snapshots(region: str, run: str | None = None) -> list[Leftover]:
    found = _pages(region, "describe_snapshots", "Snapshots", OwnerIds=["self"], Filters=names.filters(run))
    return [
        Leftover("snapshot", one["SnapshotId"], region, names.run_of(one.get("Tags")), one["State"], one["VolumeSize"]) for one in found
    ]


def images(region: str, run: str | None = None) -> list[Leftover]:
    found = _pages(region, "describe_images", "Images", Owners=["self"], Filters=names.filters(run))
    return [Leftover("image", one["ImageId"], region, names.run_of(one.get("Tags")), one["State"], 0) for one in found]


def addresses(region: str, run: str | None = None) -> list[Leftover]:
    with errors.explained(f"listing the addresses in {region}"):
        found = session.client("ec2", region).describe_addresses(Filters=names.filters(run))["Addresses"]
    return [
        Leftover("address", one["AllocationId"], region, names.run_of(one.get("Tags")), "in-use" if one.get("AssociationId") else "available", 0, one.get("InstanceId", ""))
        for one in found
    ]  # fmt: skip


def delete(leftover: Leftover) -> None:
    """Delete one thing; one that is gone is accepted. An image's snapshots are deleted with it. Errors: AwsError."""
    client = session.client("ec2", leftover.region)
    with errors.explained(f"deleting the {leftover.kind} {leftover.id}"):
        try:
            _delete(client, leftover)
        except client.exceptions.ClientError as error:
            if not errors.is_not_there(errors.code(error)):
                raise


def _delete(client: Any, leftover: Leftover) -> None:
    if leftover.kind == "volume":
        client.delete_volume(VolumeId=leftover.id)
    elif leftover.kind == "snapshot":
        client.delete_snapshot(SnapshotId=leftover.id)
    elif leftover.kind == "address":
        client.release_address(AllocationId=leftover.id)
    else:
        disks = [
            disk for image in client.describe_images(ImageIds=[leftover.id])["Images"] for disk in image.get("BlockDeviceMappings", [])
        ]
        client.deregister_image(ImageId=leftover.id)
        for disk in disks:
            if disk.get("Ebs", {}).get("SnapshotId"):
                client.delete_snapshot(SnapshotId=disk["Ebs"]["SnapshotId"])


def _pages(region: str, operation: str, key: str, **asked: Any) -> list[dict[str, Any]]:
    with errors.explained(f"listing the {key.lower()} in {region}"):
        pages = session.client("ec2", region).get_paginator(operation).paginate(**asked)
        return [one for page in pages for one in page[key]]


def _attached(volume: dict[str, Any]) -> str:
    return volume["Attachments"][0]["InstanceId"] if volume.get("Attachments") else ""
