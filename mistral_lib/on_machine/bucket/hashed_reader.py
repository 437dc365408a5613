"""Reads a file for an upload and hashes the very bytes that are sent.

It cannot be rewound, so that boto3 reads it once, from begin to end, and keeps the parts that it may have to send again. At the end of the
file, before the upload is completed, the hash is compared; the error then ends the upload, and nothing stands under the object's name.
"""

import hashlib
from typing import BinaryIO


class ChangedError(OSError):
    """The file has not the content that was expected."""


class HashedReader:
    """What `upload_fileobj` reads from. sha256: of the expected content."""

    def __init__(self, file: BinaryIO, sha256: str):
        self.file, self.sha256, self._digest = file, sha256, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Errors: ChangedError at the end of the file."""
        content = self.file.read(size)
        self._digest.update(content)
        if (size < 0 or len(content) < size) and self._digest.hexdigest() != self.sha256:
            raise ChangedError(f"the file changed: its SHA-256 is {self._digest.hexdigest()[:12]}…, expected {self.sha256[:12]}…")
        return content
