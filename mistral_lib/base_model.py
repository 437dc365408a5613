"""Finds, checks and loads the base model; quantises it; attaches and compares LoRA adapters."""

import hashlib
import warnings
from functools import cache
from pathlib import Path
from typing import Any

from mistral_lib import demo_model, files, fused_layers, hardware, home, ranks
from mistral_lib.settings import Settings


class BaseModelError(ValueError):
    """A base model that cannot be used; the message names the file and the next step."""


def locate(name: str) -> str:
    """A folder or hub id that transformers can load. Errors: BaseModelError for a folder that is not whole."""
    if name == demo_model.NAME:
        return str(demo_model.folder())
    if name.startswith(("demo:", "s3://")):
        raise BaseModelError(
            f"base_model = {name!r}: expected {demo_model.NAME}, a local folder, or a hub id such as mistralai/Mistral-7B-Instruct-v0.3"
        )
    folder = Path(name).expanduser()
    folder = folder if folder.is_absolute() else home.home() / folder
    if folder.is_dir():
        check_folder(folder)
        return str(folder)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise BaseModelError(
            f"base_model = {name!r}: no such folder ({folder}); expected one with config.json and weights, or a hub id owner/name"
        )
    return name


def check_folder(folder: Path) -> None:
    """Errors: BaseModelError that lists every file which is missing."""
    missing = [name for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()]
    index = folder / "model.safetensors.index.json"
    shards = set(files.read_json(index)["weight_map"].values()) if index.is_file() else {"model.safetensors"}
    missing += sorted(name for name in shards if not (folder / name).is_file())
    if missing:
        raise BaseModelError(f"{folder} is not a whole model: {', '.join(missing)} missing; download it again")


@cache
def load_tokenizer(name: str) -> Any:
    """The base model's tokenizer, with a padding token that is not its end token.

    Errors: BaseModelError for a tokenizer without tokenizer.json, padding token or chat template.
    """
    from transformers import AutoTokenizer

    # mistral_format: with mistral-common installed, a folder that holds tekken.json would get a tokenizer without template and mask
    tokenizer = AutoTokenizer.from_pretrained(locate(name), mistral_format=False)
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise BaseModelError(f"{name}: its tokenizer is a {type(tokenizer).__name__}; expected one made from a tokenizer.json")
    if tokenizer.pad_token is None or tokenizer.pad_token == tokenizer.eos_token:
        tokenizer.pad_token = tokenizer.unk_token
    if tokenizer.pad_token in (None, tokenizer.eos_token):
        raise BaseModelError(
            f"{name}: its tokenizer has no token to pad with other than the end token; add one to its tokenizer_config.json"
        )
    if not tokenizer.chat_template:
        raise BaseModelError(f"{name}: its tokenizer has no chat template; use the Instruct variant of the model")
    return tokenizer


def tokenizer_hash(tokenizer: Any) -> str:
    """Changes when any record could get other token ids."""
    return hashlib.sha256((tokenizer.backend_tokenizer.to_str() + tokenizer.chat_template).encode()).hexdigest()


def identity(name: str) -> str:
    """Changes when the weights do: file sizes and configuration of a folder, the commit of a hub model."""
    place = Path(locate(name))
    if not place.is_dir():
        from transformers import AutoConfig

        return str(getattr(AutoConfig.from_pretrained(name), "_commit_hash", None) or name)
    sizes = {path.name: path.stat().st_size for path in sorted(place.glob("*.safetensors"))}
    return files.digest([sizes, (place / "config.json").read_text()])


def load_base(settings: Settings) -> Any:
    """The base model on this machine's device, quantised as asked, its weights frozen.

    Errors: BaseModelError; ValueError for a dtype that the machine only emulates.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # transformers warns of its own name
    dtype = getattr(torch, hardware.choose_dtype(settings.dtype)[0])
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": "sdpa"}
    if settings.quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    model = AutoModelForCausalLM.from_pretrained(locate(settings.base_model), device_map={"": ranks.place(hardware.device())}, **options)
    keep_cpu_weights_trainable_through(model)
    model.config.use_cache = False
    return model.requires_grad_(False)


def keep_cpu_weights_trainable_through(model: Any) -> None:
    """bitsandbytes repacks a 4-bit weight at its first forward without gradients, on CPUs with AVX512-BF16, and later
    training silently loses the gradient through it. Repacking is switched off, where it could happen: on a CPU."""
    import bitsandbytes as bnb

    if hardware.device() == "cpu":
        for module in model.modules():
            if isinstance(module, bnb.nn.Linear4bit):
                module.support_avx512bf16_for_cpu = False


def attach_lora(model: Any, settings: Settings) -> Any:
    """A new adapter on the model, its weights in float32. Call transformers.set_seed before, or runs do not reproduce."""
    from peft import LoraConfig, get_peft_model

    targets = settings.lora_targets if settings.lora_targets == "all-linear" else [t.strip() for t in settings.lora_targets.split(",")]
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    return fused_layers.install(get_peft_model(model, config))


def load_adapter(settings: Settings, folder: Path) -> Any:
    """A fresh base model with the adapter in `folder`, for measuring."""
    from peft import PeftModel

    return fused_layers.install(PeftModel.from_pretrained(load_base(settings), str(folder))).eval()


def adapter_hash(model: Any) -> str:
    """SHA-256 over the adapter's tensors in memory, by name."""
    from peft import get_peft_model_state_dict

    total = hashlib.sha256()
    for name, tensor in sorted(get_peft_model_state_dict(model).items()):
        total.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return total.hexdigest()
