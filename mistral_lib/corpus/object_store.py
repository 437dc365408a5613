"""Objects of s3:// addresses, read as streams. Needs the package s3fs; an unreachable server is an error within seconds.

The usual AWS_* environment variables name the endpoint, the region and the credentials.
"""

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from glob import has_magic
from typing import Any, BinaryIO

VERSION = "2026.9.0"  # of s3fs; the same as the fsspec of the lock
CONNECT_SECONDS = 4
READ_SECONDS = 7  # twice this, and the connections, must stay well below 30
ATTEMPTS = 2
BLOCK = 8 * 2**20  # bytes fetched at once


class StoreError(OSError):
    """The object store cannot be used; the message gives the reason, without the address."""

    errno = errno.EIO  # a fault of the machine; damaged content is an OSError without errno


@dataclass(frozen=True, slots=True)
class RemoteObject:
    url: str
    size: int  # bytes
    etag: str  # changes with the content


def listing(url: str) -> list[RemoteObject]:
    """The objects of a prefix, a glob or a name, sorted. Errors: StoreError."""
    with explained():
        found_in = store()
        path = url.removeprefix("s3://").rstrip("/")
        found = found_in.glob(path, detail=True) if has_magic(path) else found_in.find(path, detail=True)
    objects = ((key, fact) for key, fact in sorted(found.items()) if fact["type"] == "file" and not key.endswith("/"))
    return [RemoteObject(f"s3://{key}", fact["size"], fact.get("ETag", "").strip('"')) for key, fact in objects]


def open_object(remote: RemoteObject) -> BinaryIO:
    """The object as a seekable stream. Errors: StoreError, also if the object changes while it is read."""
    with explained():
        return _Stream(store().open(remote.url, "rb", block_size=BLOCK))


class _Stream(io.RawIOBase):
    """The bytes of an object. Errors: StoreError, which no reader takes for damaged content."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.inner.seek(offset, whence)

    def readinto(self, buffer: memoryview) -> int:
        with explained():
            return self.inner.readinto(buffer)

    def close(self) -> None:
        self.inner.close()
        super().close()


def store() -> Any:
    """A client of the store. Errors: StoreError without the package s3fs."""
    try:
        import s3fs
    except ImportError:
        raise StoreError(f"reading s3:// needs the package s3fs: pip install s3fs=={VERSION}") from None
    retries = {"total_max_attempts": ATTEMPTS, "mode": "standard"}
    config = {"connect_timeout": CONNECT_SECONDS, "read_timeout": READ_SECONDS, "retries": retries}
    client = s3fs.S3FileSystem(
        endpoint_url=os.environ.get("AWS_ENDPOINT_URL"), config_kwargs=config, use_listings_cache=False, skip_instance_cache=True
    )
    client.retries = 1  # otherwise s3fs multiplies the attempts of its client
    return client


@contextmanager
def explained() -> Iterator[None]:
    """Turns the errors of s3fs and its client, which have no common base class, into StoreError."""
    try:
        yield
    except StoreError:
        raise
    except FileNotFoundError:
        raise StoreError("no such bucket, or nothing under this name") from None
    except PermissionError as error:
        raise StoreError(f"access denied ({error}): check the AWS_* credentials and the bucket's policy") from None
    except Exception as error:
        endpoint = os.environ.get("AWS_ENDPOINT_URL") or "Amazon's own endpoint"
        raise StoreError(f"the server does not answer as expected, at {endpoint} ({type(error).__name__}: {error})") from None
