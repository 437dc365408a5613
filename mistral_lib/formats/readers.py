"""File formats: the reader for a file name, and what happens if the content does not fit the name.

Every file and every member of an archive yields at least one row: its content, or its problem. Errors in the content never raise,
whatever exception a parsing library has for them; only faults of the machine do, and an AssertionError: a fault of this library.

To add a format: its ending in KINDS, a branch in `_rows`, a module for its rows. If a file of it is one text, its ending also belongs
into TEXT_FILE of records.py, so that a folder of such files is one domain.
"""

import errno
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

import pyarrow as pa

from mistral_lib.formats import archives
from mistral_lib.formats.json_rows import json_document, json_lines
from mistral_lib.formats.pdf_text import pdf_rows
from mistral_lib.formats.rows import Reading, Row
from mistral_lib.formats.streams import CODECS, Budget, ExhaustedError, RefusedError, decompressed, read_all
from mistral_lib.formats.tables import parquet, separated

KINDS = {".jsonl": "lines", ".ndjson": "lines", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
         ".txt": "text", ".md": "text", ".pdf": "pdf", ".zip": "zip", ".tar": "tar"}  # fmt: skip
SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".tzst": ".tar.zst"}
DEEPEST = 1  # an archive in an archive is read, one inside that is refused


def kind_of(name: str) -> tuple[str, str | None]:
    """(kind, codec) of a file name: `a.tar.gz` → (tar, gzip), `notes` → (unknown, None)."""
    path = PurePosixPath(name.lower())
    path = path.with_suffix(SHORT[path.suffix]) if path.suffix in SHORT else path
    codec = CODECS.get(path.suffix)
    inner = PurePosixPath(path.stem) if codec else path
    return KINDS.get(inner.suffix, "unknown"), codec


def without_endings(name: str) -> str:
    """A file name without the endings that name its format: `gpt3.5_law.jsonl.gz` → `gpt3.5_law`, `v1.2` → `v1.2`."""
    path = PurePosixPath(name)
    if path.suffix.lower() in CODECS:
        path = PurePosixPath(path.stem)
    return path.stem if path.suffix.lower() in {*KINDS, *SHORT} else str(path)


def read(stream: BinaryIO, name: str, reading: Reading, budget: Budget, depth: int = 0) -> Iterator[Row]:
    """The rows of one file or member; one row with a problem if there is nothing to yield.

    Errors: ExhaustedError if the file costs more than its limits allow; for faults of the machine OSError with an errno, MemoryError, ImportError.
    """
    empty = True
    for row in _guarded(stream, name, reading, budget, depth):
        empty = False
        yield row
    if empty:
        yield Row(name, None, "empty_file")


def _guarded(stream: BinaryIO, name: str, reading: Reading, budget: Budget, depth: int) -> Iterator[Row]:
    try:
        yield from _rows(stream, name, reading, budget, depth)
    except (ExhaustedError, AssertionError):
        raise
    except RefusedError as refused:
        yield Row(name, None, refused.code)
    except Exception as error:
        for fault in (error, error.__context__):  # zipfile takes every fault of reading for damage, and raises its own error
            if _is_of_the_machine(fault):
                raise fault from None
        yield Row(name, None, "unreadable", type(error).__name__)


def _is_of_the_machine(error: BaseException | None) -> bool:
    """Whether it is a fault of a disk, a permission, a network, the memory or a missing package, and not of the content."""
    if isinstance(error, OSError):  # decompressors report damaged bytes without errno, and an impossible offset as EINVAL
        return error.errno not in (None, errno.EINVAL)
    # damaged sizes let Arrow request more memory than there is
    return isinstance(error, (ImportError, MemoryError)) and not isinstance(error, pa.ArrowException)


def _rows(stream: BinaryIO, name: str, reading: Reading, budget: Budget, depth: int) -> Iterator[Row]:
    kind, codec = kind_of(name)
    if kind == "unknown":
        yield Row(name, None, "unknown_file_type")
        return
    stream = decompressed(stream, codec, budget) if codec else stream
    if kind in ("zip", "tar"):
        yield from _archive(stream, name, kind, reading, budget, depth)
    elif kind == "parquet":
        yield from parquet(stream, name, reading, budget)
    elif kind == "text":
        yield _text(read_all(stream, reading.limits.in_memory_bytes), name)
    elif kind == "pdf":
        yield from pdf_rows(read_all(stream, reading.limits.in_memory_bytes), name, reading.pdf_characters)
    elif kind in ("csv", "tsv"):
        yield from separated(stream, name, reading, ",;|\t" if kind == "csv" else "\t")
    elif kind in ("lines", "json"):
        yield from (json_lines if kind == "lines" else json_document)(stream, name, reading)
    else:
        raise AssertionError(f"the kind {kind!r} of KINDS has no branch here")


def _archive(stream: BinaryIO, name: str, kind: str, reading: Reading, budget: Budget, depth: int) -> Iterator[Row]:
    if depth > DEEPEST:
        yield Row(name, None, "archive_nested_too_deep")
        return
    members = archives.zip_members if kind == "zip" else archives.tar_members
    for member in members(stream, budget):
        source = f"{name}!{member.name}"
        if member.stream is None:
            yield Row(source, None, member.problem)
        else:
            yield from read(member.stream, source, reading, budget, depth + 1)


def _text(data: bytes, name: str) -> Row:
    if b"\0" in data:
        return Row(name, None, "nul_bytes")
    try:
        return Row(name, {"text": data.decode("utf-8-sig").replace("\r\n", "\n")})
    except UnicodeDecodeError:
        return Row(name, None, "not_utf8")
