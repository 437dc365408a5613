"""Placement groups, which moto lacks: made, described by tag, deleted unless a live machine is in them; a launch into an unknown one fails."""

import re
from typing import TYPE_CHECKING, Any

from tests.support.aws_requests import Asked, error_body

if TYPE_CHECKING:
    from tests.support.aws_stand_in import FalseAws

Answer = tuple[int, bytes, dict[str, str]]  # status, body, headers
XML = {"Content-Type": "text/xml"}
PLACED = "Placement.GroupName"  # parameter of RunInstances


def created(aws: "FalseAws", asked: Asked) -> Answer:
    given = asked.parameters
    keys = [key for key in given if re.fullmatch(r"TagSpecification\.1\.Tag\.\d+\.Key", key)]
    tags = {given[key]: given[key.removesuffix("Key") + "Value"] for key in keys}
    if (asked.region, given["GroupName"]) in aws.placements:
        return _error(asked, "InvalidPlacementGroup.Duplicate")
    aws.placements[asked.region, given["GroupName"]] = {"tags": tags, "strategy": given["Strategy"], "machines": []}
    return _ok(asked, f"<placementGroup>{_one(given['GroupName'], tags, given['Strategy'])}</placementGroup>")


def described(aws: "FalseAws", asked: Asked) -> Answer:
    name, value = asked.parameters.get("Filter.1.Name", ""), asked.parameters.get("Filter.1.Value.1", "")
    found = [
        (group, one)
        for (region, group), one in aws.placements.items()
        if region == asked.region and (one["tags"].get(name[4:]) == value if name.startswith("tag:") else value in one["tags"])
    ]
    items = "".join(f"<item>{_one(group, one['tags'], one['strategy'])}</item>" for group, one in found)
    return _ok(asked, f"<placementGroupSet>{items}</placementGroupSet>")


def deleted(aws: "FalseAws", asked: Asked) -> Answer:
    from tests.support.aws_missing import machine

    group = aws.placements.get((asked.region, asked.parameters["GroupName"]))
    if group is None:
        return _error(asked, "InvalidPlacementGroup.Unknown")
    if any(machine(asked.region, one).state != "terminated" for one in group["machines"]):
        return _error(asked, "InvalidPlacementGroup.InUse")
    del aws.placements[asked.region, asked.parameters["GroupName"]]
    return _ok(asked, "<return>true</return>")


def unknown(aws: "FalseAws", asked: Asked) -> Answer | None:
    """The refusal of a launch into a group that is not there."""
    wanted = asked.parameters.get(PLACED)
    return _error(asked, "InvalidPlacementGroup.Unknown") if wanted and (asked.region, wanted) not in aws.placements else None


def note(aws: "FalseAws", asked: Asked, ids: list[str]) -> None:
    """Remember which machines are in the group that they were launched into."""
    if wanted := asked.parameters.get(PLACED):
        aws.placements[asked.region, wanted]["machines"] += ids


def _one(name: str, tags: dict[str, str], strategy: str) -> str:
    items = "".join(f"<item><key>{key}</key><value>{value}</value></item>" for key, value in tags.items())
    return f"<groupName>{name}</groupName><strategy>{strategy}</strategy><state>available</state><tagSet>{items}</tagSet>"


def _ok(asked: Asked, inner: str) -> Answer:
    return 200, f"<{asked.action}Response>{inner}</{asked.action}Response>".encode(), XML


def _error(asked: Asked, code: str) -> Answer:
    body, headers = error_body(asked, code, "of the stand-in")
    return 400, body, headers


ANSWERS: dict[tuple[str, str], Any] = {
    ("ec2", "CreatePlacementGroup"): created,
    ("ec2", "DescribePlacementGroups"): described,
    ("ec2", "DeletePlacementGroup"): deleted,
}
