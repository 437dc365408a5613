"""The bucket of the runs: private, encrypted and expiring, and its objects: what is uploaded and downloaded is verified by its SHA-256.

Source: boto3, S3.Client; S3, "Blocking public access", "Managing your storage lifecycle" and "Checking object integrity".
"""

import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from mistral_lib.aws import errors, names, session
from mistral_lib.on_machine.bucket.hashed_reader import ChangedError, HashedReader
from mistral_lib.run import files, paths

EXPIRY_DAYS, UPLOAD_DAYS = 30, 2
PIECE = 2**20  # bytes read at once
TRIES = 4  # of one download that is cut
NO_PUBLIC = {"BlockPublicAcls": True, "IgnorePublicAcls": True, "BlockPublicPolicy": True, "RestrictPublicBuckets": True}
READ_SECONDS = 60  # S3 answers an upload when all of it is stored
HASH = "sha256"  # the object's metadata key


def ensure(name: str | None, run: str, region: str) -> str:
    """The bucket of this name, or the account's own `mistral-workbook-…`; made if it is missing. Errors: AwsError.

    A bucket that exists with another name is used as it is: its settings stay its owner's. One that an earlier call made and did not
    come to protect, since it was cut, is noted on this computer.
    """
    account = session.account(region)
    own = names.bucket(account, region)
    bucket = name or own
    note = _half_made(bucket)
    exists = _looked(bucket, account, region)
    if not exists:
        files.write_text(note, region)
        try:
            _create(bucket, region)
        except errors.AwsError as error:
            if not error.temporary:  # it was not made
                note.unlink()
            raise
    if not exists or bucket == own or note.exists():
        _protect(bucket, region)
        note.unlink(missing_ok=True)
    return bucket


def _half_made(bucket: str) -> Path:
    """The note that this computer makes the bucket and has not protected it yet."""
    return paths.runs() / ".instances" / f".{bucket}.half-made"


def owned(region: str) -> list[str]:
    """The account's buckets in the region that the workbook made. Errors: AwsError."""
    return owned_and_unreadable(region)[0]


def owned_and_unreadable(region: str) -> tuple[list[str], list[str]]:
    """The account's buckets in the region that the workbook made, and those whose tags may not be read. Errors: AwsError."""
    client = session.client("s3", region)
    with errors.explained("listing the buckets"):
        listed = [one["Name"] for page in client.get_paginator("list_buckets").paginate(BucketRegion=region) for one in page["Buckets"]]
        tagged = [(name, _tags(client, name)) for name in listed]
    return [name for name, tags in tagged if names.run_of(tags) == names.SHARED], [name for name, tags in tagged if tags is None]


def upload(path: Path, bucket: str, key: str, sha256: str, region: str) -> bool:
    """Upload a file with its hash; False if the bucket has it already. Large files go in parts. Errors: AwsError, also if the file changed."""
    from boto3.s3.transfer import TransferConfig

    if sha256_of(bucket, key, region) == sha256:
        return False
    with errors.explained(f"uploading {path.name} to s3://{bucket}/{key}"):
        kept = {"Metadata": {HASH: sha256}, "ChecksumAlgorithm": "SHA256"}
        parts = TransferConfig(max_concurrency=4, multipart_chunksize=16 * 2**20)
        try:
            with open(path, "rb") as file:
                _client(region).upload_fileobj(HashedReader(file, sha256), bucket, key, ExtraArgs=kept, Config=parts)
        except ChangedError:
            raise errors.AwsError(f"{path.name} changed while it was uploaded: run the command again", "Changed") from None
    return True


