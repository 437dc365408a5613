"""Claims about a cloud account: an S3 bucket with something below a prefix, an EC2 instance in a state. Reads only.

Without boto3, credentials, a region or an answer the finding is `unknown`. Every request ends within seconds.
"""

from collections.abc import Callable
from typing import Any

from mistral_lib.aws import session
from mistral_lib.commands.claims_file import BucketClaim, InstanceClaim

READ_SECONDS, ATTEMPTS = 7, 2
NOT_THERE = ("404", "NoSuchBucket", "NotFound", "InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed")

Outcome = tuple[str, str]  # status and reason


def bucket(claim: BucketClaim) -> Outcome:
    """Whether the bucket exists and has an object below the prefix."""

    def look() -> Outcome:
        store = _client("s3", claim.region)
        store.head_bucket(Bucket=claim.bucket)
        found = store.list_objects_v2(Bucket=claim.bucket, Prefix=claim.prefix, MaxKeys=1).get("Contents", [])
        if not found:
            return "missing", f"the bucket exists, but nothing begins with {claim.prefix!r}" if claim.prefix else "the bucket is empty"
        return "verified", f"the bucket exists and holds {found[0]['Key']}"

    return _looked(look, "no such bucket")


def instance(claim: InstanceClaim) -> Outcome:
    """Whether an instance with this id or name is in the claimed state."""

    def look() -> Outcome:
        by_id = {"InstanceIds": [claim.instance]}
        by_name = {"Filters": [{"Name": "tag:Name", "Values": [claim.instance]}]}
        asked = by_id if claim.instance.startswith("i-") else by_name
        pages = _client("ec2", claim.region).get_paginator("describe_instances").paginate(**asked)
        found = [one for page in pages for reservation in page["Reservations"] for one in reservation["Instances"]]
        if not found:
            return "missing", "no instance with this name in this region"
        return _compared(claim, found)

    return _looked(look, "no instance with this id in this region")


def _compared(claim: InstanceClaim, found: list[dict[str, Any]]) -> Outcome:
    shown = ", ".join(f"{one['InstanceId']} ({one['InstanceType']}) is {one['State']['Name']}" for one in found)
    fits = [one for one in found if one["State"]["Name"] == claim.state and claim.type in (None, one["InstanceType"])]
    claimed = f"{claim.state}{f', {claim.type}' if claim.type else ''}"
    return ("verified", shown) if len(fits) == len(found) else ("refuted", f"{shown}; claimed {claimed}")


def _client(service: str, region: str | None) -> Any:
    """Errors: AccessError without boto3 or credentials."""
    return session.client(service, region, READ_SECONDS, ATTEMPTS)


def _looked(look: Callable[[], Outcome], not_there: str) -> Outcome:
    """The finding; what keeps one from looking is `unknown`."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return "unknown", session.PACKAGE
    try:
        return look()
    except session.AccessError as error:
        return "unknown", str(error)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in NOT_THERE:
            return "missing", not_there
        denied = "; it may exist and belong to somebody else" if code in ("403", "AccessDenied") else ""
        return "unknown", f"the request was refused: {code}{denied}"
    except BotoCoreError as error:
        return "unknown", f"{type(error).__name__}: {error}"
