"""Archives as streams: the members of a zip or tar one after another, never unpacked to disk, never trusted.

Refused: names that leave the archive, links, devices, sparse and encrypted members. A zip's members are in the order of their names, a
tar's in the order of its bytes, since a stream cannot be sorted. Hidden members (`.x`, `__MACOSX/`) are skipped, as in folders.
"""

import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import PurePosixPath, PureWindowsPath
from typing import BinaryIO

from mistral_lib.formats.streams import Budget, metered, seekable

HEADER_BYTES = 2**20  # of a tar header that is read into memory: long names and attributes
EXTENDED_HEADERS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
FAULTS = (EOFError, ValueError, RuntimeError, struct.error, zlib.error, LZMAError, zipfile.BadZipFile, tarfile.TarError)


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    stream: BinaryIO | None  # must be read before the next member is requested
    problem: str | None = None


class _CarefulTarInfo(tarfile.TarInfo):
    """Raises an error for a damaged header, which tarfile silently takes for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "tarfile.TarInfo":
        try:
            info = super().frombuf(buf, encoding, errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError) as error:
            raise tarfile.ReadError(f"damaged archive: {error}") from None
        if info.size < 0 or (info.type in EXTENDED_HEADERS and info.size > HEADER_BYTES):
            raise tarfile.ReadError("damaged archive: impossible size in a header")
        return info


def zip_members(stream: BinaryIO, budget: Budget) -> Iterator[Member]:
    """Errors: ExhaustedError, zipfile.BadZipFile and other FAULTS if the archive cannot be read at all."""
    names: set[PurePosixPath] = set()
    with zipfile.ZipFile(seekable(stream, budget.limits.in_memory_bytes)) as archive:
        for info in sorted(archive.infolist(), key=lambda i: (i.filename, i.header_offset)):
            if not (info.is_dir() and info.file_size == 0):
                yield from _zip_member(archive, info, budget, names)


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget, names: set[PurePosixPath]) -> Iterator[Member]:
    problem = _unsafe(info.filename)
    if problem is None and _hidden(info.filename):
        return
    budget.count_member()
    name = _unique(info.filename, names)
    if problem is None and stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        problem = "archive_member_link" if stat.S_ISLNK(info.external_attr >> 16) else "archive_member_special"
    if problem is None and info.flag_bits & 0x1:
        problem = "archive_member_encrypted"
    if problem:
        yield Member(name, None, problem)
        return
    try:
        inner = archive.open(info)
    except FAULTS:  # its own header is damaged; the other members may be intact
        yield Member(name, None, "unreadable")
        return
    with inner:
        yield Member(name, metered(inner, budget, budget.limits.member_bytes))


def tar_members(stream: BinaryIO, budget: Budget) -> Iterator[Member]:
    """Errors: ExhaustedError, tarfile.TarError if the archive is damaged or cut short."""
    names: set[PurePosixPath] = set()
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_CarefulTarInfo) as archive:
        while (info := archive.next()) is not None:
            archive.members = []  # or every header stays in memory
            problem = _unsafe(info.name) or _tar_problem(info)
            if info.isdir() or (problem is None and _hidden(info.name)):
                continue
            budget.count_member()
            inner = None if problem else metered(archive.extractfile(info), None, budget.limits.member_bytes)
            yield Member(_unique(info.name, names), inner, problem)


def _tar_problem(info: tarfile.TarInfo) -> str | None:
    if info.issym() or info.islnk():
        return "archive_member_link"
    if info.issparse():
        return "archive_member_sparse"  # a few bytes that claim to be terabytes of zeros
    return None if info.isfile() or info.isdir() else "archive_member_special"


def _unsafe(name: str) -> str | None:
    path = PurePosixPath(name.replace("\\", "/"))
    outside = path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts
    return "archive_member_unsafe_name" if outside else None


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name.replace("\\", "/")).parts)


def _unique(name: str, names: set[PurePosixPath]) -> str:
    """The name for sources: printable as UTF-8, and with a number if an earlier member has the same name."""
    shown = PurePosixPath(name.replace("\\", "/").encode("utf-8", "backslashreplace").decode() or "unnamed")
    base, dot, endings = shown.name.partition(".")
    unique, number = shown, 1
    while unique in names:
        number += 1
        unique = shown.with_name(f"{base}~{number}{dot}{endings}") if shown.name else PurePosixPath(f"unnamed~{number}")
    names.add(unique)
    return str(unique)