def download(bucket: str, key: str, path: Path, sha256: str, region: str) -> None:
    """Download to a file beside `path`, verify it, and rename it. A download that was cut resumes where it ended. Errors: AwsError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{sha256[:16]}.partial")
    for attempt in range(TRIES):
        try:
            with errors.explained(f"downloading s3://{bucket}/{key}"):
                _append(bucket, key, partial, region)
            break
        except errors.AwsError as error:
            if error.code == "InvalidRange":  # nothing is missing, or the object became shorter: the hash decides
                break
            if attempt == TRIES - 1 or not error.temporary:
                raise
    found = files.sha256(partial)
    if found != sha256:
        partial.unlink()
        raise errors.AwsError(f"s3://{bucket}/{key} has the SHA-256 {found[:12]}…, expected {sha256[:12]}…: it was altered; run the command again", "Altered")  # fmt: skip
    os.replace(partial, path)


def put_json(value: Any, bucket: str, key: str, region: str) -> None:
    with errors.explained(f"writing s3://{bucket}/{key}"):
        body = json.dumps(value, indent=2).encode() + b"\n"
        _client(region).put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json")


def get_json(bucket: str, key: str, region: str) -> dict[str, Any] | None:
    """The object's JSON; None if there is no such object. Errors: AwsError, also if it is not JSON."""
    text = get_text(bucket, key, region)
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError as error:
        raise errors.AwsError(f"s3://{bucket}/{key} is not valid JSON ({error}): it was altered", "Altered") from None


def get_text(bucket: str, key: str, region: str) -> str | None:
    """The object as text; None if there is no such object. Errors: AwsError."""
    with errors.explained(f"reading s3://{bucket}/{key}"):
        try:
            return _client(region).get_object(Bucket=bucket, Key=key)["Body"].read().decode(errors="replace")
        except Exception as error:
            if errors.code(error) in ("NoSuchKey", "404"):
                return None
            raise


def sha256_of(bucket: str, key: str, region: str) -> str | None:
    """The hash that `upload` gave the object; None if there is no such object. Errors: AwsError."""
    with errors.explained(f"looking at s3://{bucket}/{key}"):
        try:
            return _client(region).head_object(Bucket=bucket, Key=key)["Metadata"].get(HASH, "")
        except Exception as error:
            if errors.code(error) in ("NoSuchKey", "404"):
                return None
            raise


def modified(bucket: str, key: str, region: str) -> datetime | None:
    """When the object was written (UTC); None if there is no such object. Errors: AwsError."""
    with errors.explained(f"looking at s3://{bucket}/{key}"):
        try:
            return _client(region).head_object(Bucket=bucket, Key=key)["LastModified"]
        except Exception as error:
            if errors.code(error) in ("NoSuchKey", "404"):
                return None
            raise


def listing(bucket: str, prefix: str, region: str) -> dict[str, int]:
    """`{key: bytes}` of all objects below the prefix. Errors: AwsError."""
    with errors.explained(f"listing s3://{bucket}/{prefix}"):
        pages = _client(region).get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        return {one["Key"]: one["Size"] for page in pages for one in page.get("Contents", [])}


def empty(bucket: str, prefix: str, region: str) -> int:
    """Delete all objects below the prefix, and uploads that never ended; how many objects there were. Errors: AwsError."""
    keys = list(listing(bucket, prefix, region))
    delete(bucket, keys, region)
    client = _client(region)
    with errors.explained(f"ending the uploads below s3://{bucket}/{prefix}"):
        for page in client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
            for one in page.get("Uploads", []):
                client.abort_multipart_upload(Bucket=bucket, Key=one["Key"], UploadId=one["UploadId"])
    return len(keys)


def delete(bucket: str, keys: list[str], region: str) -> None:
    """Delete these objects. Errors: AwsError, also if some stay."""
    client = _client(region)
    with errors.explained(f"deleting objects of {bucket}"):
        for some in _thousands(keys):
            answer = client.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in some], "Quiet": True})
            if answer.get("Errors"):
                first = answer["Errors"][0]
                raise errors.AwsError(f"{len(answer['Errors'])} objects of {bucket} were not deleted, the first is {first['Key']} ({first['Code']})", first["Code"])  # fmt: skip


