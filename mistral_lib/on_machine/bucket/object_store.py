"""The run's part of the bucket, as the machine reads and writes it. Every downloaded file is verified by its SHA-256.

An object that the machine uploads carries the SHA-256 of its content as metadata, so that it can be verified even if results.json,
which is written later, still lists the content before.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mistral_lib.on_machine.bucket.hashed_reader import HashedReader

PART = 32 * 2**20  # bytes of a part; larger files are uploaded in parts


class StoreError(RuntimeError):
    """The bucket could not be read or written now; another attempt may succeed."""


class WrongContentError(StoreError):
    """The content of an object is not what was listed."""


class MissingError(StoreError):
    """There is no such object."""


class DeniedError(StoreError):
    """S3 does not allow it, or does not say that the object is missing."""


class Store:
    """Objects below the prefix of one run."""

    def __init__(self, client: Any, bucket: str, prefix: str):
        self.client, self.bucket, self.prefix = client, bucket, prefix.rstrip("/") + "/"

    def read(self, name: str) -> bytes | None:
        """The content of an object; None if it does not exist. Errors: StoreError."""
        try:
            with self._explained(f"reading {name}", name):
                return self.client.get_object(Bucket=self.bucket, Key=self.prefix + name)["Body"].read()
        except MissingError:
            return None

    def write(self, name: str, content: bytes, kind: str = "application/octet-stream") -> None:
        """Put an object: the old one or the new one is there, never a part. Errors: StoreError."""
        facts = {"Metadata": {"sha256": hashlib.sha256(content).hexdigest()}, "ContentType": kind}
        with _explained(f"writing {name}"):
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + name, Body=content, **facts)

    def upload(self, name: str, path: Path, sha256: str) -> None:
        """Upload a file of any size, in parts that are each retried. Errors: StoreError; OSError of the file, also if it has another hash."""
        from boto3.s3.transfer import TransferConfig

        settings = TransferConfig(multipart_threshold=PART, multipart_chunksize=PART, max_concurrency=4)
        settings.max_in_memory_upload_chunks = 4  # boto3 keeps 10 otherwise
        with _explained(f"uploading {name}"):
            extra = {"Metadata": {"sha256": sha256}}
            with open(path, "rb") as file:
                self.client.upload_fileobj(HashedReader(file, sha256), self.bucket, self.prefix + name, ExtraArgs=extra, Config=settings)

    def names(self, below: str) -> list[str]:
        """The names of the objects that begin with `below`. Errors: StoreError."""
        with _explained(f"listing {below}"):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + below)
            return [one["Key"].removeprefix(self.prefix) for page in pages for one in page.get("Contents", [])]

    def delete(self, name: str) -> None:
        """Delete an object; one that is gone already is fine. Errors: StoreError."""
        with _explained(f"deleting {name}"):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + name)

    def download(self, name: str, target: Path, sha256: str, newer: bool = False) -> str:
        """Download to a hidden file, verify, rename into place; returns the SHA-256 found. A target that has the content is kept.

        newer: content that agrees with the object's own metadata is accepted too. Errors: StoreError, MissingError, WrongContentError, OSError.
        """
        if target.is_file() and sha256_of(target) == sha256:
            return sha256
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            found, own = self._download(name, partial)
            if found not in ([sha256, own] if newer else [sha256]):
                where = f"s3://{self.bucket}/{self.prefix}{name}"
                raise WrongContentError(f"{where} has SHA-256 {found}, expected {sha256}: upload it again")
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
        return found

    def _download(self, name: str, partial: Path) -> tuple[str, str | None]:
        """The SHA-256 of the content, and the one in the object's metadata."""
        digest = hashlib.sha256()
        with self._explained(f"downloading {name}", name):
            answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + name)
            with open(partial, "wb") as file:
                for piece in answer["Body"].iter_chunks(2**20):
                    digest.update(piece)
                    file.write(piece)
        return digest.hexdigest(), answer.get("Metadata", {}).get("sha256")

    @contextmanager
    def _explained(self, what: str, name: str) -> Iterator[None]:
        """As `_explained`, for an object that may be missing. S3 says so only to those who may list the whole bucket, and AccessDenied to
        this machine, which may list its own prefix; the listing tells the two apart."""
        try:
            with _explained(what):
                yield
        except DeniedError as error:
            if self._is_listed(name):
                raise
            raise MissingError(f"{what}: there is no such object") from error

    def _is_listed(self, name: str) -> bool:
        with _explained(f"looking for {name}"):
            found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix + name, MaxKeys=1).get("Contents", [])
        return any(one["Key"] == self.prefix + name for one in found)


KINDS = {"NoSuchKey": MissingError, "404": MissingError, "AccessDenied": DeniedError, "403": DeniedError}  # by the code of S3


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Errors of S3 and of the network become StoreError, a missing object MissingError, one that is not allowed DeniedError."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        kind = KINDS.get(code, StoreError)
        raise kind(f"{what}: {code}: {error.response.get('Error', {}).get('Message', '')}") from None
    except (BotoCoreError, Boto3Error, HTTPError) as error:
        raise StoreError(f"{what}: {type(error).__name__}: {error}") from None


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def client(service: str, region: str) -> Any:
    """A boto3 client with timeouts and standard retries. AWS_ENDPOINT_URL is honored by boto3."""
    import boto3
    from botocore.config import Config

    settings = Config(connect_timeout=10, read_timeout=60, retries={"max_attempts": 4, "mode": "standard"})
    return boto3.client(service, region_name=region, config=settings)
