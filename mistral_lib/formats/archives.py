"""Archives as streams: the members of a zip or tar one after another, never unpacked to disk, never trusted.

Refused: names that leave the archive, links, devices, sparse and encrypted members. A zip's members are in the order of their names, a
tar's in the order of its bytes, since a stream cannot be sorted. Members before a damaged place are read.
"""

import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

from mistral_lib.formats import cut_zip, encodings, kinds
from mistral_lib.formats.streams import Budget, DamagedError, RefusedError, is_of_the_content, metered, seekable

HEADER_BYTES = 2**20  # of a tar header that is read into memory: long names and attributes
EXTENDED_HEADERS = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
PIECE = 4096  # bytes of a member read at once: a fault costs what is read with it
FAULTS = (EOFError, OSError, ValueError, RuntimeError, struct.error, zlib.error, LZMAError, zipfile.BadZipFile, tarfile.TarError)


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    stream: io.BufferedReader | None  # must be read before the next member is requested
    problem: str | None = None


class _CarefulTarInfo(tarfile.TarInfo):
    """Raises an error for a damaged header, and for an archive without an end, both of which tarfile silently takes for the end."""

    has_ended = False  # an end mark was read: more archives may follow

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "tarfile.TarInfo":
        if buf and not buf.strip(b"\0"):
            cls.has_ended = True
            raise tarfile.EOFHeaderError("end mark") if len(buf) == tarfile.BLOCKSIZE else tarfile.EmptyHeaderError("padding")
        if not buf and cls.has_ended:
            raise tarfile.EmptyHeaderError("end of the file")
        try:
            info = super().frombuf(buf, encoding, errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError, tarfile.EmptyHeaderError) as error:
            raise tarfile.ReadError(f"damaged archive: {error}") from None
        if info.size < 0 or (info.type in EXTENDED_HEADERS and info.size > HEADER_BYTES):
            raise tarfile.ReadError("damaged archive: impossible size in a header")
        cls.has_ended = False
        return info


class _Measured(io.RawIOBase):
    """A member whose damage is reported with the share of its bytes that was read before. size: its bytes, as the archive claims."""

    def __init__(self, inner: Any, format_name: str, size: int) -> None:
        self.inner, self.format_name, self.size, self.count, self.is_damaged = inner, format_name, size, 0, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.inner.read1(min(len(buffer), PIECE))
        except FAULTS as error:
            if isinstance(error, RefusedError) or not is_of_the_content(error):
                raise
            self.is_damaged = True
            raise DamagedError(f"{self.format_name}: damaged", min(1.0, self.count / self.size) if self.size else 0.0) from None
        self.count += len(data)
        buffer[: len(data)] = data
        return len(data)


def zip_members(stream: BinaryIO, budget: Budget, ocr: bool, first: int = 0, last: int | None = None) -> Iterator[Member]:
    """All members, or those with the numbers [first, last) in the order of `in_order`. ocr: pictures are read.

    Errors: ExhaustedError, zipfile.BadZipFile and other FAULTS if the archive cannot be read at all."""
    names: set[PurePosixPath] = set()
    file = seekable(stream, budget.limits.in_memory_bytes)
    try:
        opened = zipfile.ZipFile(file)
    except zipfile.BadZipFile:
        given = None
        for found, inner, problem in cut_zip.members(file):
            budget.count_member()
            problem = _unsafe(found) or problem
            given = None if problem else _Measured(inner, "zip", 0)
            yield Member(_unique(found, names), metered(given, budget, budget.limits.member_bytes) if given else None, problem)
        if given is not None and given.is_damaged:
            return  # that it is cut off was reported
        raise
    with opened as archive:
        for number, info in enumerate(in_order(archive)[:last]):
            if number >= first:
                yield from _zip_member(archive, info, budget, names, ocr)
            else:  # only its name is of interest: a later member may have the same
                _unique(_legible(info), names)


def in_order(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members of a zip in the order of reading, without folders."""
    infos = sorted(archive.infolist(), key=lambda i: (i.filename, i.header_offset))
    return [info for info in infos if not (info.filename.endswith("/") and info.file_size == 0)]


def is_read(info: zipfile.ZipInfo, ocr: bool) -> bool:
    """Whether a member has a row at least, whatever its content is: it is not passed over."""
    name = _legible(info)
    return not kinds.left_out(name, ocr=ocr) and not kinds.about_content(name)


def _zip_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget, names: set[PurePosixPath], ocr: bool) -> Iterator[Member]:
    problem, shown = _unsafe(info.filename), _legible(info)
    passed = kinds.left_out(shown, ocr=ocr)
    if not passed:
        budget.count_member()
    name = _unique(shown, names)
    if problem is None and stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
        problem = "archive_member_link" if stat.S_ISLNK(info.external_attr >> 16) else "archive_member_special"
    if problem is None and info.flag_bits & 0x1:
        problem = "archive_member_encrypted"
    if problem or passed:
        yield Member(name, None, problem)
        return
    try:
        inner = archive.open(info)
    except NotImplementedError:
        yield Member(name, None, "archive_member_method")
        return
    except FAULTS as error:  # its own header is damaged; the other members may be intact
        if not is_of_the_content(error):
            raise
        yield Member(name, None, "unreadable")
        return
    with inner:
        yield Member(name, metered(_Measured(inner, "zip", info.file_size), budget, budget.limits.member_bytes))


def _legible(info: zipfile.ZipInfo) -> str:
    """The name of a member; one that is not marked as UTF-8 is in the encoding of its system, which zipfile takes for that of DOS."""
    if info.flag_bits & 0x800 or info.filename.isascii():
        return info.filename
    try:
        name = info.orig_filename.encode("cp437")
        return name.decode()
    except UnicodeEncodeError:
        return info.filename
    except UnicodeDecodeError:
        asian = encodings.guess(name)
        return name.decode(asian) if asian and asian not in encodings.WESTERN else info.filename


def tar_members(stream: BinaryIO, budget: Budget, size: int = 0) -> Iterator[Member]:
    """Also of archives that were joined. size: bytes of the file, 0 if unknown.

    Errors: ExhaustedError, DamagedError or tarfile.TarError if the archive is damaged or cut short.
    """
    names: set[PurePosixPath] = set()
    careful = type("_CarefulTarInfo", (_CarefulTarInfo,), {})  # with a state of its own
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=careful, ignore_zeros=True) as archive:
        given = None
        while (info := _next(archive, size, given)) is not None:
            archive.members = []  # or every header stays in memory
            problem = _unsafe(info.name) or _tar_problem(info)
            if info.isdir():
                continue
            if not kinds.left_out(info.name):
                budget.count_member()
            given = None if problem else _Measured(archive.extractfile(info), "tar", info.size)
            yield Member(_unique(info.name, names), metered(given, None, budget.limits.member_bytes) if given else None, problem)


def _next(archive: tarfile.TarFile, size: int, last: _Measured | None) -> tarfile.TarInfo | None:
    """The next header. last: the member before it, whose damage was reported."""
    try:
        return archive.next()
    except tarfile.TarError as error:
        if last is not None and last.is_damaged:
            return None
        share = min(1.0, archive.offset / size) if size and archive.offset else 0.0
        raise DamagedError(f"tar: {error}", share) from None


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
