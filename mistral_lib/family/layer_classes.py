"""Which classes of transformers compute what MistralAttention, MistralMLP and MistralRMSNorm compute, and for how many tokens.

transformers copies these layers into the file of each model, so they are different classes with the same computation. Two things
differ in the family's attention: some layers of Mistral 7B v0.1 and Ministral see only the last `sliding_window` tokens, and
Ministral 3 multiplies queries by 1 + beta · log(1 + floor(position / original_max_position_embeddings)). Both leave a block that is
shorter than these lengths unchanged.   Source: modeling_ministral.py, modeling_ministral3.py in transformers
"""

from functools import cache
from importlib import import_module
from typing import Any

FAMILIES = {"mistral": "Mistral", "ministral": "Ministral", "ministral3": "Ministral3"}  # module and first part of the classes' names


@cache
def classes(kind: str) -> tuple[type, ...]:
    """The family's classes of one kind: `Attention`, `MLP`, `RMSNorm` or `Model`."""
    return tuple(getattr(import_module(f"transformers.models.{name}.modeling_{name}"), first + kind) for name, first in FAMILIES.items())


def is_one_of(module: Any, kind: str) -> bool:
    """Whether a module is exactly of one of these classes: a class that is derived from one may compute something else."""
    return type(module) in classes(kind)


def longest_plain_block(config: Any) -> float:
    """For how many tokens in a block every layer's attention is plain causal attention; infinite if there is no limit.

    config: of the language layers.
    """
    kinds = getattr(config, "layer_types", None) or ["sliding_attention"]
    window = config.sliding_window if "sliding_attention" in kinds else None
    rope = getattr(config, "rope_parameters", None) or {}
    scaled = rope.get("original_max_position_embeddings") if rope.get("llama_4_scaling_beta") else None
    return min(float("inf") if limit is None else limit for limit in (window, scaled))
