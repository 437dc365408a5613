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

from mistral_lib.model import fused_layers


def can_pair(model: Any) -> bool:
    """Whether every adapted layer is a linear layer with a single plain LoRA adapter; if not, the two need a pass each."""
    layers = list(_adapted(model))
    return bool(layers) and all(_plain(layer) for layer in layers) and not _has_trained_modules(model)


def _adapted(model: Any) -> Iterator[Any]:
    from peft.tuners.lora.layer import LoraLayer

    return (module for module in model.modules() if isinstance(module, LoraLayer))


def _plain(layer: Any) -> bool:
    names = layer.active_adapters
    one = len(names) == 1 and set(layer.lora_A) == set(names) and not len(layer.lora_embedding_A)
    linear = isinstance(layer.base_layer, torch.nn.Linear)  # bitsandbytes' 4-bit layer is a subclass
    return linear and one and not layer.merged and not layer.disable_adapters and names[0] not in layer.lora_variant


def _has_trained_modules(model: Any) -> bool:
    """Whether peft keeps a trained copy of a complete module, such as the head."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    return any(isinstance(module, AuxiliaryTrainingWrapper) for module in model.modules())


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
    weight, bias = fused_layers.weight_of(self.base_layer), self.base_layer.bias
    both = x.to(weight.dtype).flatten(0, -2)  # (2 batch x tokens, in)
    y = torch.empty(len(both), len(weight), dtype=weight.dtype, device=x.device)
    for half, own in zip(both.chunk(2), y.chunk(2), strict=True):
        torch.mm(half, weight.T, out=own)
    if bias is not None:
        y += bias
    a, b = self.lora_A[name].weight, self.lora_B[name].weight * self.scaling[name]
    adapted = both.chunk(2)[1]
    y.chunk(2)[1].addmm_(functional.linear(adapted, a.to(y.dtype)), b.to(y.dtype).T)
    return y.view(*x.shape[:-1], -1)
