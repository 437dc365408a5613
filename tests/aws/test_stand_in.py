"""The false AWS itself: what it records, answers and breaks, for this process and for others."""

import subprocess
import sys

import pytest

from mistral_lib.aws import errors, images, session
from tests.support.aws_stand_in import FalseAws

REGION = "us-east-1"


def test_requests_are_recorded_with_service_region_and_action(aws: FalseAws) -> None:
    store = session.client("s3", REGION)
    store.create_bucket(Bucket="some-bucket")
    store.put_object(Bucket="some-bucket", Key="a/b c", Body=b"text")
    store.list_objects_v2(Bucket="some-bucket", Prefix="a/")
    store.head_object(Bucket="some-bucket", Key="a/b c")
    assert store.get_object(Bucket="some-bucket", Key="a/b c")["Body"].read() == b"text"
    session.client("ec2", REGION).describe_vpcs()
    session.client("scheduler", REGION).list_schedules()
    assert [one.action for one in aws.asked("s3")] == ["CreateBucket", "PutObject", "ListObjectsV2", "HeadObject", "GetObject"]
    assert aws.asked("s3", "PutObject")[0].parameters["Key"] == "a/b c"
    assert [(one.region, one.action) for one in aws.asked("ec2")] == [(REGION, "DescribeVpcs")]
    assert [one.action for one in aws.asked("scheduler")] == ["ListSchedules"]


def test_a_fault_happens_so_often_and_only_where_it_is_meant(aws: FalseAws) -> None:
    client = session.client("ec2", REGION, attempts=1)
    aws.fail("ec2", "DescribeVpcs", "RequestLimitExceeded", status=503, times=2)
    for _ in range(2):
        with pytest.raises(client.exceptions.ClientError, match="RequestLimitExceeded"):
            client.describe_vpcs()
    assert client.describe_vpcs()["Vpcs"]
    aws.fail("ec2", "DescribeSubnets", "Broken", when=lambda parameters: "subnet-1" in parameters.values(), times=None)
    assert client.describe_subnets()["Subnets"]
    with pytest.raises(client.exceptions.ClientError, match="Broken"):
        client.describe_subnets(SubnetIds=["subnet-1"])


@pytest.mark.parametrize("service", ["ec2", "iam", "sts", "ssm", "scheduler", "s3", "service-quotas"])
def test_each_service_says_denied_in_its_own_words(aws: FalseAws, service: str) -> None:
    aws.deny(service, "*")
    client = session.client(service, REGION)
    ask = {"ec2": "describe_vpcs", "iam": "list_roles", "sts": "get_caller_identity", "ssm": "describe_parameters", "scheduler": "list_schedules", "s3": "list_buckets", "service-quotas": "list_services"}  # fmt: skip
    with pytest.raises(errors.AwsError, match=r"the right .* is needed") as raised, errors.explained("asking"):
        getattr(client, ask[service])()
    assert raised.value.denied


def test_connections_are_cut_in_uploads_and_downloads(aws: FalseAws) -> None:
    store = session.client("s3", REGION, attempts=1)
    store.create_bucket(Bucket="some-bucket")
    aws.cut("s3", "PutObject", after_bytes=1000)
    with pytest.raises(Exception, match=r"[Cc]onnection"):
        store.put_object(Bucket="some-bucket", Key="a", Body=b"x" * 5_000_000)
    store.put_object(Bucket="some-bucket", Key="a", Body=b"x" * 50_000)
    aws.cut("s3", "GetObject", after_bytes=1000)
    body = store.get_object(Bucket="some-bucket", Key="a")["Body"]
    with pytest.raises(Exception, match=r"[Ii]ncomplete|[Cc]onnection"):
        body.read()
    assert len(store.get_object(Bucket="some-bucket", Key="a")["Body"].read()) == 50_000


def test_another_process_sees_the_same_account(aws: FalseAws) -> None:
    session.client("s3", REGION).create_bucket(Bucket="some-bucket")
    code = "import boto3; print([one['Name'] for one in boto3.client('s3').list_buckets()['Buckets']])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PATH": "", **aws.environment})
    assert done.stdout.strip() == "['some-bucket']", done.stderr


def test_the_public_image_is_one_that_can_be_launched(aws: FalseAws) -> None:
    image = images.newest(REGION)
    assert session.client("ec2", REGION).describe_images(ImageIds=[image])["Images"][0]["RootDeviceName"]
    aws.without_image.add("us-west-2")
    with pytest.raises(errors.AwsError, match="--image"):
        images.newest("us-west-2")
