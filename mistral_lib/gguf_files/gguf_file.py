"""GGUF files: what a header says, whether all of it is there, and writing a new file tensor by tensor.

Knows bytes, metadata and tensor types; knows nothing of models or tokenizers.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mistral_lib.run import disk, files, paths

ARCHITECTURE, FILE_TYPE = "general.architecture", "general.file_type"
TOKENS, TOKEN_TYPES, TEMPLATE = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.chat_template"
FLOATS = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16)}
EXPONENT = 0x7C00  # the exponent's bits of a float16: all of them are set in NaN and infinity
PART = 2**24  # bytes that are read at once


class GgufError(ValueError):
    """A GGUF file that cannot be made or is not what it should be; the message says what was found and what to do."""


class TensorInfo(NamedTuple):
    """A tensor of a file to be written. shape: as torch has it, rows first, with the width of a row last."""

    name: str
    shape: tuple[int, ...]
    type: int  # of gguf.GGMLQuantizationType

    @property
    def bytes(self) -> int:
        from libgguf import row_size

        return row_size(self.type, self.shape[-1]) * int(np.prod(self.shape[:-1]))


def read(path: Path, arrays: bool = False) -> Any:
    """The header: metadata and tensors (libgguf.inspect.GGUFFile). arrays: with the values of arrays, such as all tokens.

    Errors: GgufError if it is no GGUF file, or if its size is not that which its header requires: one that was cut short.
    """
    from libgguf import inspect

    try:
        found = inspect.validate_gguf(path, max_array_values=None if arrays else 0)
    except (ValueError, OverflowError, MemoryError) as error:  # lengths and texts of a damaged header
        raise GgufError(f"{paths.short(path)}: its header cannot be read ({error}); make the file again") from None
    faults = [issue.message for issue in found.issues if issue.severity == "error" or issue.code in ("qtype_unknown", "qtype_row_width")]
    if faults:
        more = f" ({len(faults)} such faults)" if len(faults) > 1 else ""
        raise GgufError(f"{paths.short(path)}: damaged or incomplete: {faults[0]}{more}; make the file again")
    return found.file


def value(header: Any, key: str) -> Any:
    """A value of the metadata, None if there is none."""
    entry = header.metadata.get(key)
    return None if entry is None else entry.value


def sizes(header: Any) -> dict[str, Any]:
    """The metadata of the file's architecture, such as block_count, without its name before them."""
    prefix = f"{value(header, ARCHITECTURE)}."
    return {key.removeprefix(prefix): entry.value for key, entry in header.metadata.items() if key.startswith(prefix)}


def rows(header: Any, tensor: Any) -> np.ndarray:
    """A tensor of type F32 or F16 as an array, rows first; only this tensor is in memory. Errors: GgufError if it has another type."""
    dtype = FLOATS.get(tensor.qtype)
    if dtype is None:
        raise GgufError(
            f"{paths.short(header.path)}: {tensor.name} has the type {tensor.qtype}, expected F32 or F16; start from an F16 file"
        )
    count = int(np.prod(tensor.shape))
    return np.fromfile(header.path, dtype, count, offset=tensor.data_offset).reshape(tensor.shape[::-1])


def require_finite(header: Any) -> None:
    """Errors: GgufError if an F16 tensor holds NaN or infinity: float16 ends at 65,504, bfloat16 does not."""
    with open(header.path, "rb") as file:
        for tensor in header.tensors:
            if tensor.qtype != "F16":
                continue
            file.seek(tensor.data_offset)
            for start in range(0, tensor.nbytes, PART):
                numbers = np.frombuffer(file.read(min(PART, tensor.nbytes - start)), np.uint16)
                if ((numbers & EXPONENT) == EXPONENT).any():
                    raise GgufError(
                        f"{paths.short(header.path)}: {tensor.name} holds NaN or infinity in float16; check the weights it was made from"
                    )


@contextmanager
def new_file(target: Path, needed: int, what: str) -> Iterator[Path]:
    """Yields a hidden file to write to, and renames it to `target` at the end; it is deleted if the block raises.

    needed: bytes. What a killed process left is deleted first. Errors: FileExistsError if there is a `target`; DiskFullError.
    """
    if target.exists():
        raise FileExistsError(f"{paths.short(target)}: exists already; move or delete it, then run this again")
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        left.unlink()
    disk.require(target.parent, needed, what)
    with files.atomic(target) as file, disk.full_reported(target.parent, needed, what, ""):
        yield Path(file.name)


def write(path: Path, metadata: Mapping[str, Any], tensors: Sequence[TensorInfo], data: Iterable[np.ndarray]) -> None:
    """Write a file tensor by tensor. metadata: as `read` returns it with arrays. data: one array for each tensor, in their order; of a
    quantized tensor its bytes."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, metadata[ARCHITECTURE].value)
    try:
        _add_metadata(writer, metadata)
        for tensor in tensors:
            _add_tensor(writer, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for array in data:
            writer.write_tensor_data(array)
    finally:
        writer.close()


def _add_metadata(writer: Any, metadata: Mapping[str, Any]) -> None:
    from gguf import GGUFValueType

    for key, entry in metadata.items():
        if key != ARCHITECTURE:  # the writer has it already
            kind = None if entry.raw_array_type is None else GGUFValueType(entry.raw_array_type)
            writer.add_key_value(key, entry.value, GGUFValueType(entry.raw_type), sub_type=kind)


def _add_tensor(writer: Any, tensor: TensorInfo) -> None:
    from gguf import GGMLQuantizationType

    # With a raw type given, the writer takes the shape as it is if the type of the array is any but uint8.
    writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, raw_dtype=GGMLQuantizationType(tensor.type))
