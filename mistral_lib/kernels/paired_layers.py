"""Base model and adapter in one forward pass: without the adapter for the first half of a batch, with it for the second half.

Both halves are the same tokens, so each weight is read, and each 4-bit weight unpacked, once for the two. The halves are
multiplied separately, each in its own shape, so an adapter that adds zero gives exactly the base model's numbers.
For measuring only: no gradients.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch.nn import functional

from mistral_lib.kernels import fused_layers


def can_pair(model: Any) -> bool:
    """Whether plain LoRA adapters of linear layers are all that was trained, and no copy of the head; if not, each needs its own pass."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    layers = list(_adapted(model))
    copies = any(isinstance(module, AuxiliaryTrainingWrapper) for module in model.modules())
    return bool(layers) and all(map(fused_layers.has_plain_adapter, layers)) and not copies


def _adapted(model: Any) -> Iterator[Any]:
    from peft.tuners.lora.layer import LoraLayer

    return (module for module in model.modules() if isinstance(module, LoraLayer))


@contextmanager
def paired(model: Any) -> Iterator[None]:
    """Within this context, the adapter is off for the first half of every batch and on for the second half."""
    layers = list(_adapted(model))
    before = [layer.forward for layer in layers]
    for layer in layers:
        layer.forward = MethodType(_paired_forward, layer)
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            layer.forward = forward


def _paired_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    """x: (2 batch, tokens, in), base before adapter; returns (2 batch, tokens, out)."""
    name = self.active_adapters[0]
    base, bias = self.base_layer, self.base_layer.bias
    both = x.to(fused_layers.compute_type(base)).flatten(0, -2)  # (2 batch x tokens, in)
    y = _products(both, base)
    if bias is not None:
        y += bias
    a, b = self.lora_A[name].weight, self.lora_B[name].weight * self.scaling[name]
    adapted = both.chunk(2)[1]
    y.chunk(2)[1].addmm_(functional.linear(adapted, a.to(y.dtype)), b.to(y.dtype).T)
    return y.view(*x.shape[:-1], -1)


def _products(both: torch.Tensor, linear: Any) -> torch.Tensor:
    """x Wᵀ for each half of the rows by itself."""
    if len(both) <= 2 * fused_layers.FEW_ROWS:
        return torch.cat([fused_layers.product(half, linear) for half in both.chunk(2)])
    weight = fused_layers.weight_of(linear)
    y = torch.empty(len(both), len(weight), dtype=weight.dtype, device=both.device)
    for half, own in zip(both.chunk(2), y.chunk(2), strict=True):
        torch.mm(half, weight.T, out=own)
    return y
