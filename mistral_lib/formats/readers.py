"""File formats: the reader for a file, and what happens if the content does not fit its name.

Every file and every member of an archive yields at least one row: its content, or its problem. Errors in the content never raise,
whatever exception a parsing library has for them; only faults of the machine do, and an AssertionError: a fault of this library.

To add a format: its ending in KINDS of kinds.py, a branch in `_of_kind`, a module for its rows. If a file of it is one text, its kind also
belongs into ONE_RECORD, so that a folder of such files is one domain.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any, BinaryIO

from mistral_lib.formats import archives, kinds
from mistral_lib.formats.csv_dialect import DELIMITERS
from mistral_lib.formats.decompression import decompressed, has_wrong_checksum
from mistral_lib.formats.documents import document, is_page, picture, plain_text
from mistral_lib.formats.encodings import Utf8Stream, as_utf8
from mistral_lib.formats.json_rows import json_document, json_lines
from mistral_lib.formats.pdf_text import pdf_rows
from mistral_lib.formats.rows import Reading, Row
from mistral_lib.formats.separated import separated
from mistral_lib.formats.sheets import sheets
from mistral_lib.formats.streams import Budget, DamagedError, ExhaustedError, RefusedError, is_of_the_machine, peekable, read_all
from mistral_lib.formats.tables import ROW_BYTES, arrow, parquet

DEEPEST = 1  # an archive in an archive is read, one inside that is refused
HTML = (b"<!doctype", b"<html", b"<table", b"<head", b"<body")  # a page that was saved under the name of a table
SUSPECT = 32 * 1024  # characters before the first problem of a damaged gzip: it repeats text from so far back, altered or not
TABLES = ("parquet", "arrow", "sheet")
NAMED_LIKE_ROWS = ("lines", "json", "csv", "tsv", *TABLES, "zip", "tar")


def read(stream: BinaryIO, name: str, reading: Reading, budget: Budget, depth: int = 0) -> Iterator[Row]:
    """The rows of one file or member; one row with a problem if there is nothing to yield.

    Errors: ExhaustedError if the file costs more than its limits allow; for faults of the machine OSError with an errno, MemoryError, ImportError.
    """
    empty = True
    for row in guarded(_rows(stream, name, reading, budget, depth), name, budget, depth):
        empty = False
        yield row
    if empty:
        yield Row(name, None, "empty_file")


def guarded(found: Iterator[Row], name: str, budget: Budget, depth: int) -> Iterator[Row]:
    """The rows of a file or a piece of it, and a row with the problem in place of those that cannot be read. Errors: as `read`."""
    count = 0
    try:
        for row in found:
            count += row.lines
            yield row
    except (ExhaustedError, AssertionError, GeneratorExit, KeyboardInterrupt, SystemExit):
        raise
    except DamagedError as damaged:
        yield _of_the_rest(name, damaged, count)
    except RefusedError as refused:
        yield Row(name, None, refused.code)
    except BaseException as error:  # a library in Rust panics with an error that is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        for fault in (error, error.__context__):  # zipfile takes every fault of reading for damage, and raises its own error
            if isinstance(fault, ExhaustedError) or is_of_the_machine(fault):
                raise fault from None
        yield Row(name, None, "unreadable", type(error).__name__, lines=_estimated(name, budget) if not count and not depth else 1)


def _of_the_rest(name: str, damaged: DamagedError, count: int) -> Row:
    """The problem that stands for all that was lost; how many lines it was follows from those before it."""
    lost = round(count * (1 - damaged.share) / damaged.share) if damaged.share else 0
    note = f"{damaged.note}; about {lost:,} lines after it are lost" if lost > 1 else damaged.note
    return Row(name, None, damaged.code, note, lines=max(1, lost))


def _estimated(name: str, budget: Budget) -> int:
    """About how many rows are in a file of which none can be read, by its size."""
    kind, _ = kinds.kind_of(name)
    return max(1, budget.compressed_bytes // ROW_BYTES) if kind in NAMED_LIKE_ROWS else 1


def _rows(stream: BinaryIO, name: str, reading: Reading, budget: Budget, depth: int) -> Iterator[Row]:
    stream = peekable(stream)
    kind, codec = kinds.by_content(*kinds.kind_of(name), stream.peek(kinds.START))
    if not stream.peek(1):
        return
    if codec == "gzip" and has_wrong_checksum(stream, budget.limits.ratio * budget.compressed_bytes):
        yield from _before_the_damage(stream, name, kind, reading, budget)
        return
    if codec:
        stream = decompressed(stream, codec, budget, 0 if depth else budget.compressed_bytes)
        kind, _ = kinds.by_content(kind, None, stream.peek(kinds.START))  # type: ignore[attr-defined]
    if kind in ("zip", "tar"):
        yield from _archive(stream, name, kind, reading, budget, depth)
    elif kind in (*kinds.TEXT_KINDS, "unknown"):
        yield from _of_text(as_utf8(stream), name, kind, reading)
    else:
        yield from _of_kind(stream, name, kind, reading, budget)


def _of_kind(stream: BinaryIO, name: str, kind: str, reading: Reading, budget: Budget) -> Iterator[Row]:
    if kind == "parquet":
        yield from parquet(stream, name, reading, budget)
    elif kind == "arrow":
        yield from arrow(stream, name, reading, budget)
    elif kind == "sheet":
        yield from sheets(stream, name, reading)
    elif kind == "pdf":
        yield from pdf_rows(read_all(stream, reading.limits.in_memory_bytes), name, reading.pdf_characters, reading.ocr)
    elif kind == "document" and is_page(name, stream.peek(kinds.START)):  # type: ignore[attr-defined]
        text = as_utf8(stream)
        if data := read_all(text, reading.limits.in_memory_bytes):
            yield replace(document(data, name, reading), encoding=text.encoding)
    elif kind in ("document", "picture"):
        data = read_all(stream, reading.limits.in_memory_bytes)
        if data:
            yield (document if kind == "document" else picture)(data, name, reading)
    else:
        raise AssertionError(f"the kind {kind!r} of KINDS has no branch here")


def _of_text(stream: Utf8Stream, name: str, kind: str, reading: Reading) -> Iterator[Row]:
    """The rows of a text file; a refused file has all its lines. Each row names the encoding of its file if it is not UTF-8."""
    start = stream.peek(kinds.START)
    kind = kinds.of_text(kind, start)
    found: Iterable[Row]
    if kind in ("lines", "json", "csv", "tsv") and start.lstrip()[:10].lower().startswith(HTML):
        found = [Row(name, None, "html_instead_of_rows", lines=max(1, start.count(b"<tr") - 1))]
    elif kind == "text" and start.lstrip()[:10].lower().startswith(HTML[:2]):
        found = [document(read_all(stream, reading.limits.in_memory_bytes), name, reading)]
    elif kind == "text":
        found = plain_text(stream, name, reading)
    elif kind in ("csv", "tsv"):
        found = separated(stream, name, reading, DELIMITERS if kind == "csv" else "\t")
    elif kind in ("lines", "json"):
        found = (json_lines if kind == "lines" else json_document)(stream, name, reading)
    else:
        found = [Row(name, None, "unknown_file_type", lines=0 if kinds.looks_like_a_table(start) else 1)] if start else []
    for row in found:
        lines = row.lines
        if not lines and row.problem and row.source == name:
            lines = max(1, stream.count_lines() - (kind in ("csv", "tsv")))  # without the header
        yield replace(row, encoding=stream.encoding, lines=lines) if stream.encoding or lines != row.lines else row


def _before_the_damage(stream: BinaryIO, name: str, kind: str, reading: Reading, budget: Budget) -> Iterator[Row]:
    """The rows of a gzip file on disk whose checksum is wrong, up to some way before the first problem. None if there is no problem: any
    row may be altered then."""
    good, lost, begin = 0, 1, stream.tell()
    if kind in kinds.TEXT_KINDS:
        text = as_utf8(decompressed(stream, "gzip", Budget(budget.limits, budget.compressed_bytes)))
        sizes = _sizes_before_problems(_of_text(text, name, kind, reading))
        with suppress(DamagedError):
            text.count_lines()
        good = _unsuspected(sizes)
        # damaged text may have no line ends: as many rows as fit into it, if they are more
        lost = max(text.raw.lines - good, round(good * text.raw.count / max(1, sum(sizes[:good]))) - good)
        stream.seek(begin)
        text = as_utf8(decompressed(stream, "gzip", budget))
        yield from islice(_of_text(text, name, kind, reading), good)
    yield Row(name, None, "unreadable", f"gzip: damaged, its checksum is wrong; about {max(1, lost):,} lines are lost", lines=max(1, lost))


def _sizes_before_problems(found: Iterator[Row]) -> list[int]:
    """The characters of each row before the first problem; empty if there is none."""
    sizes: list[int] = []
    try:
        for row in found:
            if row.problem:
                return sizes
            sizes.append(len(str(row.value)))
    except DamagedError as damaged:
        if "checksum" not in damaged.note:  # the place of the damage
            return sizes
    return []


def _unsuspected(sizes: list[int]) -> int:
    """The rows without the last SUSPECT characters."""
    kept, left = len(sizes), SUSPECT
    while kept and left > 0:
        kept -= 1
        left -= sizes[kept]
    return kept


def _archive(stream: BinaryIO, name: str, kind: str, reading: Reading, budget: Budget, depth: int) -> Iterator[Row]:
    if depth > DEEPEST:
        yield Row(name, None, "archive_nested_too_deep")
    elif kind == "zip":
        yield from _of_members(archives.zip_members(stream, budget, reading.ocr), name, reading, budget, depth)
    else:
        size = 0 if depth else budget.compressed_bytes
        yield from _of_members(archives.tar_members(stream, budget, size), name, reading, budget, depth)


def zip_rows(stream: BinaryIO, name: str, reading: Reading, budget: Budget, first: int, last: int) -> Iterator[Row]:
    """The rows of the members [first, last) of a zip, as archives.in_order numbers them."""
    yield from _of_members(archives.zip_members(stream, budget, reading.ocr, first, last), name, reading, budget, 0)


def _of_members(members: Iterator[archives.Member], name: str, reading: Reading, budget: Budget, depth: int) -> Iterator[Row]:
    """The rows of members. What is passed over is counted on the row after it, or on the last one."""
    passed: Counter = Counter()
    last: Row | None = None
    try:
        for row in _of_each(members, name, reading, budget, depth, passed):
            if last is not None:
                yield last
            last = row.after(passed)
            passed.clear()
    except Exception:  # what was read before is kept
        if last is not None:
            yield last.after(passed)
        raise
    if last is not None or passed:
        yield (last or Row(name, None, "empty_file")).after(passed)


def _of_each(members: Iterator[archives.Member], name: str, reading: Reading, budget: Budget, depth: int, passed: Counter) -> Iterator[Row]:
    for member in members:
        source = f"{name}!{member.name}"
        yield from guarded(_of_member(member, source, reading, budget, depth + 1, passed), source, budget, depth + 1)


def _of_member(member: Any, source: str, reading: Reading, budget: Budget, depth: int, passed: Counter) -> Iterator[Row]:
    if what := _left_out(member, reading):
        passed[what] += 1
    elif member.stream is None:
        yield Row(source, None, member.problem)
    else:
        yield from read(member.stream, source, reading, budget, depth)


def _left_out(member: Any, reading: Reading) -> str:
    about_content = member.stream is not None and kinds.about_content(member.name)
    return kinds.left_out(member.name, member.stream.peek(kinds.START) if about_content else None, reading.ocr)
