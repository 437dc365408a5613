"""A model in the layout of Mistral 7B, scaled down, in many shards, and an adapter for it: written as files, without building a model.

`sparse`: the weights are holes in the files, which read as zeros and take no room.
"""

from pathlib import Path
from typing import Any

import torch

from mistral_lib.merging.tensor_files import encoded_header, tensor_bytes
from mistral_lib.model import base_model
from mistral_lib.model.safetensors_files import INDEX
from mistral_lib.run import files
from mistral_lib.run.settings import Settings
from tests.support import family

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def config(hidden: int, layers: int) -> dict[str, Any]:
    """The proportions of Mistral 7B: intermediate 3.5 times the width, 4 query heads for each key head. hidden: a multiple of 64."""
    return {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "vocab_size": family.WORDS, "hidden_size": hidden,
        "intermediate_size": hidden * 7 // 2, "num_hidden_layers": layers, "num_attention_heads": 8, "num_key_value_heads": 2,
        "head_dim": hidden // 8, "rms_norm_eps": 1e-5, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "hidden_act": "silu",
        "initializer_range": 0.02, "rope_theta": 1e6,
    }  # fmt: skip


def layer_shapes(sizes: dict[str, Any]) -> dict[str, list[int]]:
    """The tensors of one layer, without `model.layers.N.`."""
    hidden, inner, key = sizes["hidden_size"], sizes["intermediate_size"], sizes["hidden_size"] // 4
    return {
        "self_attn.q_proj.weight": [hidden, hidden], "self_attn.k_proj.weight": [key, hidden], "self_attn.v_proj.weight": [key, hidden],
        "self_attn.o_proj.weight": [hidden, hidden], "mlp.gate_proj.weight": [inner, hidden], "mlp.up_proj.weight": [inner, hidden],
        "mlp.down_proj.weight": [hidden, inner], "input_layernorm.weight": [hidden], "post_attention_layernorm.weight": [hidden],
    }  # fmt: skip


def save(folder: Path, hidden: int = 128, layers: int = 4, layers_per_shard: int = 2, sparse: bool = False, tied: bool = False) -> Path:
    """Write the model in bfloat16, with tokenizer; embedding, last norm and head are in the last shard. tied: without a head of its own."""
    folder.mkdir(parents=True)
    sizes = config(hidden, layers) | {"tie_word_embeddings": tied}
    groups = [
        {f"model.layers.{layer}.{name}": shape for layer in range(first, min(first + layers_per_shard, layers)) for name, shape in layer_shapes(sizes).items()}
        for first in range(0, layers, layers_per_shard)
    ]  # fmt: skip
    ends = {"model.embed_tokens.weight": [family.WORDS, hidden], "model.norm.weight": [hidden], "lm_head.weight": [family.WORDS, hidden]}
    groups.append({name: shape for name, shape in ends.items() if not (tied and name == "lm_head.weight")})
    weight_map: dict[str, str] = {}
    for number, shapes in enumerate(groups, 1):
        name = f"model-{number:05}-of-{len(groups):05}.safetensors"
        write(folder / name, shapes, sparse, seed=number)
        weight_map |= dict.fromkeys(shapes, name)
    files.write_json(folder / INDEX, {"metadata": {}, "weight_map": weight_map})
    files.write_json(folder / "config.json", sizes)
    family.tokenizer().save_pretrained(folder)
    return folder


def write(path: Path, shapes: dict[str, list[int]], sparse: bool, seed: int) -> None:
    """One shard."""
    torch.manual_seed(seed)
    bytes_of = {name: 2 * torch.Size(shape).numel() for name, shape in shapes.items()}
    with open(path, "wb") as file:
        file.write(encoded_header((name, "BF16", shape, bytes_of[name]) for name, shape in shapes.items()))
        for name, shape in shapes.items():
            if sparse:
                file.truncate(file.seek(bytes_of[name], 1))
            else:
                file.write(tensor_bytes(torch.randn(shape).mul_(0.02).add_(float(len(shape) == 1)).bfloat16()))


def adapter(folder: Path, base: Path, rank: int = 8, **settings: Any) -> Path:
    """Write an adapter of random numbers on all linear layers of a model that `save` made."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    sizes = files.read_json(base / "config.json")
    torch.manual_seed(1)
    tensors = {}
    for layer in range(sizes["num_hidden_layers"]):
        for name, shape in layer_shapes(sizes).items():
            if len(shape) == 2:
                module = f"base_model.model.model.layers.{layer}.{name.removesuffix('.weight')}"
                tensors[f"{module}.lora_A.weight"] = torch.randn(rank, shape[1]) * 0.05
                tensors[f"{module}.lora_B.weight"] = torch.randn(shape[0], rank) * 0.05
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(TARGETS), task_type="CAUSAL_LM", **settings).save_pretrained(folder)
    return folder


def trained_adapter(settings: Settings, folder: Path) -> Path:
    """Save an adapter for the settings' base model as a training does, with weights that no training made. Returns its folder."""
    from mistral_lib.training import adapter_check

    torch.manual_seed(1)
    model = base_model.attach_lora(base_model.load_base(settings), settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.normal_(std=0.05)
    numbers = {"records": 1, "blocks": 1, "block_tokens": 64, "supervised_tokens": 1, "steps": 1, "adapter_step": 1, "blocks_per_step": 1}
    return adapter_check.save(model, settings, folder, "none", numbers)
