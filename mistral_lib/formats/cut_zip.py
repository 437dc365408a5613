"""The members of a zip that has lost its end, and with it the list of its members: read from their own headers, one after another."""

import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

HEADER = struct.Struct("<4s5H3L2H")
SIGNATURE, DESCRIPTOR = b"PK\x03\x04", b"PK\x07\x08"
STORED, DEFLATED, UTF8, ENCRYPTED, SIZES_FOLLOW = 0, 8, 0x800, 0x1, 0x8
PIECE = 1024  # compressed bytes at once


def members(file: BinaryIO) -> Iterator[tuple[str, Any, str | None]]:
    """(name, stream, problem) of each member whose header is intact; the stream must be read before the next member is requested."""
    file.seek(0)
    while (found := file.read(HEADER.size)) and len(found) == HEADER.size:
        signature, _, flags, method, _, _, _, compressed, _, name_length, extra_length = HEADER.unpack(found)
        if signature != SIGNATURE:
            return
        name = file.read(name_length).decode("utf-8" if flags & UTF8 else "cp437", "replace")
        file.read(extra_length)
        begin, known = file.tell(), not flags & SIZES_FOLLOW
        problem = "archive_member_encrypted" if flags & ENCRYPTED else None if method in (STORED, DEFLATED) else "archive_member_method"
        if not known and method != DEFLATED:
            return
        inner = _Member(file, method, compressed if known else None)
        if name and not name.endswith("/"):
            yield name, None if problem else inner, problem
        if not _skip(file, inner, begin + compressed if known else None):
            return


def _skip(file: BinaryIO, inner: "_Member", end: int | None) -> bool:
    """Move to the next header; False if a member without a known end is damaged."""
    if end is not None:
        file.seek(end)
        return True
    try:
        while inner.read1(PIECE * 64):
            pass
    except (zlib.error, EOFError):
        return False
    file.seek(inner.end)
    file.seek(inner.end + (16 if file.read(4) == DESCRIPTOR else 12))
    return True


class _Member:
    """The plain bytes of one member. compressed: its bytes; None if they are not known before they are read."""

    def __init__(self, file: BinaryIO, method: int, compressed: int | None) -> None:
        self.file, self.left = file, compressed
        self.decoder = zlib.decompressobj(-15) if method == DEFLATED else None
        self.rest, self.end = b"", file.tell()

    def read1(self, most: int) -> bytes:
        """Errors: EOFError if it is cut off, zlib.error if it is damaged."""
        while True:
            if self.decoder is not None and self.decoder.eof:
                return b""
            given = self.rest or self._piece()
            if not given:
                if self.decoder is None and not self.left:
                    return b""
                raise EOFError("cut off")
            if self.decoder is None:
                return given
            data = self.decoder.decompress(given, most)
            self.rest = self.decoder.unconsumed_tail
            if self.decoder.eof:
                self.end = self.file.tell() - len(self.decoder.unused_data)
            if data:
                return data

    def _piece(self) -> bytes:
        data = self.file.read(PIECE if self.left is None else min(PIECE, self.left))
        if self.left is not None:
            self.left -= len(data)
        return data
