"""Merges an adapter into its base model, from safetensors to safetensors, one tensor at a time: a complete model folder.

Each shard keeps its name, its tensors and their dtypes. W + scale · B A is computed in float32 and rounded once to the dtype of W, as
peft's `merge_and_unload` does. Into NF4, W is first replaced by what the quantized model holds in its place; nothing is quantized again.
"""

import resource
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from mistral_lib.family import text_part
from mistral_lib.merging import nf4_weights
from mistral_lib.merging.adapter_tensors import Adapter, MergeError, text_part_name
from mistral_lib.merging.nf4_weights import Nf4Weights
from mistral_lib.merging.shard_folder import ShardFolder
from mistral_lib.merging.tensor_files import DTYPES, TensorFile, encoded_header, in_order, tensor_bytes
from mistral_lib.model import model_folder
from mistral_lib.model.safetensors_files import INDEX, SINGLE
from mistral_lib.run import disk, files, paths, progress

FORMAT = 1  # of what is written; a half-written folder of another one is not resumed
SMALL_FILES = ("generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt",
               "tekken.json", "chat_template*", "*.jinja", "*processor_config.json", "LICENSE*", "NOTICE*")  # fmt: skip
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"  # as the loaded language model names them
LANGUAGE = ("model.embed_tokens.", "model.layers.", "model.norm.", "lm_head.")  # the rest of a multimodal model: vision tower, projector


@dataclass(frozen=True)
class Weight:
    """A tensor of the merged model."""

    shard: str
    name: str
    source: str  # the base model's tensor; another one than `name` for a head that was tied to the embedding
    loaded: str  # its name in the loaded language model; "" if it is not part of that
    dtype: str  # as safetensors names it: F32, F16, BF16, ...
    shape: tuple[int, ...]
    bytes: int


def merge(base: Path, adapter: Path, target: Path, into: Literal["16bit", "nf4"], adapted: bool = True) -> dict[str, Any]:
    """Write the merged model to the folder `target`, or resume it; return the figures. adapted: False leaves the adapter out, which gives
    the base model as the merge has it.

    into: `16bit`: the base model's weights as its files hold them; `nf4`: those that loading quantizes, quantized and dequantized in
    the dtype that the adapter was trained in (provenance.json; without it, that of the files). The caller holds the lock of the run.
    Errors: FileExistsError if there is a target; BaseModelError; MergeError; DiskFullError. Whatever ends it, the same call resumes it.
    """
    began = time.perf_counter()
    if into not in ("16bit", "nf4"):
        raise ValueError(f"into = {into!r}: expected '16bit' or 'nf4'")
    if target.exists():
        raise FileExistsError(f"{paths.short(target)}: exists already; move or delete it, then run this again")
    model_folder.check(base)
    with Adapter(adapter) as lora:
        weights = planned(base, lora)
        made_from = {"format": FORMAT, "base": lora.require_base(base), **lora.identity(), "into": into, "adapted": adapted}
        nf4 = nf4_weights.of_base(base) if into == "nf4" else None
        folder = ShardFolder(target, made_from, list(dict.fromkeys(weight.shard for weight in weights)))
        reused = len(folder.finished)
        write_shards(base, weights, folder, lora, nf4, adapted)
    with folder.room(disk.MIB + sum(path.stat().st_size for path in small_files(base)), "the merged model's tokenizer"):
        write_small_files(base, folder.folder, weights, HEAD in lora.modules)
        model_folder.check(folder.folder)
        folder.publish()
    return figures(weights, folder, reused) | {
        "merged_tensors": len(lora.modules),
        "into": into,
        "seconds": round(time.perf_counter() - began, 3),
    }


