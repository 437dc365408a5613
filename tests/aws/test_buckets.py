"""The bucket of the runs and its objects: private, verified, resumed after a cut, and removed."""

import os
from pathlib import Path

import pytest

from mistral_lib.aws import buckets, errors, session
from mistral_lib.run import files
from tests.support import aws_missing
from tests.support.aws_stand_in import FalseAws

REGION = "eu-west-1"
BUCKET = "mistral-workbook-123456789012-eu-west-1"


@pytest.fixture
def bucket(aws: FalseAws) -> str:
    return buckets.ensure(None, "demo", REGION)


def written(folder: Path, size: int, name: str = "file") -> tuple[Path, str]:
    path = folder / name
    path.write_bytes(bytes(range(256)) * (size // 256))
    return path, files.sha256(path)


def test_the_accounts_own_bucket_is_private_encrypted_and_expires(aws: FalseAws, bucket: str) -> None:
    assert bucket == BUCKET == buckets.ensure(None, "demo", REGION)
    store = session.client("s3", REGION)
    assert all(store.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    rules = store.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert "Status" not in store.get_bucket_versioning(Bucket=bucket)
    lifecycle = store.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert lifecycle[0]["Expiration"]["Days"] == 30 and lifecycle[1]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 2
    assert buckets.owned(REGION) == [bucket] and len(aws.asked("s3", "CreateBucket")) == 1


def test_a_bucket_half_made_is_protected_by_the_next_try(aws: FalseAws) -> None:
    aws.deny("s3", "PutBucketEncryption", times=1)
    with pytest.raises(errors.AwsError, match=r"protecting the bucket .* right s3:Put"):
        buckets.ensure(None, "demo", REGION)
    assert buckets.ensure(None, "demo", REGION) == BUCKET
    assert buckets.owned(REGION) == [BUCKET]


def test_a_named_bucket_half_made_is_protected_by_the_next_try(aws: FalseAws) -> None:
    aws.deny("s3", "PutPublicAccessBlock", times=1)
    with pytest.raises(errors.AwsError, match="protecting the bucket mine"):
        buckets.ensure("mine", "demo", REGION)
    assert buckets.owned(REGION) == []
    assert buckets.ensure("mine", "demo", REGION) == "mine" and buckets.owned(REGION) == ["mine"]
    aws.requests.clear()
    assert buckets.ensure("mine", "demo", REGION) == "mine" and not aws.asked("s3", "PutPublicAccessBlock"), "from now on it is its owner's"


def test_a_bucket_whose_tags_may_not_be_read_is_not_taken_for_somebody_elses(aws: FalseAws, bucket: str) -> None:
    assert buckets.owned_and_unreadable(REGION) == ([bucket], [])
    aws.deny("s3", "GetBucketTagging")
    assert buckets.owned_and_unreadable(REGION) == ([], [bucket])


def test_a_named_bucket_of_the_account_stays_as_it_is(aws: FalseAws) -> None:
    session.client("s3", REGION).create_bucket(Bucket="theirs", CreateBucketConfiguration={"LocationConstraint": REGION})
    assert buckets.ensure("theirs", "demo", REGION) == "theirs"
    assert buckets.owned(REGION) == [] and not aws.asked("s3", "PutPublicAccessBlock")


def test_a_bucket_of_somebody_else_or_of_another_region_is_refused(aws: FalseAws) -> None:
    aws.foreign_buckets.add("taken")
    with pytest.raises(errors.AwsError, match="--bucket"):
        buckets.ensure("taken", "demo", REGION)
    session.client("s3", "us-west-2").create_bucket(Bucket="far", CreateBucketConfiguration={"LocationConstraint": "us-west-2"})
    with pytest.raises(errors.AwsError, match="far is in us-west-2"):
        buckets.ensure("far", "demo", REGION)
    aws.fail("s3", "CreateBucket", "BucketAlreadyExists", 409)
    with pytest.raises(errors.AwsError, match=r"taken by another account.*--bucket"):
        buckets.ensure(None, "demo", REGION)
    aws.fail("s3", "CreateBucket", "BucketAlreadyOwnedByYou", 409, after=True)  # two commands at the same moment
    assert buckets.ensure(None, "demo", REGION) == BUCKET


def test_a_file_is_uploaded_once_and_comes_back_the_same(aws: FalseAws, bucket: str, tmp_path: Path) -> None:
    path, sha256 = written(tmp_path, 40 * 2**20)  # in parts
    assert buckets.upload(path, bucket, "runs/demo/file", sha256, REGION)
    assert aws.asked("s3", "UploadPart")
    aws.requests.clear()
    assert not buckets.upload(path, bucket, "runs/demo/file", sha256, REGION)
    assert [one.action for one in aws.requests] == ["HeadObject"]
    buckets.download(bucket, "runs/demo/file", tmp_path / "new" / "copy", sha256, REGION)
    assert files.sha256(tmp_path / "new" / "copy") == sha256
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["copy"]


def test_a_file_that_changes_while_it_is_uploaded_is_refused(aws: FalseAws, bucket: str, tmp_path: Path) -> None:
    path, sha256 = written(tmp_path, 256)
    path.write_bytes(b"other")
    with pytest.raises(errors.AwsError, match="changed while"):
        buckets.upload(path, bucket, "runs/demo/file", sha256, REGION)
    assert buckets.listing(bucket, "", REGION) == {}


@pytest.mark.parametrize("size", [2**20, 40 * 2**20])
def test_a_file_that_changes_back_after_its_upload_leaves_no_object(aws: FalseAws, bucket: str, tmp_path: Path, size: int) -> None:
    """The bytes that are sent are those that are hashed, whatever the file holds before and after."""
    path, sha256 = written(tmp_path, size)
    right, facts = path.read_bytes(), path.stat()
    aws.before("s3", "HeadObject", lambda asked: path.write_bytes(right[:-1] + b"?"))
    with pytest.raises(errors.AwsError, match="changed while"):
        buckets.upload(path, bucket, "runs/demo/file", sha256, REGION)
    path.write_bytes(right)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert buckets.listing(bucket, "", REGION) == {}
    assert "Uploads" not in session.client("s3", REGION).list_multipart_uploads(Bucket=bucket)
    assert buckets.upload(path, bucket, "runs/demo/file", sha256, REGION), "the next try sends it"


def test_an_upload_that_is_cut_succeeds_by_itself_or_on_the_next_try(aws: FalseAws, bucket: str, tmp_path: Path) -> None:
    path, sha256 = written(tmp_path, 2**20)
    aws.cut("s3", "PutObject", 1000)
    assert buckets.upload(path, bucket, "runs/demo/file", sha256, REGION)
    aws.cut("s3", "PutObject", 1000, times=None)
    with pytest.raises(errors.AwsError, match="uploading file") as raised:
        buckets.upload(path, bucket, "runs/demo/other", sha256, REGION)
    assert raised.value.temporary and list(buckets.listing(bucket, "", REGION)) == ["runs/demo/file"]
    aws.recover()
    assert buckets.upload(path, bucket, "runs/demo/other", sha256, REGION)


def test_a_download_that_is_cut_resumes_where_it_ended(aws: FalseAws, bucket: str, tmp_path: Path) -> None:
    path, sha256 = written(tmp_path, 8 * 2**20)
    buckets.upload(path, bucket, "runs/demo/file", sha256, REGION)
    aws.requests.clear()
    aws.cut("s3", "GetObject", 3 * 2**20)
    buckets.download(bucket, "runs/demo/file", tmp_path / "copy", sha256, REGION)
    ranges = [one.headers.get("range") for one in aws.asked("s3", "GetObject")]
    assert ranges[0] is None and int(ranges[-1].removeprefix("bytes=").removesuffix("-")) >= 2 * 2**20
    assert files.sha256(tmp_path / "copy") == sha256


def test_a_download_that_is_always_cut_keeps_what_it_has_for_the_next_command(aws: FalseAws, bucket: str, tmp_path: Path) -> None:
    path, sha256 = written(tmp_path, 8 * 2**20)
    buckets.upload(path, bucket, "runs/demo/file", sha256, REGION)
    aws.cut("s3", "GetObject", 2**20 + 1, times=None)
    with pytest.raises(errors.AwsError) as raised:
        buckets.download(bucket, "runs/demo/file", tmp_path / "copy", sha256, REGION)
    assert raised.value.temporary and not (tmp_path / "copy").exists()
    kept = next(tmp_path.glob(".copy.*.partial")).stat().st_size
    assert kept >= 2**20
    aws.recover()
    aws.requests.clear()
    buckets.download(bucket, "runs/demo/file", tmp_path / "copy", sha256, REGION)
    assert aws.asked("s3", "GetObject")[0].headers["range"] == f"bytes={kept}-"
    assert files.sha256(tmp_path / "copy") == sha256


def test_an_object_that_was_altered_is_refused_and_not_kept(aws: FalseAws, bucket: str, tmp_path: Path) -> None:
    path, sha256 = written(tmp_path, 4096)
    buckets.upload(path, bucket, "file", sha256, REGION)
    session.client("s3", REGION).put_object(Bucket=bucket, Key="file", Body=b"x")
    with pytest.raises(errors.AwsError, match="altered"):
        buckets.download(bucket, "file", tmp_path / "copy", sha256, REGION)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file"]


def test_a_complete_partial_file_is_only_verified_and_renamed(aws: FalseAws, bucket: str, tmp_path: Path) -> None:
    path, sha256 = written(tmp_path, 4096)
    buckets.upload(path, bucket, "file", sha256, REGION)
    (tmp_path / f".copy.{sha256[:16]}.partial").write_bytes(path.read_bytes())
    buckets.download(bucket, "file", tmp_path / "copy", sha256, REGION)
    assert files.sha256(tmp_path / "copy") == sha256


def test_an_empty_file_goes_and_comes(aws: FalseAws, bucket: str, tmp_path: Path) -> None:
    path, sha256 = written(tmp_path, 0)
    assert buckets.upload(path, bucket, "file", sha256, REGION)
    buckets.download(bucket, "file", tmp_path / "copy", sha256, REGION)
    assert (tmp_path / "copy").read_bytes() == b""


def test_json_is_written_and_read_and_what_is_missing_is_none(aws: FalseAws, bucket: str) -> None:
    assert buckets.get_json(bucket, "runs/demo/job.json", REGION) is None
    assert buckets.sha256_of(bucket, "runs/demo/job.json", REGION) is None
    buckets.put_json({"a": [1, "ü"]}, bucket, "runs/demo/job.json", REGION)
    assert buckets.get_json(bucket, "runs/demo/job.json", REGION) == {"a": [1, "ü"]}
    session.client("s3", REGION).put_object(Bucket=bucket, Key="bad", Body=b"{")
    with pytest.raises(errors.AwsError, match="not valid JSON"):
        buckets.get_json(bucket, "bad", REGION)


def test_a_prefix_of_several_pages_is_counted_and_emptied_and_the_bucket_deleted(aws: FalseAws, bucket: str) -> None:
    state = aws_missing.backend("s3", "aws")
    for number in range(2100):  # a page has 1,000
        state.put_object(bucket, f"runs/demo/{number}", b"xy")
    buckets.put_json({}, bucket, "runs/other/job.json", REGION)
    session.client("s3", REGION).create_multipart_upload(Bucket=bucket, Key="runs/demo/large")
    assert len(buckets.listing(bucket, "runs/demo/", REGION)) == 2100
    assert not buckets.delete_if_empty(bucket, REGION)
    assert buckets.empty(bucket, "runs/demo/", REGION) == 2100
    assert "Uploads" not in session.client("s3", REGION).list_multipart_uploads(Bucket=bucket)
    assert list(buckets.listing(bucket, "", REGION)) == ["runs/other/job.json"]
    buckets.empty(bucket, "", REGION)
    assert buckets.delete_if_empty(bucket, REGION) and buckets.delete_if_empty(bucket, REGION)
    assert buckets.owned(REGION) == []
