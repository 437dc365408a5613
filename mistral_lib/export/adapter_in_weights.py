"""How much of an adapter is in the weights of an exported file: 1 if it was merged into them, 0 if it was not, whatever the quantization.

For a weight matrix, D is what the adapter adds, W the file's, B the base model's: the share is the projection of W - B on D, <W - B, D> / <D, D>.
Rounding to 4 bits is spread over millions of numbers and nearly at right angles to D, and so is an adapter that was trained on the same data
from other random initial matrices. An earlier state of the same training is not, but it holds less. So this tells what answers cannot.
Knows files of weights; knows no answer and no server.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from mistral_lib.family import text_part
from mistral_lib.gguf_files import gguf_conversion, gguf_file
from mistral_lib.merging import merged_weights
from mistral_lib.merging.adapter_tensors import Adapter, text_part_name
from mistral_lib.merging.tensor_files import TensorFile
from mistral_lib.model import safetensors_files
from mistral_lib.run import files

MATRICES = 12  # that are looked at, spread over the layers; of one at a time four copies in float32 are in memory
MEDIAN_ERROR = 1.4826 * 1.2533  # median absolute deviation → standard deviation, and that of a mean → that of a median (normal numbers)
PERMUTED = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}  # llama.cpp orders their rows otherwise

# name of a weight in the loaded language model → matrix (out, in) in float32, and the number of heads its rows may be ordered by
Read = Callable[[str], tuple[Any, int | None]]


class Share(NamedTuple):
    """The median over the matrices that were looked at, and its standard error from their spread; that of a single matrix is infinite.

    A few matrices may have lost all of it: 4-bit rounding of weights that came from 4-bit ones rounds back to them.
    """

    value: float
    error: float


def in_model(base: Path, adapter: Path, form: Path) -> Share:
    """How much of the adapter is in a folder with a merged model, or in its GGUF file.

    Errors: MergeError; GgufError; DamagedFileError; ValueError if the file lacks an adapted weight.
    """
    with Adapter(adapter) as lora:
        sources = {weight.loaded: weight for weight in merged_weights.planned(base, lora)}
        read = _of_folder(form) if form.is_dir() else _of_gguf(form, files.read_json(base / "config.json"))
        shares = []
        for name in sampled(sorted(lora.modules)):
            added = lora.product(name)
            with TensorFile(base / sources[name].shard) as file:
                before = file.tensor(sources[name].source).float()
            shares.append(share(nearest(read(name), before) - before, added))
        return together(shares)


def in_lora_gguf(base: Path, adapter: Path, form: Path) -> Share:
    """The same for an adapter as a GGUF file: the projection of what it adds on what the adapter adds. Errors: as `in_model`."""
    import torch

    config, header = files.read_json(base / "config.json"), gguf_file.read(form)
    tensors = {tensor.name: tensor for tensor in header.tensors}
    shares = []
    with Adapter(adapter) as lora:
        for name in sampled(sorted(lora.modules)):
            place, heads = _gguf_place(name, config)
            a, b = (torch.from_numpy(_rows(header, _tensor(tensors, f"{place}.lora_{letter}"))) for letter in "ab")
            scale = gguf_file.value(header, "adapter.lora.alpha") / a.shape[0]
            shares.append(share(nearest((b @ a * scale, heads), added := lora.product(name)), added))
    return together(shares)


def together(shares: Sequence[float]) -> Share:
    middle = median(shares)
    spread = median(abs(one - middle) for one in shares)
    return Share(middle, MEDIAN_ERROR * spread / len(shares) ** 0.5 if len(shares) > 1 else float("inf"))


def sampled(names: Sequence[str]) -> list[str]:
    """At most MATRICES of the names, spread evenly."""
    step = max(1, len(names) / MATRICES)
    return [names[int(place * step)] for place in range(min(MATRICES, len(names)))]


def share(difference: Any, added: Any) -> float:
    """The projection of a difference on what the adapter adds, as a share of the latter; 0 for an adapter that adds nothing."""
    size = float((added * added).sum())
    return float((difference * added).sum()) / size if size else 0.0


def nearest(found: tuple[Any, int | None], expected: Any) -> Any:
    """A matrix in the order of rows that is expected. found: matrix, and the number of heads if llama.cpp may have ordered it by them."""
    matrix, heads = found
    if heads is None:
        return matrix
    out, width = matrix.shape
    ordered = matrix.reshape(heads, out // heads // 2, 2, width).swapaxes(1, 2).reshape(out, width)
    return min((matrix, ordered), key=lambda one: float(((one - expected) ** 2).sum()))


def _of_folder(folder: Path) -> Read:
    headers = {path.name: safetensors_files.header(path) for path in sorted(folder.glob("*.safetensors"))}
    places = {text_part_name(name): (file, name) for file, header in headers.items() for name in header}

    def read(name: str) -> tuple[Any, None]:
        if name not in places:
            raise ValueError(f"{folder.name}: it has no {name}, which the adapter changes; export it again")
        file, own = places[name]
        with TensorFile(folder / file) as opened:
            return opened.tensor(own).float(), None

    return read


def _of_gguf(path: Path, config: dict[str, Any]) -> Read:
    import torch

    header = gguf_file.read(path)
    tensors = {tensor.name: tensor for tensor in header.tensors}

    def read(name: str) -> tuple[Any, int | None]:
        place, heads = _gguf_place(name, config)
        return torch.from_numpy(_rows(header, _tensor(tensors, place))), heads

    return read


def _gguf_place(name: str, config: dict[str, Any]) -> tuple[str, int | None]:
    """llama.cpp's name of a weight, and the number of heads by which it may have ordered the rows."""
    found, sizes = gguf_conversion.gguf_name(name, config), text_part.sizes(config)
    kind = found.split(".")[-2]
    return found, sizes[PERMUTED[kind]] if kind in PERMUTED else None


def _tensor(tensors: dict[str, Any], name: str) -> Any:
    if name not in tensors:
        raise ValueError(f"it has no {name}, which the adapter changes; export it again")
    return tensors[name]


def _rows(header: Any, tensor: Any) -> Any:
    """A tensor of any type in float32, rows first."""
    import numpy as np
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    data = np.fromfile(header.path, np.uint8, tensor.nbytes, offset=tensor.data_offset)
    kind, shape = GGMLQuantizationType[tensor.qtype], tuple(tensor.shape[::-1])
    if tensor.qtype in ("F32", "F16"):
        return data.view(gguf_file.FLOATS[tensor.qtype]).reshape(shape).astype(np.float32)
    return dequantize(data.reshape(*shape[:-1], -1), kind).reshape(shape)
