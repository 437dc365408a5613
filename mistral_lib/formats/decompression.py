"""Decompressed streams: gzip, bz2, xz, zstd and lz4. What lies before a damaged place is read, and the damage is reported with its extent.

Compressed bytes are read in small pieces: a decompressor that fails keeps what it made of its last piece.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO

import pyarrow as pa

from mistral_lib.formats.streams import Budget, DamagedError, is_of_the_machine, metered

CODECS = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd", ".lz4": "lz4"}
MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
PIECE = 1024  # compressed bytes handed to a decompressor at once
OUTPUT = 16 * 1024  # bytes that Arrow decompresses at once
FAULTS = (EOFError, OSError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, pa.ArrowException)


def decompressed(stream: BinaryIO, codec: str, budget: Budget, size: int = 0) -> BinaryIO:
    """The plain bytes of a stream of one or more frames. size: its compressed bytes, 0 if unknown.

    Errors: DamagedError at the place where it is damaged or cut off, after all bytes before it.
    """
    pieces = _Pieces(stream)
    inner: Any
    if codec == "gzip":
        inner = gzip.GzipFile(fileobj=pieces, mode="rb")  # type: ignore[arg-type]
    elif codec in ("bz2", "xz"):
        inner = _Frames(pieces, bz2.BZ2Decompressor if codec == "bz2" else lzma.LZMADecompressor)
    else:
        inner = pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), codec)
        pieces = None
    return metered(_Decompressed(inner, codec, pieces, size), budget)


def has_wrong_checksum(stream: BinaryIO, most: int) -> bool:
    """Whether a gzip file on disk is damaged, although it can be decompressed: its rows may then be altered. most: plain bytes to check."""
    if not isinstance(getattr(stream, "raw", None), io.FileIO):
        return False  # it would be downloaded or decompressed twice
    place, count = stream.tell(), 0
    try:
        with gzip.GzipFile(fileobj=stream, mode="rb") as file:
            while count < most and (data := file.read(OUTPUT * 16)):
                count += len(data)
        return False
    except (OSError, zlib.error) as error:
        if isinstance(error, OSError) and is_of_the_machine(error):
            raise
        return "Not a gzipped file" not in str(error)  # what follows the last frame alters nothing
    except EOFError:
        return False
    finally:
        stream.seek(place)


class _Pieces:
    """A stream that gives at most PIECE bytes at once, and counts them."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.count = stream, 0

    def read(self, most: int = PIECE) -> bytes:
        data = self.stream.read(min(most, PIECE) if most >= 0 else PIECE)
        self.count += len(data)
        return data


class _Frames:
    """The plain bytes of frames one after another, with zeros between or after them."""

    def __init__(self, pieces: _Pieces, new: Callable[[], Any]) -> None:
        self.pieces, self.new, self.decoder = pieces, new, None

    def read1(self, most: int) -> bytes:
        """Errors: EOFError if the last frame is cut off, OSError or LZMAError if one is damaged."""
        while True:
            given = b""
            if self.decoder is None or self.decoder.eof:
                given = self._next_frame()
                if not given:
                    return b""
                self.decoder = self.new()
            elif self.decoder.needs_input and not (given := self.pieces.read()):
                raise EOFError("cut off")
            if data := self.decoder.decompress(given, most):
                return data

    def _next_frame(self) -> bytes:
        given = b"" if self.decoder is None else self.decoder.unused_data.lstrip(b"\0")
        while not given and (piece := self.pieces.read()):
            given = piece.lstrip(b"\0")
        return given


class _Decompressed(io.RawIOBase):
    """Turns the errors of all decompressors into DamagedError."""

    def __init__(self, inner: Any, codec: str, pieces: _Pieces | None, size: int) -> None:
        self.inner, self.codec, self.pieces, self.size, self.good = inner, codec, pieces, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.inner.read1(len(buffer)) if self.pieces else self.inner.read(min(len(buffer), OUTPUT))
        except DamagedError:
            raise
        except FAULTS as error:
            if is_of_the_machine(error):
                raise
            raise DamagedError(self._note(error), min(1.0, self.good / self.size) if self.size else 0.0) from None
        if self.pieces:
            self.good = self.pieces.count
        buffer[: len(data)] = data
        return len(data)

    def _note(self, error: Exception) -> str:
        if isinstance(error, EOFError):
            return f"{self.codec}: cut off"
        if "CRC" in str(error) or "length" in str(error):
            return f"{self.codec}: its checksum is wrong, so rows of this file may be altered"
        return f"{self.codec}: damaged"
