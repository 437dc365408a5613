"""Streams of bytes: decompression, lines of bounded length, and limits against hostile files.

Limits count the bytes that were read, never what a header claims. Knows nothing of rows, records or file formats.
"""

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

MIB = 2**20
CHUNK = 256 * 1024  # bytes read at once


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one file. Text compresses 3 to 60 fold, a zip bomb 1000 fold and more."""

    line_bytes: int = 64 * MIB  # a longer line becomes a problem and is never in memory
    in_memory_bytes: int = 512 * MIB  # of formats that are read at once: JSON arrays, .txt, PDF, a Parquet file or zip inside an archive
    member_bytes: int = 64 * 1024 * MIB
    total_bytes: int = 512 * 1024 * MIB  # of one file when expanded
    members: int = 200_000
    ratio: int = 250  # expanded bytes per byte on disk ...
    ratio_from: int = 64 * MIB  # ... checked from this size on


LIMITS = Limits()


class RefusedError(ValueError):
    """A stream is not read further; `code` is the reason. The rest of its archive is still read."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class ExhaustedError(RefusedError):
    """The file has reached a limit: nothing more of it is read."""


class DamagedError(RefusedError):
    """The rest of a stream cannot be read; all that lay before it was. share: the part of its bytes that was read, 0 if unknown."""

    def __init__(self, note: str, share: float = 0.0) -> None:
        super().__init__("unreadable")
        self.note, self.share = note, share


def is_of_the_machine(error: BaseException | None) -> bool:
    """Whether it is a fault of a disk, a permission, a network, the memory or a missing package, and not of the content."""
    if isinstance(error, OSError):  # decompressors report damaged bytes without errno, and an impossible offset as EINVAL
        return error.errno not in (None, errno.EINVAL)
    # damaged sizes let Arrow request more memory than there is; its errors are of these types and of its own
    return isinstance(error, (ImportError, MemoryError)) and not type(error).__module__.startswith("pyarrow")


def is_of_the_content(error: Exception) -> bool:
    """Whether an error of reading comes from the content alone: libraries take faults of the machine for damage, and raise their own."""
    return not is_of_the_machine(error) and not is_of_the_machine(error.__context__)


@contextmanager
def damage_passed_over() -> Iterator[None]:
    """An error of the content ends the block. Errors: those of the machine."""
    try:
        yield
    except Exception as error:
        if not is_of_the_content(error):
            raise


class Budget:
    """Counts what one file has expanded to so far, with all nested archives and compressions. Errors: ExhaustedError."""

    def __init__(self, limits: Limits, compressed_bytes: int) -> None:
        self.limits, self.compressed_bytes = limits, compressed_bytes
        self.expanded = self.members = 0

    def charge(self, count: int) -> None:
        self.expanded += count
        if self.expanded > self.limits.total_bytes:
            raise ExhaustedError("expands_beyond_total_limit")
        if self.expanded > max(self.limits.ratio_from, self.limits.ratio * self.compressed_bytes):
            raise ExhaustedError("expands_too_much")

    def count_member(self) -> None:
        self.members += 1
        if self.members > self.limits.members:
            raise ExhaustedError("archive_too_many_members")


class Metered(io.RawIOBase):
    """A stream whose bytes are counted as they are read. Errors: ExhaustedError by the budget, RefusedError above `most` bytes."""

    def __init__(self, inner: BinaryIO, budget: Budget | None = None, most: int | None = None) -> None:
        self.inner, self.budget, self.most, self.count = inner, budget, most, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        data = self.inner.read(len(buffer))
        buffer[: len(data)] = data
        self.count += len(data)
        if self.budget is not None:
            self.budget.charge(len(data))
        if self.most is not None and self.count > self.most:
            raise RefusedError("archive_member_too_large")
        return len(data)


def metered(inner: BinaryIO, budget: Budget | None = None, most: int | None = None) -> BinaryIO:
    return io.BufferedReader(Metered(inner, budget, most), CHUNK)


def peekable(stream: BinaryIO) -> io.BufferedReader:
    """The stream, whose first bytes can be looked at without being taken."""
    return stream if hasattr(stream, "peek") else io.BufferedReader(stream, CHUNK)  # type: ignore[return-value, arg-type]


def lines(stream: BinaryIO, most: int) -> Iterator[bytes | None]:
    """Each line with its newline; None for a line above `most` bytes, which is skipped and never in memory."""
    while line := stream.readline(most + 1):
        if len(line) <= most:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(CHUNK)
        yield None


def read_all(stream: BinaryIO, most: int) -> bytes:
    """All bytes of a stream. Errors: RefusedError above `most` bytes."""
    data = stream.read(most + 1)
    if len(data) > most:
        raise RefusedError("too_large_to_hold")
    return data


def seekable(stream: BinaryIO, most: int) -> BinaryIO:
    """The stream itself if it is seekable, otherwise its bytes in memory. Errors: RefusedError above `most` bytes."""
    return stream if stream.seekable() else io.BytesIO(read_all(stream, most))
