"""What the kernels of a GPU return, computed on a CPU record by record, with the kernels' own arguments."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers.models.mistral.modeling_mistral import apply_rotary_pos_emb


def varlen_attn(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, cu_seq_q: torch.Tensor, cu_seq_k: torch.Tensor, max_q: int, max_k: int,
    *, scale: float, window_size: tuple[int, int], enable_gqa: bool,
) -> torch.Tensor:  # fmt: skip
    """torch.nn.attention.varlen.varlen_attn of torch 2.13."""
    assert window_size == (-1, 0) and (enable_gqa or query.shape[1] == key.shape[1])
    assert query.dtype == key.dtype == value.dtype and cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    assert max_q == max_k == int(cu_seq_q.diff().max()) and int(cu_seq_q[-1]) == len(query)
    lengths = cu_seq_q.diff().tolist()
    parts = zip(*(x.split(lengths) for x in (query, key, value)), strict=True)
    return torch.cat([_causal(*part, scale) for part in parts])


def _causal(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    heads_first = (x.transpose(0, 1) for x in (query, key, value))
    return functional.scaled_dot_product_attention(*heads_first, is_causal=True, scale=scale, enable_gqa=True).transpose(0, 1)


def efficient(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: None, starts: torch.Tensor, key_starts: torch.Tensor,
    longest: int, longest_key: int, dropout: float, mask_type: int, with_sums: bool, *, scale: float,
) -> tuple[Any, ...]:  # fmt: skip
    """aten::_efficient_attention_forward: (1, tokens, heads, size), the same number of heads in all three."""
    assert query.shape == key.shape == value.shape and (bias, dropout, mask_type, with_sums) == (None, 0.0, 1, True)
    out = varlen_attn(
        query[0], key[0], value[0], starts, key_starts, longest, longest_key, scale=scale, window_size=(-1, 0), enable_gqa=False
    )
    return out[None], torch.empty(0), torch.empty(()), torch.empty(()), longest, longest_key


def efficient_backward(
    slope: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: None, out: torch.Tensor, starts: torch.Tensor,
    key_starts: torch.Tensor, longest: int, longest_key: int, sums: torch.Tensor, dropout: float, seed: Any, offset: Any, mask_type: int,
    bias_requires_grad: bool, *, scale: float,
) -> tuple[Any, ...]:  # fmt: skip
    """aten::_efficient_attention_backward."""
    inputs = [x.detach().requires_grad_() for x in (query, key, value)]
    with torch.enable_grad():
        again = efficient(*inputs, bias, starts, key_starts, longest, longest_key, dropout, mask_type, True, scale=scale)[0]
    assert torch.equal(again, out) and slope.shape == out.shape and not bias_requires_grad
    return *torch.autograd.grad(again, inputs, slope), None


def put_liger_in_place(patch: pytest.MonkeyPatch, used: list[str]) -> None:
    """`liger_kernel.ops` with the three functions of liger-kernel 0.8.5 that are used, as plain PyTorch; `used` gets a name for each call."""

    def norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float, offset: float, casting: str, in_place: bool) -> torch.Tensor:
        assert (offset, casting, in_place) == (0.0, "llama", False)
        used.append("norm")
        return weight * (x.float() * (x.float().square().mean(-1, keepdim=True) + epsilon).rsqrt()).to(x.dtype)

    def gate(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        used.append("gate")
        return functional.silu(a) * b

    def rope(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        assert q.shape[0] == k.shape[0] == cos.shape[0] and q.shape[2:] == k.shape[2:] == cos.shape[1:], "(batch, heads, tokens, size)"
        used.append("rope")
        return apply_rotary_pos_emb(q, k, cos, sin)

    names = {"LigerRMSNormFunction": norm, "LigerSiLUMulFunction": gate, "LigerRopeFunction": rope}
    ops = SimpleNamespace(**{name: SimpleNamespace(apply=function) for name, function in names.items()})
    patch.setitem(sys.modules, "liger_kernel", SimpleNamespace(ops=ops))
    patch.setitem(sys.modules, "liger_kernel.ops", ops)
