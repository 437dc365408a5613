"""Rotary position embedding that keeps only the angles; with liger-kernel's fused one where it runs.

Source: Su et al. 2021, https://arxiv.org/abs/2104.09864 (the two halves side by side, as in transformers)
"""

from typing import Any

import torch
from torch.autograd import Function

from mistral_lib.kernels import liger


def rotated(query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """query, key: (batch, tokens, heads, size); cos, sin: (batch, tokens, size), equal in both halves."""
    if liger.runs_on(query):
        return liger.rotated(query, key, cos, sin)
    return Rotation.apply(query, cos, sin), Rotation.apply(key, cos, sin)


class Rotation(Function):
    """Rotary position embedding of (batch, tokens, heads, size)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return rotate(dy, cos, -sin), None, None


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x: (batch, tokens, heads, size); cos, sin: (batch, tokens, size), equal in both halves."""
    half = x.shape[-1] // 2
    cos, sin = cos[:, :, None, :half], sin[:, :, None, :half]
    left, right = x[..., :half], x[..., half:]
    turned = torch.empty_like(x)
    torch.mul(left, cos, out=turned[..., :half]).addcmul_(right, sin, value=-1)
    torch.mul(right, cos, out=turned[..., half:]).addcmul_(left, sin)
    return turned