def figures(weights: list[Weight], folder: ShardFolder, reused: int) -> dict[str, Any]:
    """peak_memory_mib: of this process so far, resident."""
    return {
        "tensors": len(weights),
        "shards": len(folder.finished),
        "reused_shards": reused,
        "bytes": sum(fact["bytes"] for fact in folder.finished.values()),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def planned(base: Path, lora: Adapter) -> list[Weight]:
    """Every tensor of the merged model, in the order of the files. Errors: MergeError if the adapter does not fit the base model."""
    multimodal = text_part.is_multimodal(files.read_json(base / "config.json"))
    single = (base / SINGLE).exists()  # transformers takes it even if there is an index as well
    shards = [SINGLE] if single else sorted(set(files.read_json(base / INDEX)["weight_map"].values()))
    weights = [weight for shard in shards for weight in weights_of(base / shard, multimodal)]
    if HEAD in lora.modules and HEAD not in {weight.loaded for weight in weights}:
        weights = list(with_own_head(weights))
    lora.require_fit({w.loaded: list(w.shape) for w in weights if w.loaded and len(w.shape) == 2 and w.dtype in DTYPES})
    return weights


def weights_of(shard: Path, multimodal: bool) -> Iterator[Weight]:
    """The tensors of a shard, in the order of the file."""
    with TensorFile(shard) as file:
        for name in in_order(file.header):
            fact, loaded = file.header[name], text_part_name(name)
            start, end = fact["data_offsets"]
            part = not multimodal or loaded.startswith(LANGUAGE)
            yield Weight(shard.name, name, name, loaded if part else "", fact["dtype"], tuple(fact["shape"]), end - start)


def with_own_head(weights: Iterable[Weight]) -> Iterator[Weight]:
    """The weights, and beside the embedding the head that was tied to it: an adapter on the head must not change the embedding."""
    for weight in weights:
        yield weight
        if weight.loaded == EMBEDDING:
            yield replace(weight, name=text_part.HEADS[weight.name == text_part.EMBEDDINGS[1]], loaded=HEAD)


def write_shards(base: Path, weights: list[Weight], folder: ShardFolder, lora: Adapter, nf4: Nf4Weights | None, adapted: bool) -> None:
    """Write the shards that are not finished. Errors: DiskFullError; MergeError if a merged weight is not finite."""
    todo = [weight for weight in weights if weight.shard not in folder.finished]
    left = sum(weight.bytes for weight in todo)
    bar = progress.bar(todo, f"merging into {'NF4' if nf4 else '16 bit'}", len(todo), "tensor")
    for shard, group in groupby(bar, key=lambda weight: weight.shard):
        header = encoded_header((w.name, w.dtype, list(w.shape), w.bytes) for w in todo if w.shard == shard)
        with folder.room(left, "the merged model"), TensorFile(base / shard) as source, folder.new_shard(shard) as new:
            new.write(header)
            for weight in group:
                for data in merged(weight, source, lora, nf4, adapted):
                    new.write(data)
                left -= weight.bytes


def merged(
    weight: Weight, source: TensorFile, lora: Adapter, nf4: Nf4Weights | None, adapted: bool
) -> Iterator[bytes | bytearray | memoryview]:
    """The bytes of a weight of the merged model. adapted: as in `merge`."""
    import torch

    quantized, adapted = nf4 is not None and weight.loaded in nf4.names, adapted and weight.loaded in lora.modules
    if not quantized and not adapted:
        yield from source.chunks(weight.source)
        return
    tensor = source.tensor(weight.source)  # (out, in)
    dtype = tensor.dtype
    if quantized:
        tensor = nf4.dequantized(tensor, lora.trained_in or DTYPES[weight.dtype])
    if adapted:
        tensor = lora.product(weight.loaded).add_(tensor)  # in float32
    tensor = tensor.to(dtype)
    if not torch.isfinite(tensor).all():
        raise MergeError(
            f"{weight.name}: the merged weight holds NaN or infinity in {DTYPES[weight.dtype]}; check that base model and adapter are sound"
        )
    yield tensor_bytes(tensor)


def small_files(base: Path) -> list[Path]:
    """Tokenizer, templates and the like: what is copied as it is. Not the same weights in other formats, and none of Mistral's own files
    that a server would take in place of config.json (params.json)."""
    return sorted({path for pattern in SMALL_FILES for path in base.glob(pattern) if path.is_file()})


def write_small_files(base: Path, folder: Path, weights: list[Weight], own_head: bool) -> None:
    """Everything but the weights: copies, config.json, and the index if there are several shards."""
    for path in small_files(base):
        shutil.copyfile(path, folder / path.name)
    files.write_json(folder / "config.json", configuration(base, weights, own_head))
    if weights[0].shard != SINGLE:
        sizes = {"total_size": sum(weight.bytes for weight in weights)}
        files.write_json(folder / INDEX, {"metadata": sizes, "weight_map": {weight.name: weight.shard for weight in weights}})


def configuration(base: Path, weights: list[Weight], own_head: bool) -> dict[str, Any]:
    """config.json of the merged model: the base model's, with the dtype of the weights. own_head: it is not tied to the embedding."""
    config = files.read_json(base / "config.json")
    config["dtype"] = next(DTYPES[weight.dtype] for weight in weights if weight.loaded == EMBEDDING)
    for part in filter(None, (config, config.get("text_config"))):
        part.pop("_name_or_path", None)  # may be a path of the machine that made it
        for key in {"dtype", "torch_dtype"} & part.keys():
            part[key] = config["dtype"]
        if own_head:
            part["tie_word_embeddings"] = False
    return config
