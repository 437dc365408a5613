"""The kernels for CPUs: attention record by record gives what PyTorch's attention gives, and only a model on a CPU gets them."""

import pytest
import torch
from torch.nn import functional

from mistral_lib.model import base_model
from mistral_lib.model.cpu_attention import RecordAttention, RecordSpans


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_only_a_model_on_a_cpu_gets_the_kernels_for_cpus(device: str) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1
    )
    with torch.device(device):
        model = base_model.install_kernels(MistralForCausalLM(config))
    assert hasattr(model.model.layers[0].mlp, "plain_forward"), "the fused layers are used on every device"
    attention = model.model.layers[0].self_attn
    found = hasattr(model, "compute_rows"), hasattr(model.model, "packed_forward"), hasattr(attention, "plain_forward")
    assert found == (device == "cpu",) * 3


@pytest.mark.parametrize("lengths", [[512], [300, 5, 7, 200], [1, 255, 128, 128], [3] * 170 + [2]])
def test_records_attend_to_themselves_alone(lengths: list[int]) -> None:
    """Against PyTorch's attention within each record: a record of many tiles, several in a tile, one that ends with its tile."""
    torch.manual_seed(0)
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    query, key, value = (torch.randn(512, heads, 16, requires_grad=True) for heads in (4, 2, 2))
    upstream = torch.randn(512, 4, 16)
    own = RecordAttention.apply(query, key, value, RecordSpans.from_positions(positions, torch.float32), 0.3)
    found = torch.autograd.grad(own, (query, key, value), upstream)
    alone = [
        functional.scaled_dot_product_attention(*(x.transpose(0, 1) for x in record), is_causal=True, scale=0.3, enable_gqa=True)
        for record in zip(*(x.split(lengths) for x in (query, key, value)), strict=True)
    ]
    expected = torch.cat([record.transpose(0, 1) for record in alone])
    assert torch.allclose(own, expected, atol=1e-5)
    for gradient, wanted in zip(found, torch.autograd.grad(expected, (query, key, value), upstream), strict=True):
        assert torch.allclose(gradient, wanted, atol=1e-4)
