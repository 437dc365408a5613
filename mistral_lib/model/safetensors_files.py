"""Checks a model's safetensors files without loading them: each shard's header against its size, all headers against the index.

Knows bytes and headers; knows nothing of configurations or tokenizers.
Source: https://github.com/huggingface/safetensors#format (8 bytes header length, JSON header, tensors without gaps)
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
LONGEST_HEADER = 100_000_000  # bytes; the limit of the format's own reader
SAMPLE = 4096  # bytes of each tensor, at its start, middle and end, that the fingerprint reads
LFS_POINTER = b"version https://git-lfs"
GZIP = b"\x1f\x8b"

Header = dict[str, dict[str, Any]]  # tensor name → dtype, shape, data_offsets


class DamagedFileError(ValueError):
    """A file with another content than its name promises; the message has the reason and what to do, without the name."""


def wrong_content(start: bytes, path: Path) -> str | None:
    """What the file really is, judged by its first bytes, and what to do; None if they show nothing wrong."""
    if not start:
        return "is empty; download it again"
    if start.startswith(GZIP):
        return f"is compressed with gzip (it begins with 1f 8b); unpack it: gzip -dc {path.name} > plain && mv plain {path.name}"
    if start.startswith(LFS_POINTER):
        return f"is a git-lfs pointer of {path.stat().st_size} bytes, not the file itself; run `git lfs pull` in its folder"
    if start.lstrip().startswith(b"<"):
        return "holds a web page (a login or error page saved under this name); download it again"
    return None


def header(path: Path) -> Header:
    """The tensors of a safetensors file. Errors: DamagedFileError if its header and its size do not match."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        start = file.read(64)
        file.seek(8)
        length = int.from_bytes(start[:8], "little")
        text = file.read(length) if length <= min(size - 8, LONGEST_HEADER) else b""
    try:
        tensors = {name: fact for name, fact in orjson.loads(text).items() if name != "__metadata__"}
        end = max((fact["data_offsets"][1] for fact in tensors.values()), default=0)
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, IndexError):
        unreadable = f"has no readable header: the header should have {length:,} bytes, the file has {size:,}; download it again"
        raise DamagedFileError(wrong_content(start, path) or unreadable) from None
    if size != (expected := 8 + length + end):
        fault = "cut short" if size < expected else "too long"
        raise DamagedFileError(f"is {fault}: it has {size:,} bytes, its header requires {expected:,}; download it again")
    return tensors


def examine(folder: Path, weight_map: dict[str, str]) -> tuple[Header, list[str]]:
    """All tensors of a folder, and all faults of its shards: missing, damaged, or without a tensor of the index.

    weight_map: tensor name → file, of the index; empty if the folder has a single file of weights.
    """
    tensors: Header = {}
    faults = []
    for name in sorted(set(weight_map.values())) or [SINGLE]:
        path = folder / name
        if not path.is_file():
            named = f"{INDEX} names it" if weight_map else "the folder holds no other weights"
            faults.append(f"{name}: missing ({named}); download it into the folder")
            continue
        try:
            found = header(path)
        except DamagedFileError as damage:
            faults.append(f"{name}: {damage}")
            continue
        tensors |= found
        if absent := [tensor for tensor, shard in weight_map.items() if shard == name and tensor not in found]:
            faults.append(f"{name}: holds no {absent[0]} ({len(absent)} tensors are missing that {INDEX} lists); download both again")
    return tensors, faults


def fingerprint(folder: Path) -> str:
    """SHA-256 of sizes, headers and a sample of every tensor's bytes: about 1,000 short reads in place of 14 GB.

    It can miss a change of a single number within a tensor, but not a training, a conversion or an incomplete copy.
    """
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        total.update(f"{path.name} {path.stat().st_size}\n".encode())
        with open(path, "rb") as file:
            text, places = _outline(file, path.stat().st_size)
            total.update(text)
            for place in places:
                file.seek(place)
                total.update(file.read(SAMPLE))
    return total.hexdigest()


def _outline(file: BinaryIO, size: int) -> tuple[bytes, list[int]]:
    """The header's text and the offsets of the samples in the file; of a file without a readable header nothing and its start."""
    length = int.from_bytes(file.read(8), "little")
    text = file.read(length) if length <= min(size - 8, LONGEST_HEADER) else b""
    try:
        return text, [8 + length + place for place in _sampled(orjson.loads(text))]
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
        return b"", [0]


def _sampled(found: dict[str, Any]) -> Iterator[int]:
    """The offsets of the samples in the data, in the order of the file."""
    places = (fact["data_offsets"] for name, fact in found.items() if name != "__metadata__")
    for start, end in sorted(places):
        last = max(start, end - SAMPLE)
        yield from sorted({start, (start + last) // 2, last})
