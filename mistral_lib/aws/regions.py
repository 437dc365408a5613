"""Which AWS region is meant, and which ones were used. A region is never guessed.

Source: boto3, "Configuration" (boto3 itself reads AWS_DEFAULT_REGION and the profile, not AWS_REGION).
"""

import difflib
import os
from functools import lru_cache
from pathlib import Path

from mistral_lib.aws import errors, session
from mistral_lib.run import files, paths

OPTED_IN = ("opt-in-not-required", "opted-in")


class RegionError(ValueError):
    """No region was named, or there is none of this name."""


def chosen(requested: str | None) -> str:
    """The region of the option, else of AWS_REGION, AWS_DEFAULT_REGION or the profile. Errors: RegionError, AccessError without boto3."""
    places = {"--region": requested, "AWS_REGION": os.environ.get("AWS_REGION"), "AWS_DEFAULT_REGION": os.environ.get("AWS_DEFAULT_REGION")}
    for place, region in places.items():
        if region:
            return _existing(region, place)
    region = session.opened(None).region_name
    if region:
        return _existing(region, "the profile")
    raise RegionError(
        "no AWS region: none is named by --region, AWS_REGION, AWS_DEFAULT_REGION or the profile, and none is guessed; "
        "name the one where your quota and your data are, for example --region us-east-1"
    )


def used() -> list[str]:
    """The regions in which something was made from this workbook, sorted."""
    return sorted(files.read_json(_place())) if _place().exists() else []


def remember(region: str) -> None:
    """Note a region before anything is made in it, so that `list` and `down` look there."""
    if region not in used():
        files.write_json(_place(), sorted({*used(), region}))


def enabled(region: str | None = None) -> list[str]:
    """All regions that the account may use, sorted. region: the one that is asked, else the chosen one, else us-east-1; all give the same
    answer. Errors: AwsError, AccessError; RegionError for a region that does not exist."""
    try:
        asked = chosen(region)
    except RegionError:
        if region:
            raise
        asked = "us-east-1"
    with errors.explained("listing the regions of the account"):
        found = session.client("ec2", asked).describe_regions(AllRegions=True)["Regions"]
    return sorted(one["RegionName"] for one in found if one.get("OptInStatus", OPTED_IN[0]) in OPTED_IN)


def partition(region: str) -> str:
    """The first part of every ARN in the region: aws, aws-cn, aws-us-gov …"""
    return _partitions().get(region, "aws")


def _existing(region: str, place: str) -> str:
    known = _partitions()
    if region in known:
        return region
    near = difflib.get_close_matches(region, known, n=4, cutoff=0.6) or ["us-east-1", "us-west-2", "eu-west-1", "eu-central-1"]
    raise RegionError(f"{place} is {region!r}, and boto3 lists no such region; near ones: {', '.join(near)}")


@lru_cache(maxsize=1)
def _partitions() -> dict[str, str]:
    """Partition by region, from the list that botocore carries."""
    plain = session.opened(None)
    return {region: part for part in plain.get_available_partitions() for region in plain.get_available_regions("ec2", part)}


def _place() -> Path:
    return paths.runs() / ".instances" / ".regions.json"  # no run is named so
