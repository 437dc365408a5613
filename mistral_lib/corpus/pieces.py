"""Pieces of a large file, each read by itself: together they yield the rows that the whole file yields, with the same names.

Cut are files of one JSON object a line (plain, or Zstandard of several frames), Parquet files between row groups, and zip archives between
members. Before a line that begins with `{` the reader of whole files always begins a new row, so a cut there changes nothing. It needs the
number of lines before it and bytes that need no recoding, so the windows of such a file are looked at once before it is cut.
"""

import codecs
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal

import pyarrow.parquet as pq

from mistral_lib.corpus import zstd_frames
from mistral_lib.formats import archives, encodings, json_rows, kinds, readers
from mistral_lib.formats.decompression import decompressed
from mistral_lib.formats.encodings import as_utf8
from mistral_lib.formats.rows import Reading, Row
from mistral_lib.formats.streams import CHUNK, Budget, damage_passed_over, peekable
from mistral_lib.formats.tables import group_rows, parquet

Cut = Literal["", "lines", "frames", "groups", "members"]  # "": the file cannot be cut
CUT_CHARACTER = 3  # bytes of a character that may stand before a window


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a file. By default all of it."""

    cut: Cut = ""
    begin: int = 0  # byte (lines), byte of a frame (frames), row group, or member
    end: int = 0  # of row groups and members: the number after the last one
    before: int = 0  # lines before it
    skip: int = 0  # plain bytes of the frame before its first line
    length: int = 0  # plain bytes of its lines


WHOLE = Piece()


@dataclass(frozen=True, slots=True)
class Window:
    """Bytes of a file that are looked at together."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Look:
    """What a window holds, in plain bytes."""

    size: int
    lines: int  # ends of lines
    cut: int = -1  # where the first line that a piece may begin with begins; -1: nowhere
    lines_before: int = 0  # ends of lines before that place
    is_ascii: bool = True
    is_utf8: bool = True  # apart from a character that is cut at either end
    head: bytes = b""  # the rest of a character that began before
    tail: bytes = b""  # the begin of one that ends later


# -- which files can be cut, and into what ----------------------------------------------------------------------------------


def cut_of(stream: BinaryIO, name: str, reading: Reading, budget: Budget) -> Cut:
    """How a file can be cut. Its first bytes decide, as they do for the reader. Errors: OSError."""
    stream = peekable(stream)
    kind, codec = kinds.by_content(*kinds.kind_of(name), stream.peek(kinds.START))
    if codec is None and kind in ("parquet", "zip"):
        return "groups" if kind == "parquet" else "members"
    if codec not in (None, "zstd"):
        return ""
    with damage_passed_over():
        if codec:
            stream = decompressed(stream, codec, budget)
            kind, _ = kinds.by_content(kind, None, stream.peek(kinds.START))
        if _is_plain_lines(stream, kind, reading):
            return "frames" if codec else "lines"
    return ""


def _is_plain_lines(stream: BinaryIO, kind: str, reading: Reading) -> bool:
    """Whether the text is one of JSON lines that the reader takes as it is."""
    if kind not in (*kinds.TEXT_KINDS, "unknown"):
        return False
    text = as_utf8(stream)
    start = text.peek(kinds.START)
    if text.encoding or text.raw.carriage_returns or start.lstrip()[:10].lower().startswith(readers.HTML):
        return False
    kind = kinds.of_text(kind, start)
    return kind in ("lines", "json") and json_rows.is_read_by_lines(text, kind, reading) and not text.encoding


def windows(stream: BinaryIO, cut: Cut, size: int, bytes_each: int) -> list[Window]:
    """The windows of a file of `size` bytes, none smaller than bytes_each but the last. Empty if its frames cannot be told apart."""
    if cut == "lines":
        starts = list(range(0, size, bytes_each))
        return [Window(begin, end) for begin, end in zip(starts, [*starts[1:], size], strict=True)]
    found: list[Window] = []
    try:
        for begin, end in zstd_frames.frames(stream):
            if found and found[-1].end - found[-1].begin < bytes_each:
                found[-1] = Window(found[-1].begin, end)
            else:
                found.append(Window(begin, end))
    except zstd_frames.FrameError:
        return []
    return found


def look(stream: BinaryIO, cut: Cut, window: Window, budget: Budget) -> Look:
    """What is in a window. Errors: those of a damaged stream, OSError."""
    stream.seek(window.begin)
    plain: BinaryIO = _Bounded(stream, window.end - window.begin)
    if cut == "frames":
        plain = decompressed(io.BufferedReader(plain), "zstd", budget)
    size = lines = lines_before = 0
    place, last, is_ascii, is_utf8, head = -1, b"", True, True, None
    decoder = codecs.getincrementaldecoder("utf-8")()
    while data := plain.read(CHUNK):
        if head is None:
            head = _rest_of_a_character(data) if window.begin else b""
        if place < 0 and (found := (last + data).find(b"\n{")) >= 0:
            place = size - len(last) + found + 1
            lines_before = lines + data.count(b"\n", 0, max(0, place - size))
        own = data[len(head) :] if not size else data
        if is_utf8 and (not own.isascii() or decoder.getstate()[0]):
            text = _decoded(decoder, own)
            is_utf8, is_ascii = text is not None, is_ascii and text is not None and text.isascii()
        lines, size, last = lines + data.count(b"\n"), size + len(data), data[-1:]
    tail = decoder.getstate()[0] if is_utf8 else b""
    return Look(size, lines, place, lines_before, is_ascii, is_utf8, head or b"", tail)


