"""For GPUs: attention by record with PyTorch's own kernels for rows of different lengths. `packed_attention` chooses between them.

Both get the records one after the other and where each begins. They compute nothing that a mask would hide, and need no mask.

Source: torch.nn.attention.varlen (flash attention, compute capability 8.0 and more); aten::_efficient_attention_forward (5.0 and more)
"""

from dataclasses import dataclass
from typing import Any

import torch

CAUSAL = 1  # aten's custom_mask_type: a query sees the keys up to its own place
TO_THE_LEFT = (-1, 0)  # varlen_attn's window: all keys before the query, none after it


@dataclass(frozen=True)
class RecordStarts:
    """Where the records of a batch of packed blocks begin, row after row: (records + 1,) int32 that ends with the number of tokens."""

    starts: torch.Tensor
    longest: int  # tokens of the longest record

    @classmethod
    def from_positions(cls, position_ids: torch.Tensor, dtype: torch.dtype | None = None) -> "RecordStarts":
        """position_ids: (batch, tokens); a record begins at each position 0. dtype: not used, as there is no mask."""
        rows, tokens = position_ids.shape
        if position_ids.is_meta:  # the fit plan has no data: each block counts as one record
            return cls(torch.empty(rows + 1, dtype=torch.int32, device="meta"), tokens)
        begins = (position_ids.flatten() == 0).nonzero().flatten()
        starts = torch.cat([begins, begins.new_tensor([position_ids.numel()])]).int()
        return cls(starts, int(starts.diff().max()))


def variable_length(query: Any, key: Any, value: Any, records: RecordStarts, scale: float) -> torch.Tensor:
    """Flash attention. query: (tokens, heads, size); key, value: (tokens, fewer heads, size), all sixteen-bit; returns (tokens, heads, size)."""
    query, key = query.to(value.dtype), key.to(value.dtype)
    return _flash(
        query, key, value, records.starts, records.starts, records.longest, records.longest,
        scale=scale, window_size=TO_THE_LEFT, enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip


def _flash(*arguments: Any, **options: Any) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn(*arguments, **options)


def memory_efficient(query: Any, key: Any, value: Any, records: RecordStarts, scale: float) -> torch.Tensor:
    """The same by the memory-efficient kernel, which knows no heads that share keys: keys and values are repeated for them."""
    shared = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(shared, 1) if shared > 1 else x for x in (key, value))
    query, key = query.to(value.dtype), key.to(value.dtype)
    return MemoryEfficient.apply(query[None], key[None], value[None], records.starts, records.longest, scale)[0]


class MemoryEfficient(torch.autograd.Function):
    """aten's kernel with its backward pass. query, key, value: (1, tokens, heads, size)."""

    @staticmethod
    def forward(ctx: Any, query: Any, key: Any, value: Any, starts: torch.Tensor, longest: int, scale: float) -> torch.Tensor:
        out, sums, seed, offset, *_ = _efficient(
            query, key, value, None, starts, starts, longest, longest, 0.0, CAUSAL, True, scale=scale
        )  # fmt: skip
        ctx.save_for_backward(query, key, value, starts, out, sums, seed, offset)
        ctx.longest, ctx.scale = longest, scale
        return out

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, starts, out, sums, seed, offset = ctx.saved_tensors
        slopes = _efficient_backward(
            upstream.to(out.dtype).contiguous(), query, key, value, None, out, starts, starts, ctx.longest, ctx.longest, sums, 0.0,
            seed, offset, CAUSAL, False, scale=ctx.scale,
        )  # fmt: skip
        return *slopes[:3], None, None, None


def _efficient(*arguments: Any, **options: Any) -> tuple[Any, ...]:
    return torch.ops.aten._efficient_attention_forward(*arguments, **options)


def _efficient_backward(*arguments: Any, **options: Any) -> tuple[Any, ...]:
    return torch.ops.aten._efficient_attention_backward(*arguments, **options)