def delete_if_empty(bucket: str, region: str) -> bool:
    """Delete the bucket if nothing is in it; whether it is gone. Errors: AwsError."""
    client = _client(region)
    with errors.explained(f"deleting the bucket {bucket}"):
        try:
            client.delete_bucket(Bucket=bucket)
        except client.exceptions.ClientError as error:
            if errors.code(error) == "BucketNotEmpty":
                return False
            if not errors.is_not_there(errors.code(error)):
                raise
    return True


def _looked(bucket: str, account: str, region: str) -> bool:
    """Whether the account's bucket exists. Errors: AwsError if it is somebody else's, or in another region."""
    client = _client(region)
    try:
        answer = client.head_bucket(Bucket=bucket, ExpectedBucketOwner=account)
        place = answer.get("BucketRegion") or answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", region)
    except client.exceptions.ClientError as error:
        found = errors.code(error)
        if found in ("404", "NoSuchBucket"):
            return False
        if found not in ("403", "AccessDenied", "301", "PermanentRedirect"):
            with errors.explained(f"looking at the bucket {bucket}"):
                raise
        place = error.response["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", region)
        if place == region:
            raise errors.AwsError(f"the bucket {bucket} exists, but it is not this account's, or the right s3:ListBucket is missing: name another one with --bucket", found) from error  # fmt: skip
    if place != region:
        raise errors.AwsError(f"the bucket {bucket} is in {place}, and the machine would be in {region}: name another one with --bucket, or --region {place}", "PermanentRedirect")  # fmt: skip
    return True


def _create(bucket: str, region: str) -> None:
    client = _client(region)
    place = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    with errors.explained(f"making the bucket {bucket}"):
        try:
            client.create_bucket(Bucket=bucket, **place)
        except client.exceptions.BucketAlreadyOwnedByYou:
            return
        except client.exceptions.BucketAlreadyExists as error:
            raise errors.AwsError(f"the bucket name {bucket} is taken by another account: name another one with --bucket", "BucketAlreadyExists") from error  # fmt: skip


def _protect(bucket: str, region: str) -> None:
    """No public access first; then encryption, expiry and the tag. Repeating it changes nothing."""
    client = _client(region)
    rules = [
        {"ID": "expire", "Status": "Enabled", "Filter": {"Prefix": "runs/"}, "Expiration": {"Days": EXPIRY_DAYS}},
        {
            "ID": "unfinished",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": UPLOAD_DAYS},
        },
    ]
    sealed = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]}
    with errors.explained(f"protecting the bucket {bucket}"):
        client.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=NO_PUBLIC)
        client.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=sealed)
        client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})
        client.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": names.TAG, "Value": names.SHARED}]})


def _append(bucket: str, key: str, partial: Path, region: str) -> None:
    """Read the object from where the partial file ends."""
    begin = partial.stat().st_size if partial.exists() else 0
    asked = {"Range": f"bytes={begin}-"} if begin else {}
    body = _client(region).get_object(Bucket=bucket, Key=key, **asked)["Body"]
    with open(partial, "ab") as file:
        for piece in body.iter_chunks(PIECE):
            file.write(piece)


def _tags(client: Any, bucket: str) -> list[dict[str, str]] | None:
    """None if they may not be read."""
    try:
        return client.get_bucket_tagging(Bucket=bucket)["TagSet"]
    except client.exceptions.ClientError as error:
        if errors.code(error) in errors.DENIED:
            return None
        if errors.code(error) in ("NoSuchTagSet", "NoSuchTagSetError", "NoSuchBucket"):
            return []
        raise


def _thousands(keys: list[str]) -> Iterator[list[str]]:
    for begin in range(0, len(keys), 1000):  # objects that one request deletes
        yield keys[begin : begin + 1000]


def _client(region: str) -> Any:
    return session.client("s3", region, READ_SECONDS)