def _rest_of_a_character(data: bytes) -> bytes:
    count = 0
    while count < min(len(data), CUT_CHARACTER) and 0x80 <= data[count] < 0xC0:
        count += 1
    return data[:count]


def _decoded(decoder: codecs.IncrementalDecoder, data: bytes) -> str | None:
    try:
        return decoder.decode(data)
    except UnicodeDecodeError:
        return None


def pieces_of_lines(cut: Cut, found: Sequence[tuple[Window, Look]], limit: int) -> list[Piece]:
    """The pieces of a file by all its windows; empty if it must be read as a whole. limit: plain bytes up to which a file is read."""
    if sum(one.size for _, one in found) > limit or not _is_taken_as_it_is([one for _, one in found]):
        return []
    places: list[tuple[Piece, int]] = [(Piece(cut, 0), 0)]  # and the plain byte of the file where each begins
    lines = start = 0
    for number, (window, one) in enumerate(found):
        if number and one.cut >= 0:
            begin, skip = (window.begin + one.cut, 0) if cut == "lines" else (window.begin, one.cut)
            places.append((Piece(cut, begin, before=lines + one.lines_before, skip=skip), start + one.cut))
        lines, start = lines + one.lines, start + one.size
    ends = [place for _, place in places[1:]] + [start]
    return [
        Piece(cut, one.begin, before=one.before, skip=one.skip, length=end - place) for (one, place), end in zip(places, ends, strict=True)
    ]


def _is_taken_as_it_is(found: Sequence[Look]) -> bool:
    """Whether the reader recodes nothing: the first window that is not ASCII is UTF-8, and so is all that the reader may read together
    with it. Later damage stays where it is."""
    pending, decided, left = b"", False, CHUNK
    for one in found:
        joined = pending + one.head
        if joined or not one.is_ascii or decided:
            if not (encodings.is_utf8(joined) and one.is_utf8):
                return False
            left -= one.size if decided else 0
            decided = True
            if left <= 0:
                return True
        pending = one.tail
    return True


def pieces_of_groups(stream: BinaryIO, bytes_each: int, budget: Budget) -> list[Piece]:
    """The pieces of a Parquet file, of whole row groups; empty if it must be read as a whole. Errors: OSError."""
    with damage_passed_over():
        table = pq.ParquetFile(stream)
        sizes = [table.metadata.row_group(group).total_byte_size for group in range(table.num_row_groups)]
        if max(sum(sizes), sum(group_rows(table))) <= most_bytes(budget):
            return _between("groups", sizes, [True] * len(sizes), bytes_each)
    return []


def pieces_of_members(stream: BinaryIO, bytes_each: int, reading: Reading, budget: Budget) -> list[Piece]:
    """The pieces of a zip, of whole members; empty if it must be read as a whole. Errors: OSError."""
    with damage_passed_over(), zipfile.ZipFile(stream) as archive:
        infos = archives.in_order(archive)
        if sum(info.file_size for info in infos) <= most_bytes(budget) and len(infos) <= budget.limits.members:
            has_rows = [archives.is_read(info, reading.ocr) for info in infos]
            return _between("members", [info.compress_size for info in infos], has_rows, bytes_each)
    return []


def _between(cut: Cut, sizes: Sequence[int], has_rows: Sequence[bool], bytes_each: int) -> list[Piece]:
    """Pieces of at least bytes_each. Each begins with something that has rows: what is passed over is counted on the rows around it."""
    starts, size, any_row = [0], 0, False
    for number, (own, rows) in enumerate(zip(sizes, has_rows, strict=True)):
        if rows and any_row and size >= bytes_each:
            starts.append(number)
            size, any_row = 0, False
        size, any_row = size + own, any_row or rows
    return [Piece(cut, begin, end) for begin, end in zip(starts, [*starts[1:], len(sizes)], strict=True)]


def most_bytes(budget: Budget) -> int:
    """The plain bytes up to which a file is read."""
    return min(budget.limits.total_bytes, max(budget.limits.ratio_from, budget.limits.ratio * budget.compressed_bytes))


# -- reading one ---------------------------------------------------------------------------------------------------------------


def rows(stream: BinaryIO, name: str, reading: Reading, budget: Budget, piece: Piece) -> Iterator[Row]:
    """The rows of a piece. Errors: as readers.read."""
    if piece.cut == "groups":
        yield from readers.guarded(parquet(stream, name, reading, budget, piece.begin, piece.end), name, budget, 0)
    elif piece.cut == "members":
        yield from readers.guarded(readers.zip_rows(stream, name, reading, budget, piece.begin, piece.end), name, budget, 0)
    elif piece.cut:
        yield from readers.guarded(json_rows.rows_from(_lines_of(stream, piece, budget), name, reading, piece.before), name, budget, 0)
    else:
        yield from readers.read(stream, name, reading, budget)


def _lines_of(stream: BinaryIO, piece: Piece, budget: Budget) -> BinaryIO:
    """The plain bytes of a piece."""
    stream.seek(piece.begin)
    if piece.cut == "frames":
        stream = decompressed(stream, "zstd", budget)
        left = piece.skip
        while left and (data := stream.read(min(left, CHUNK))):
            left -= len(data)
    return io.BufferedReader(_Bounded(stream, piece.length), CHUNK)


class _Bounded(io.RawIOBase):
    """The next bytes of a stream, and no more."""

    def __init__(self, inner: BinaryIO, left: int) -> None:
        self.inner, self.left = inner, left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        data = self.inner.read(min(len(buffer), self.left))
        buffer[: len(data)] = data
        self.left -= len(data)
        return len(data)
