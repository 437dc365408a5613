"""Reads and writes safetensors files tensor by tensor, without mapping them: pages of a mapped file count as memory of the process.

Knows bytes, names and dtypes; knows nothing of models or adapters.
Source: https://github.com/huggingface/safetensors#format (8 bytes header length, JSON header, tensors without gaps)
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from mistral_lib.model import safetensors_files

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # those that weights are computed in, by torch's names
CHUNK = 8 * 2**20  # bytes
ALIGNED = 8  # the data begin at a multiple of so many bytes


class TensorFile:
    """An open safetensors file. Errors: DamagedFileError if its header and its size do not match."""

    def __init__(self, path: Path) -> None:
        self.path, self.header = path, safetensors_files.header(path)
        self._file = open(path, "rb")  # noqa: SIM115 — closed by __exit__
        self._data = path.stat().st_size - max((fact["data_offsets"][1] for fact in self.header.values()), default=0)

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def chunks(self, name: str, size: int = CHUNK) -> Iterator[bytearray]:
        """The bytes of a tensor, in pieces of at most `size` bytes. Errors: DamagedFileError if the file ends before them."""
        start, end = self.header[name]["data_offsets"]
        self._file.seek(self._data + start)
        for place in range(start, end, size):
            piece = bytearray(min(size, end - place))
            if self._file.readinto(piece) != len(piece):
                raise safetensors_files.DamagedFileError(
                    f"{self.path.name}: ends within {name}, although its header is complete; get it again"
                )
            yield piece

    def tensor(self, name: str) -> Any:
        """A tensor that is not empty, in memory of its own. Errors: ValueError if its dtype is none of DTYPES."""
        import torch

        fact = self.header[name]
        if fact["dtype"] not in DTYPES:
            raise ValueError(f"{self.path.name}: {name} is {fact['dtype']}; expected one of {', '.join(DTYPES)}")
        start, end = fact["data_offsets"]
        data = next(self.chunks(name, end - start))
        return torch.frombuffer(data, dtype=getattr(torch, DTYPES[fact["dtype"]])).view(fact["shape"])


def in_order(header: safetensors_files.Header) -> list[str]:
    """The names of the tensors as their data follow each other in the file."""
    return sorted(header, key=lambda name: header[name]["data_offsets"])


def encoded_header(tensors: Iterable[tuple[str, str, list[int], int]]) -> bytes:
    """The beginning of a file, up to the data. tensors: name, dtype, shape and bytes of each, in the order of the data."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, size in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = orjson.dumps(header)
    text += b" " * (-len(text) % ALIGNED)
    return len(text).to_bytes(8, "little") + text


def tensor_bytes(tensor: Any) -> memoryview:
    """The bytes of a tensor on the CPU, without a copy if it is contiguous."""
    import torch

    return memoryview(tensor.contiguous().view(torch.uint8).numpy()).cast("B")


class HashedFile:
    """A file that is written in one go, with the SHA-256 of what was written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._hash, self.bytes = file, hashlib.sha256(), 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)

    def fact(self) -> dict[str, Any]:
        """As `run.files.hashes` gives it."""
        return {"sha256": self._hash.hexdigest(), "bytes": self.bytes}
