"""Credentials, regions, names, and the words of errors."""

import socket
import sys
import time
from pathlib import Path

import pytest

from mistral_lib.aws import errors, names, regions, session
from tests.support.aws_stand_in import FalseAws

REGION = "us-east-1"


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    session.forget()


def test_without_credentials_no_client_is_made(no_credentials: None) -> None:
    assert not session.has_credentials()
    with pytest.raises(session.AccessError, match="AWS_PROFILE"):
        session.client("ec2", REGION)


def test_half_of_a_key_and_a_missing_profile_are_access_errors(no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    with pytest.raises(session.AccessError, match="cannot be used"):
        session.client("ec2", REGION)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(session.AccessError, match="nobody"):
        session.client("ec2", REGION)
    assert not session.has_credentials()


def test_without_boto3_the_message_says_how_to_install_it(no_credentials: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(session.AccessError, match="pip install boto3"):
        session.client("ec2", REGION)
    assert not session.has_credentials()


def test_the_account_is_asked_for_once(aws: FalseAws) -> None:
    assert session.has_credentials()
    assert session.account(REGION) == session.account(REGION) == "123456789012"
    assert len(aws.asked("sts")) == 1


def test_the_region_is_the_options_the_variables_or_the_profiles_and_never_guessed(no_credentials: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    with pytest.raises(regions.RegionError, match="none is guessed"):
        regions.chosen(None)
    (tmp_path / "config").write_text("[default]\nregion = eu-west-1\n")
    assert regions.chosen(None) == "eu-west-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    assert regions.chosen(None) == "us-west-2"
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert regions.chosen(None) == "eu-central-1"
    assert regions.chosen("us-east-2") == "us-east-2"


@pytest.mark.parametrize("region", ["us-est-1", "us-east-1a", "frankfurt"])
def test_a_region_that_does_not_exist_is_refused_with_near_ones(region: str) -> None:
    with pytest.raises(regions.RegionError, match=f"--region is '{region}'.*(us|eu)-[a-z]+-1"):
        regions.chosen(region)


def test_used_regions_are_remembered_once(home: Path) -> None:
    assert regions.used() == []
    for region in ("us-west-2", "eu-west-1", "us-west-2"):
        regions.remember(region)
    assert regions.used() == ["eu-west-1", "us-west-2"]


def test_enabled_regions_are_those_of_the_account(aws: FalseAws) -> None:
    assert {"us-east-1", "eu-west-1"} <= set(regions.enabled(REGION))
    assert "me-south-1" not in regions.enabled(REGION) or aws.asked("ec2")


def test_names_are_short_enough_and_two_runs_never_share_one() -> None:
    long = "a" * 99
    for run in ("demo", "a" * 41, "a" * 42, "a" * 43, long):
        own = names.of(run)
        assert max(map(len, (own.role, own.profile, own.timer_role, own.schedule))) <= names.LONGEST
        assert own.prefix == f"runs/{run}/" and own.parameter == f"/mistral-workbook/{run}/hf-token"
    assert len({names.of(long + end).role for end in "bcd"}) == 3
    assert names.of("demo").role == "mistral-workbook-demo" and names.of("demo").timer_role == "mistral-workbook-demo-timer"
    assert names.run_of(names.tags("demo")) == "demo" and names.run_of(None) == ""


@pytest.mark.parametrize(
    ("code", "status", "advice"),
    [
        ("ExpiredToken", 400, "aws sso login"),
        ("RequestExpired", 400, "expired"),
        ("InvalidClientTokenId", 403, "region is enabled"),
        ("AuthFailure", 401, "clock"),
        ("SignatureDoesNotMatch", 403, "clock"),
        ("OptInRequired", 401, "registration"),
        ("IncorrectInstanceState", 400, "in use"),
        ("Surprise", 400, "documentation"),
    ],
)
def test_every_error_says_what_to_do(aws: FalseAws, code: str, status: int, advice: str) -> None:
    aws.fail("ec2", "DescribeVpcs", code, status, times=None, message="as AWS says it")
    with (
        pytest.raises(errors.AwsError, match=f"looking: AWS said {code} .as AWS says it.; .*{advice}") as raised,
        errors.explained("looking"),
    ):
        session.client("ec2", REGION).describe_vpcs()
    assert raised.value.code == code and not raised.value.temporary


def test_throttled_requests_are_repeated_and_then_reported_as_temporary(aws: FalseAws) -> None:
    aws.fail("ec2", "DescribeVpcs", "RequestLimitExceeded", 503, times=1)
    assert session.client("ec2", REGION).describe_vpcs()["Vpcs"]
    aws.fail("ec2", "DescribeVpcs", "RequestLimitExceeded", 503, times=None)
    with pytest.raises(errors.AwsError, match="wait a minute") as raised, errors.explained("looking"):
        session.client("ec2", REGION).describe_vpcs()
    assert raised.value.temporary


def test_a_right_that_is_missing_is_named(aws: FalseAws) -> None:
    aws.fail("ec2", "RunInstances", "UnauthorizedOperation", 403, message="You are not authorized to perform this operation. Encoded authorization failure message: " + "x" * 500)  # fmt: skip
    with pytest.raises(errors.AwsError, match="ec2:RunInstances is needed") as raised, errors.explained("launching"):
        session.client("ec2", REGION).run_instances(MinCount=1, MaxCount=1, ImageId="ami-1")
    assert "xxx" not in str(raised.value) and raised.value.denied
    aws.deny("s3", "ListObjectsV2")
    with pytest.raises(errors.AwsError, match="s3:ListBucket is needed"), errors.explained("listing"):
        session.client("s3", REGION).list_objects_v2(Bucket="some-bucket")


def test_an_address_that_nobody_serves_is_reported_within_seconds(aws: FalseAws, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    began = time.monotonic()
    with pytest.raises(errors.AwsError, match="check the network") as raised:
        session.account(REGION)
    assert raised.value.temporary and time.monotonic() - began < 15


def test_after_a_new_sign_in_the_credentials_are_read_again(aws: FalseAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    for key in ("old", "new"):
        (tmp_path / "credentials").write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = x\n")
        aws.fail("ec2", "DescribeVpcs", "ExpiredToken", times=int(key == "old"))
        try:
            with errors.explained("looking"):
                session.client("ec2", REGION).describe_vpcs()
        except errors.AwsError:
            assert key == "old"
    assert [f"Credential={key}/" in one.headers["authorization"] for key, one in zip(("old", "new"), aws.asked("ec2"), strict=True)] == [True, True]  # fmt: skip


def test_errors_that_are_not_aws_s_pass() -> None:
    with pytest.raises(KeyError), errors.explained("looking"):
        raise KeyError("x")
