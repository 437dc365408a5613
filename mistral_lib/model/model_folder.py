"""Checks a base model's folder before loading: configuration, weights and tokenizer are complete and belong together.

Reads JSON files and the headers of the shards only. Reports all faults at once, each with its file and what to do.
"""

from pathlib import Path
from typing import Any

import orjson

from mistral_lib.family import refused_models, text_part
from mistral_lib.model import safetensors_files
from mistral_lib.model.safetensors_files import INDEX, SINGLE
from mistral_lib.run import files, paths

SMALL_FILES = ("*.json", "*.jinja", "tokenizer.model")  # all but the weights
WEIGHT_FILES = ("*.safetensors",)
LEFT_OUT = ("*/*", "consolidated*")  # other files of a repository: the same weights in another layout
UNUSED_ROWS = 0.1  # largest share of embedding rows without a token: real models pad by up to 3 %
NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


_sound: dict[tuple[Path, bool], list[tuple[str, int, int]]] = {}  # folders without faults: their files when they were checked


class BaseModelError(ValueError):
    """A base model that cannot be used; the message names the file and the next step."""


def check(folder: Path, weights: bool = True, shown: str = "") -> None:
    """Errors: BaseModelError with all faults. weights: False if only the small files were fetched.

    A folder that was sound is not read again in this process until one of its files changes."""
    state = _state(folder)
    if _sound.get((folder, weights)) == state:
        return
    faults: list[str] = []
    config = _read(folder, "config.json", faults, _instead_of_config(folder))
    faults += config_faults(config)
    rows, holder = text_part.sizes(config).get("vocab_size"), "config.json"
    if weights and not _only_pickled(folder, faults):
        single = (folder / SINGLE).exists()  # transformers takes it even if there is an index as well
        index = _read(folder, INDEX, faults) if not single and (folder / INDEX).exists() else {"weight_map": {}}
        if isinstance(index.get("weight_map"), dict):
            tensors, damages = safetensors_files.examine(folder, index["weight_map"])
            names = text_part.EMBEDDINGS if text_part.is_multimodal(config) else text_part.EMBEDDINGS[:1]
            embedding = next((name for name in names if name in tensors), names[0])
            faults += damages or embedding_faults(tensors, rows, embedding)
            if not damages and embedding in tensors:
                rows, holder = tensors[embedding]["shape"][0], embedding
        elif index:  # it can be read
            faults.append(f"{INDEX}: has no weight_map; download it again")
    faults += tokenizer_faults(folder, rows, holder)
    if faults:
        lines = "\n".join(f"  {fault}" for fault in faults)
        raise BaseModelError(f"{shown or paths.short(folder)} cannot be used as base model:\n{lines}")
    _sound[folder, weights] = state


