"""GiB of disk that a run needs on its machine, by part.

The base model counts as published; a `consolidated.safetensors` beside it is never fetched. Figures of the system and of the environment
are assumed from the sizes of the packages, not measured on AWS.
"""

import math

from mistral_lib.run import disk
from mistral_lib.run.settings import Settings

GIB = 2**30
SYSTEM_GIB = 55  # Ubuntu with NVIDIA's driver and CUDA, as the public image has it, with room for logs: assumed
ENVIRONMENT_GIB = 14  # the packages of the lock with PyTorch for CUDA, and their cache: assumed
FREE_SHARE = 0.15  # of the sum, kept free
LEAST_GIB = 80  # the image itself refuses a smaller volume: assumed
BYTES_PER_TOKEN = 4.0  # of a corpus file
CORPUS_COPIES = 4  # the files, the prepared records, the packed tokens, the ledger
SHARE_OF_16_BIT = {"merged": 1.0, "f16": 1.0, "q8_0": 0.54, "q4_k_m": 0.31, "lora_gguf": 0.02}  # size of an exported form
GGUF_FORMS = {"f16", "q8_0", "q4_k_m"}  # each is made from a 16-bit GGUF that is deleted afterwards


def parts(settings: Settings, train_tokens: int, base_model_bytes: int, trainable_parameters: int) -> dict[str, float]:
    """GiB by part. train_tokens: of one epoch."""
    base = base_model_bytes / GIB
    corpus = CORPUS_COPIES * BYTES_PER_TOKEN * train_tokens / GIB
    needed = {
        "system": SYSTEM_GIB,
        "environment": ENVIRONMENT_GIB,
        "corpus": corpus,
        "base model": base,
        "checkpoints": disk.training_bytes(trainable_parameters) / GIB,
        "export": base * export_share(settings.export_forms),
    }
    needed["free"] = FREE_SHARE * sum(needed.values())
    return needed


def export_share(forms: list[str]) -> float:
    """Size of the exported forms at their largest, as a share of the base model in 16 bits."""
    kept = sum(SHARE_OF_16_BIT[form] for form in forms)
    merged_on_the_way = 1.0 if forms and "merged" not in forms and set(forms) & GGUF_FORMS else 0.0
    gguf_on_the_way = 1.0 if set(forms) & (GGUF_FORMS - {"f16"}) and "f16" not in forms else 0.0
    return kept + merged_on_the_way + gguf_on_the_way


def volume_gib(needed: dict[str, float]) -> int:
    """The size of the volume, in steps of 10 GiB."""
    return max(LEAST_GIB, 10 * math.ceil(sum(needed.values()) / 10))
