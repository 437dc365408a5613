"""`list`: every kind of thing with the tag, in every region that was used, with what it costs a day; also what was not seen."""

import re

import pytest

from mistral_lib.aws import machines, parameters, prices, session
from mistral_lib.instance import launch, listing, records, resources
from mistral_lib.instance.launch_options import UpOptions
from mistral_lib.run import params
from tests.support.aws_stand_in import FalseAws

REGION, FAR = "us-east-1", "eu-central-1"
SETTINGS = params.validate({"run_name": "first", "instance": "g4dn.xlarge"})


def up(region: str = REGION, run: str = "first") -> records.Record:
    settings = params.validate({"run_name": run, "instance": "g4dn.xlarge"})
    return launch.up("params/mine.yaml", settings, UpOptions(region=region, disk_gib=90, ignore_fit=True, wait_minutes=0))


def test_without_a_region_nothing_is_claimed(home, aws: FalseAws) -> None:
    assert resources.everything() == []
    assert re.fullmatch(r"Nothing with the workbook's tag in .*eu-west-1.*us-west-2 of account 123456789012", listing.text()), "all regions"
    assert listing.text([REGION]) == f"Nothing with the workbook's tag in {REGION} of account 123456789012"


def test_every_kind_is_listed_with_its_run_and_cost(home, aws: FalseAws) -> None:
    record = up()
    parameters.put_token("first", REGION, "hf_secret")
    found = {one.kind: one for one in resources.everything()}
    assert set(found) == {"machine", "volume", "security group", "parameter", "objects", "schedule", "role", "bucket"}
    assert found["machine"].id == record.machine and found["machine"].usd_per_day >= 24 * 0.526
    assert found["volume"].usd_per_day == pytest.approx(90 * 0.08 / prices.DAYS_PER_MONTH)
    assert all(one.run == "first" for kind, one in found.items() if kind != "bucket")
    assert "hf_secret" not in listing.text()


def test_a_stopped_machine_costs_its_disk_alone(home, aws: FalseAws) -> None:
    record = up()
    machines.stop(REGION, record.machine)
    found = {one.kind: one for one in resources.everything()}
    assert found["machine"].state == "stopped" and found["machine"].usd_per_day == 0 and found["volume"].usd_per_day > 0


def test_all_regions_that_were_used_are_looked_into(home, aws: FalseAws) -> None:
    up()
    up(FAR, "second")
    assert {one.region for one in resources.everything() if one.kind == "machine"} == {REGION, FAR}
    shown = listing.text()
    assert f"in {FAR}, {REGION}" in shown and "USD a day" in shown


def test_what_is_not_shown_is_listed_as_not_seen_and_the_rest_is_there(home, aws: FalseAws) -> None:
    up()
    aws.deny("scheduler", "ListSchedules")
    aws.fail("ec2", "DescribeVolumes", "RequestLimitExceeded", status=503, times=None)
    shown = listing.text()
    assert "not seen: schedule in us-east-1" in shown and "scheduler:ListSchedules" in shown and "not seen: volume" in shown
    assert "security group" in shown


def test_a_named_bucket_of_ones_own_is_listed_by_its_objects_alone(home, aws: FalseAws) -> None:
    session.client("s3", REGION).create_bucket(Bucket="a-bucket-of-mine")
    session.client("s3", REGION).put_object(Bucket="a-bucket-of-mine", Key="runs/private/x", Body=b"1")
    launch.up(
        "params/mine.yaml", SETTINGS, UpOptions(region=REGION, bucket="a-bucket-of-mine", disk_gib=90, ignore_fit=True, wait_minutes=0)
    )
    found = [one for one in resources.everything() if one.kind in ("bucket", "objects")]
    assert [(one.kind, one.id) for one in found] == [("objects", "s3://a-bucket-of-mine/runs/first/")]


def test_the_runs_bucket_is_not_hidden_if_its_tags_may_not_be_read(home, aws: FalseAws) -> None:
    record = up()
    session.client("s3", REGION).create_bucket(Bucket="somebody-elses-matter")
    aws.deny("s3", "GetBucketTagging")
    shown = listing.text()
    assert f"not seen: bucket in us-east-1: {record.bucket}: whether it is the workbook's" in shown and "s3:GetBucketTagging" in shown
    assert f"s3://{record.bucket}/runs/first/" in shown and "somebody-elses-matter" not in shown