def _state(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of change of each file."""
    found = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()] if folder.is_dir() else []
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in found]


def _read(folder: Path, name: str, faults: list[str], instead: str = "") -> dict[str, Any]:
    """A JSON object; if it cannot be read, the reason is added to the faults and the object is empty."""
    path = folder / name
    if not path.is_file():
        faults.append(f"{name}: missing; {instead or 'download it from where the model came from'}")
        return {}
    data = path.read_bytes()
    problem = safetensors_files.wrong_content(data[:64], path)
    if problem is None:
        try:
            value = orjson.loads(data)
            problem = None if isinstance(value, dict) else f"holds a {type(value).__name__}, expected a JSON object; download it again"
        except orjson.JSONDecodeError as error:
            problem = f"is not valid JSON ({error}); download it again"
    if problem:
        faults.append(f"{name}: {problem}")
        return {}
    return value


def _instead_of_config(folder: Path) -> str:
    """What a folder without config.json seems to be instead."""
    if (folder / "adapter_config.json").is_file():
        base = _read(folder, "adapter_config.json", []).get("base_model_name_or_path") or "the model that it belongs to"
        return f"this folder holds an adapter, not a base model; set base_model to {base}"
    if any(folder.glob("*.gguf")):
        return "GGUF files are for serving; download the model's safetensors folder"
    if (folder / "params.json").is_file():
        return "this is Mistral's own layout (params.json, consolidated.safetensors); download the repository's config.json, tokenizer.json and model-*.safetensors"
    return ""


def config_faults(config: dict[str, Any]) -> list[str]:
    """Whether this is a causal language model with plain weights, or a multimodal one whose language model can be taken out."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if not config:
        return []
    faults = []
    if reason := refused_models.reason_by_config(config):
        return [f"config.json: {reason}"]
    listed = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()  # names, and tuples of names
    supported = {name for names in listed for name in ([names] if isinstance(names, str) else names)} | {text_part.MULTIMODAL}
    architectures = config.get("architectures") or []
    if not supported.intersection(architectures):
        faults.append(
            f"config.json: architectures = {architectures}: expected a causal language model of transformers, such as MistralForCausalLM"
        )
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method", "unknown method") if isinstance(quantized, dict) else quantized
        faults.append(f"config.json: {refused_models.quantized(method)}")
    return faults


def _only_pickled(folder: Path, faults: list[str]) -> bool:
    found = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if not found or (folder / SINGLE).exists() or (folder / INDEX).exists():
        return False
    faults.append(
        f"{found[0]}: pickled weights, which can run code during loading; expected {SINGLE} or its index: download the safetensors "
        "files, or convert with AutoModelForCausalLM.from_pretrained(...).save_pretrained(...)"
    )
    return True


def embedding_faults(tensors: safetensors_files.Header, rows: Any, embedding: str) -> list[str]:
    """Whether the weights have the layout that the workbook needs, and belong to this configuration. embedding: its name."""
    if embedding not in tensors:
        return [
            f"the weights hold no {embedding} (first tensor: {min(tensors, default='none')}): expected the layout of Mistral, Llama or Qwen "
            "(model.embed_tokens, model.layers, lm_head); choose such a model"
        ]
    found = tensors[embedding]["shape"][0]
    differ = f"config.json: vocab_size = {rows}, but {embedding} has {found:,} rows: they belong to different models; download both again"
    return [] if found == rows else [differ]


def tokenizer_faults(folder: Path, rows: Any, holder: str) -> list[str]:
    """Whether every token has a row in the embedding, and every token in tokenizer_config.json exists."""
    faults: list[str] = []
    bare = any((folder / name).is_file() for name in ("tokenizer.model", "tekken.json"))
    why = "a tokenizer.model alone loses the space before a text's first word; download tokenizer.json as well" if bare else ""
    tokenizer = _read(folder, "tokenizer.json", faults, why)
    named = _read(folder, "tokenizer_config.json", faults)
    if not tokenizer or not isinstance(rows, int):
        return faults
    tokens = _tokens(tokenizer)
    highest = max(tokens, default=-1)
    mismatch = "the tokenizer belongs to another model: take tokenizer.json and the weights from the same place"
    if highest >= rows:
        faults.append(f"tokenizer.json: token {tokens[highest]!r} has id {highest:,}, but {holder} has {rows:,} rows; {mismatch}")
    elif highest + 1 < (1 - UNUSED_ROWS) * rows:
        faults.append(f"tokenizer.json: {highest + 1:,} tokens for the {rows:,} rows of {holder}; {mismatch}")
    return faults + _named_token_faults(named, tokens)


def _tokens(tokenizer: dict[str, Any]) -> dict[int, str]:
    """Token by id, of the vocabulary and of the added tokens."""
    vocabulary = (tokenizer.get("model") or {}).get("vocab") or {}
    pairs = vocabulary.items() if isinstance(vocabulary, dict) else ((entry[0], place) for place, entry in enumerate(vocabulary))
    return {number: token for token, number in pairs} | {token["id"]: token["content"] for token in tokenizer.get("added_tokens") or []}


def _named_token_faults(named: dict[str, Any], tokens: dict[int, str]) -> list[str]:
    """Tokens of tokenizer_config.json: transformers would add unknown ones after the embedding's last row."""
    existing, faults = set(tokens.values()), []
    for key in NAMED_TOKENS:
        token = named.get(key)
        text = token.get("content") if isinstance(token, dict) else token
        if text is not None and text not in existing:
            faults.append(f"tokenizer_config.json: {key} is {text!r}, which tokenizer.json does not have; take both from the same model")
    listed = {int(number): token["content"] for number, token in (named.get("added_tokens_decoder") or {}).items()}
    if differing := [number for number, text in sorted(listed.items()) if tokens.get(number, text) != text]:
        first = differing[0]
        faults.append(
            f"tokenizer_config.json: token {first} is {listed[first]!r}, in tokenizer.json it is {tokens[first]!r} "
            f"({len(differing)} such tokens); take both from the same model"
        )
    return faults


def loading_options(folder: Path) -> dict[str, Any]:
    """The options of `from_pretrained` that load the language model of a checked folder: none, unless it is multimodal."""
    from transformers import AutoConfig

    if not text_part.is_multimodal(_read(folder, "config.json", [])):
        return {}
    single = (folder / SINGLE).exists()
    tensors = safetensors_files.header(folder / SINGLE) if single else _read(folder, INDEX, [])["weight_map"]
    return {"config": text_part.text_config(AutoConfig.from_pretrained(folder), tensors), "key_mapping": text_part.RENAMED}


def fingerprint(folder: Path) -> str:
    """Changes with the weights or the configuration; safetensors_files.fingerprint has its limits."""
    return files.digest([safetensors_files.fingerprint(folder), (folder / "config.json").read_text()])
