"""A machine that is rented already, in the stand-in of AWS: for tests of what comes after `up`."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

from mistral_lib.aws import buckets, names, roles, session
from mistral_lib.instance import records
from mistral_lib.instance.records import Record
from tests.support.aws_stand_in import REGION


def rent(run: str = "small", **changes: Any) -> Record:
    """The saved record of a complete launch, with a bucket and a machine behind it. changes: values of the record."""
    ec2 = session.client("ec2", REGION)
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    bucket = buckets.ensure(None, run, REGION)
    profile = {"Name": roles.ensure(run, bucket, REGION)}
    marked = [{"ResourceType": "instance", "Tags": names.tags(run)}]
    made = ec2.run_instances(
        ImageId=image, InstanceType="g4dn.xlarge", MinCount=1, MaxCount=1, IamInstanceProfile=profile, TagSpecifications=marked
    )
    now = datetime.now(UTC).replace(microsecond=0)
    record = Record(
        run, REGION, "g4dn.xlarge", False, 0.526, 12.0, 0.0, bucket=bucket, prefix=f"runs/{run}/",
        machine=made["Instances"][0]["InstanceId"], launched=now, ends_at=now + timedelta(hours=12), step=records.COMPLETE,
    )  # fmt: skip
    record = replace(record, **changes)
    records.save(record)
    return record


def end(record: Record) -> None:
    """The machine shuts down, which terminates it."""
    session.client("ec2", record.region).terminate_instances(InstanceIds=[record.machine])


def put(record: Record, name: str, content: bytes) -> None:
    """An object below the run's prefix, with its hash as the machine writes it."""
    facts = {"Metadata": {"sha256": sha256(content).hexdigest()}}
    session.client("s3", record.region).put_object(Bucket=record.bucket, Key=record.prefix + name, Body=content, **facts)


def get(record: Record, name: str) -> bytes:
    return session.client("s3", record.region).get_object(Bucket=record.bucket, Key=record.prefix + name)["Body"].read()


def put_results(record: Record, contents: Mapping[str, bytes], complete: bool = True) -> None:
    """Results as the machine uploads them: the files, then results.json."""
    for name, content in contents.items():
        put(record, f"results/{name}", content)
    facts = {name: {"bytes": len(content), "sha256": sha256(content).hexdigest()} for name, content in contents.items()}
    buckets.put_json({"complete": complete, "files": facts}, record.bucket, f"{record.prefix}results.json", record.region)
