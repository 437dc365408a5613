"""Where the frames of a Zstandard file begin, by the headers of its blocks: nothing is decompressed.

Source: RFC 8878, sections 3.1.1 (frames) and 3.1.2 (skippable frames)
"""

from collections.abc import Iterator
from typing import BinaryIO

MAGIC = b"\x28\xb5\x2f\xfd"
SKIPPABLE = range(0x184D2A50, 0x184D2A60)
ID_BYTES = (0, 1, 2, 4)  # of the dictionary's id, by the flag in the descriptor
SIZE_BYTES = (0, 2, 4, 8)  # of the content's size, by its flag
RUN, COMPRESSED = 1, 2  # types of blocks: one byte repeated, compressed; 0 is stored as it is
BLOCK_HEADER, CHECKSUM = 3, 4  # bytes


class FrameError(ValueError):
    """The bytes are no sequence of frames."""


def frames(stream: BinaryIO) -> Iterator[tuple[int, int]]:
    """(begin, end) in bytes of every frame that has content. Errors: FrameError if the file is damaged or cut off."""
    place = 0
    while head := _at(stream, place, 4):
        number = int.from_bytes(head, "little")
        if number in SKIPPABLE:
            place += 8 + int.from_bytes(_exactly(stream, place + 4, 4), "little")
        elif head == MAGIC:
            end = _end(stream, place)
            yield place, end
            place = end
        else:
            raise FrameError(f"byte {place}: no frame begins here")


def _end(stream: BinaryIO, begin: int) -> int:
    """The byte after the frame that begins here."""
    descriptor = _exactly(stream, begin + 4, 1)[0]
    single = descriptor >> 5 & 1  # one segment: no window descriptor, and the size has one byte at least
    sized = SIZE_BYTES[descriptor >> 6] or single
    place = begin + 5 + (1 - single) + ID_BYTES[descriptor & 3] + sized
    last = False
    while not last:
        header = int.from_bytes(_exactly(stream, place, BLOCK_HEADER), "little")
        last, kind, size = bool(header & 1), header >> 1 & 3, header >> 3
        if kind > COMPRESSED:
            raise FrameError(f"byte {place}: damaged block")
        place += BLOCK_HEADER + (1 if kind == RUN else size)
    end = place + (CHECKSUM if descriptor & 4 else 0)
    _exactly(stream, end - 1, 1)
    return end


def _at(stream: BinaryIO, place: int, count: int) -> bytes:
    stream.seek(place)
    return stream.read(count)


def _exactly(stream: BinaryIO, place: int, count: int) -> bytes:
    data = _at(stream, place, count)
    if len(data) < count:
        raise FrameError(f"byte {place}: cut off")
    return data
