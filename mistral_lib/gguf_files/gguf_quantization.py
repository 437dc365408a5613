"""Q8_0 and Q4_K_M files from a GGUF file in float16, tensor by tensor, with the types that llama.cpp's own quantization chooses.

Q8_0: every matrix. Q4_K_M: Q4_K, but Q6_K for the output matrix (or for the embedding, if it is the output too), and for attn_v and
ffn_down in the first and last eighth of the layers and in every third layer between. A row whose length the type cannot divide falls back:
Q4_K to Q5_0, Q6_K to Q8_0, and to float16 if it is no multiple of 32 either. Vectors stay in float32. llama.cpp's exceptions for Falcon,
for models of 70B and for experts are left out: the first two are no Mistral, the last are refused.
Source: llama_tensor_get_type_impl and tensor_type_fallback in src/llama-quant.cpp of llama.cpp
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mistral_lib.gguf_files import gguf_file
from mistral_lib.gguf_files.gguf_file import GgufError, TensorInfo
from mistral_lib.run import paths
from mistral_lib.run.progress import bar

Kind = Literal["q8_0", "q4_k_m"]
FILE_TYPES = {"q8_0": 7, "q4_k_m": 15}  # general.file_type: MOSTLY_Q8_0, MOSTLY_Q4_K_M
FALLBACKS = {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}  # types of blocks of 256 numbers → of 32
LAYER = re.compile(r"^blk\.(\d+)\.(?:attn_v|ffn_down)\.weight$")
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
PART = 2**22  # numbers that are quantized at once by one thread: 16 MiB in float32
THREADS = 8  # at most: each holds a part


def quantize(f16: Path, target: Path, kind: Kind) -> dict[str, Any]:
    """Write a quantized copy of a file in float16. Two tensors are in memory at a time.

    Returns `tensors`, `types` (how many of each), `fallbacks` (tensors whose rows the wanted type cannot divide) and `bytes`.
    Errors: FileExistsError; DiskFullError; GgufError if the file is damaged, not in float16, has experts or holds NaN or infinity.
    """
    if kind not in FILE_TYPES:
        raise ValueError(f"kind = {kind!r}: expected one of {', '.join(FILE_TYPES)}")
    header = gguf_file.read(f16, arrays=True)
    if experts := gguf_file.sizes(header).get("expert_count"):
        raise GgufError(f"{paths.short(f16)}: it has {experts} experts, for which other rules hold; serve the float16 file")
    types, fallbacks = tensor_types(header, kind)
    infos = [TensorInfo(tensor.name, tensor.shape[::-1], types[tensor.name]) for tensor in header.tensors]
    metadata = dict(header.metadata)
    metadata[gguf_file.FILE_TYPE] = replace(metadata[gguf_file.FILE_TYPE], value=FILE_TYPES[kind])
    needed = header.data_offset + sum(info.bytes for info in infos)
    with gguf_file.new_file(target, needed, f"{target.name}, the model in {kind.upper()}") as partial:
        gguf_file.write(partial, metadata, infos, _arrays(header, types, target.name))
        gguf_file.read(partial)
    return {"tensors": len(infos), "types": dict(sorted(Counter(_name(info.type) for info in infos).items())), "fallbacks": fallbacks,
            "bytes": target.stat().st_size}  # fmt: skip


def tensor_types(header: Any, kind: Kind) -> tuple[dict[str, int], int]:
    """The type of each tensor by its name (a value of gguf.GGMLQuantizationType), and how many tensors fell back to another type."""
    from libgguf import GGMLQuantizationType

    tied = all(tensor.name != OUTPUT for tensor in header.tensors)
    layers = int(gguf_file.sizes(header)["block_count"])
    types, fallbacks = {}, 0
    for tensor in header.tensors:
        wanted = tensor.qtype
        if _is_quantized(tensor):
            wanted = "Q8_0" if kind == "q8_0" else _wanted(tensor.name, layers, tied)
        found = _fitting(wanted, tensor.shape[0])
        fallbacks += found != wanted
        types[tensor.name] = int(GGMLQuantizationType[found])
    return types, fallbacks


def _is_quantized(tensor: Any) -> bool:
    return len(tensor.shape) > 1 and tensor.name.endswith("weight") and not tensor.name.endswith("_norm.weight")


def _wanted(name: str, layers: int, tied: bool) -> str:
    """The type in Q4_K_M of a tensor whose rows can be divided."""
    layer = LAYER.match(name)
    more = name == (EMBEDDING if tied else OUTPUT) or (layer is not None and more_bits(int(layer[1]), layers))
    return "Q6_K" if more else "Q4_K"


def more_bits(layer: int, layers: int) -> bool:
    """Whether attn_v and ffn_down of a layer get Q6_K.   Source: use_more_bits in src/llama-quant.cpp of llama.cpp"""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def _fitting(wanted: str, width: int) -> str:
    """The type for rows of this length."""
    if wanted in FALLBACKS and width % 256:
        wanted = FALLBACKS[wanted]
    return "F16" if wanted in ("Q8_0", "Q5_0") and width % 32 else wanted


def _name(number: int) -> str:
    from libgguf import GGMLQuantizationType

    return GGMLQuantizationType(number).name


def _arrays(header: Any, types: dict[str, int], what: str) -> Iterator[np.ndarray]:
    """The tensors as they will be written, one after the other."""
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as threads:
        for tensor in bar(header.tensors, f"writing {what}", total=len(header.tensors), unit="tensor"):
            rows = gguf_file.rows(header, tensor)
            yield rows if _name(types[tensor.name]) == tensor.qtype else _quantized(rows, types[tensor.name], tensor.name, threads)


def _quantized(rows: np.ndarray, kind: int, name: str, threads: ThreadPoolExecutor) -> np.ndarray:
    """rows: (rows, width). Returns the bytes of each row (rows, bytes), or the rows in float16. Errors: GgufError if not all are finite."""
    from libgguf import quantize_rows

    def part(start: int) -> np.ndarray:
        numbers = rows[start : start + step].astype(np.float32)
        if not np.isfinite(numbers).all():
            raise GgufError(f"{name} holds NaN or infinity; check the weights that the file was made from")
        return quantize_rows(numbers, kind)

    step = max(1, PART // rows.shape[-1])
    return np.concatenate(list(threads.map(part, range(0, len(rows), step))))
