"""A tiny Mistral of random weights with any tokenizer, as a model folder."""

from pathlib import Path
from typing import Any


def save(folder: Path, tokenizer: Any, **sizes: Any) -> Path:
    """sizes: of MistralConfig, in place of the tiny ones."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    given = {"vocab_size": len(tokenizer), "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "sliding_window": None, "initializer_range": 0.05,
             "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id} | sizes  # fmt: skip
    MistralForCausalLM(MistralConfig(**given)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
