"""Models that the workbook cannot train: recognized by their hub id before anything is fetched, or by config.json; with what to do.

A mixture of experts keeps its experts' weights in one tensor for all: neither NF4 nor LoRA on linear layers reaches them.
"""

import re
from typing import Any

DENSE = "choose a dense model of docs/models.md, such as mistralai/Mistral-7B-Instruct-v0.3"
EXPERTS = f"a mixture of experts, whose experts are no linear layers for NF4 and LoRA to replace; {DENSE}"
MAMBA = f"a Mamba model, which has no attention layers and mixes the records of a packed block; {DENSE}"
PIXTRAL = "multimodal in the layout of Llava, of which the workbook has no text part; choose mistralai/Mistral-Nemo-Instruct-2407, whose sizes its language layers have"
AUDIO = f"a model for speech; {DENSE}"
FP8 = "published in FP8 only, and NF4 needs 16-bit weights; set base_model to {other}"

BY_NAME: tuple[tuple[str, str], ...] = (  # pattern of the hub id, reason; the first that matches counts
    (r"mistralai/Mixtral-.*", EXPERTS),
    (r"mistralai/Mistral-Large-[3-9]-.*", EXPERTS),
    (r"mistralai/Mistral-Small-[4-9]-.*", EXPERTS),
    (r"mistralai/Mamba-.*", MAMBA),
    (r"mistralai/Pixtral-.*", PIXTRAL),
    (r"mistralai/Voxtral-.*", AUDIO),
    (r"(mistralai/Ministral-3-\w+-Instruct-2512)", FP8),
)
BY_TYPE = {"mixtral": EXPERTS, "mistral4": EXPERTS, "mistral_large4": EXPERTS, "deepseek_v3": EXPERTS, "mamba2": MAMBA, "mamba": MAMBA,
           "llava": PIXTRAL, "voxtral": AUDIO, "voxtral_realtime": AUDIO}  # fmt: skip


def reason_by_name(hub_id: str) -> str:
    """Why the model with this hub id (without a revision) cannot be trained, and what to do; "" if nothing is known against it."""
    for pattern, reason in BY_NAME:
        if re.fullmatch(pattern, hub_id):
            return reason.format(other=f"{hub_id}-BF16")
    return ""


def reason_by_config(config: dict[str, Any]) -> str:
    """The same for the content of config.json."""
    types = [config.get("model_type"), (config.get("text_config") or {}).get("model_type")]
    return next((BY_TYPE[name] for name in types if name in BY_TYPE), "")


def quantized(method: str) -> str:
    """What to do about weights that are quantized already. method: `quant_method` of config.json."""
    other = (
        "the repository of the same name with -BF16 at its end, if there is one"
        if method == "fp8"
        else "the model from which this one was made"
    )
    return f"the model is already quantized ({method}); the workbook does that itself (quantization: nf4): use {other}"
