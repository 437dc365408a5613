"""For CPUs: attention record by record in packed blocks. `packed_attention` chooses and installs it.

PyTorch's fused attention on a CPU computes what the mask hides as well, and its backward pass takes six times as long as the
forward pass. So the forward pass calls it for each record by itself, and the backward pass recomputes the attention weights as
plain matrix products, which bfloat16 matrix units run at full speed: one tile of queries at a time, with only the keys that it
may see. Only q, k and v are kept between the two.

Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762 ; recomputation: Dao et al. 2022, https://arxiv.org/abs/2205.14135
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import Function
from torch.nn import functional

KEYS = 32  # the keys of a tile are a multiple of this: the softmax over other numbers of keys takes twice as long
QUERIES = 192  # tokens of a tile: few enough for its scores to stay in a core's cache


@dataclass(frozen=True)
class Tile:
    """Queries [start, end) of the flattened batch, and the keys [first, end) that they see, except those that `mask` hides."""

    start: int
    end: int
    first: int
    masked: int  # the first key that is hidden from one of the queries
    mask: torch.Tensor  # (queries, keys from `masked`): 0 or -inf


@dataclass(frozen=True)
class RecordSpans:
    """Where the records of a batch of packed blocks are, row after row: their lengths, and the tiles of their queries."""

    lengths: list[int]
    tiles: list[Tile]

    @classmethod
    def from_positions(cls, position_ids: torch.Tensor, dtype: torch.dtype) -> "RecordSpans":
        """position_ids: (batch, tokens); a record begins at each position 0. dtype: of the scores."""
        device = position_ids.device
        if position_ids.is_meta:  # the fit plan has no data: each block counts as one record
            position_ids = torch.arange(position_ids.shape[1], device="cpu").expand(position_ids.shape)
        begins = (position_ids.flatten() == 0).nonzero().flatten()
        lengths = begins.diff(append=begins.new_tensor([position_ids.numel()]))
        own = begins.repeat_interleave(lengths)  # (tokens,): the first token of each token's record
        return cls(lengths.tolist(), [_tile(own, start, dtype, device) for start in range(0, len(own), QUERIES)])


def _tile(own: torch.Tensor, start: int, dtype: torch.dtype, device: torch.device) -> Tile:
    end = min(start + QUERIES, len(own))
    begins, last = int(own[start]), int(own[end - 1])
    first = begins // KEYS * KEYS
    masked = start if first == last else first  # within one record, all queries see every key before the tile
    queries, keys = torch.arange(start, end)[:, None], torch.arange(masked, end)
    hidden = (keys > queries) | (keys < own[start:end, None])
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)
    return Tile(start, end, first, masked, mask.to(device))


class RecordAttention(Function):
    """softmax(scale · q kᵀ) v within each record; several heads of q may share one of k and v.

    query: (tokens, heads, size); key, value: (tokens, fewer heads, size); returns (tokens, heads, size).
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, records: RecordSpans, scale: float) -> torch.Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.tiles, ctx.scale = records.tiles, scale
        parts = zip(*(x.split(records.lengths) for x in (query, key, value)), strict=True)
        return torch.cat([attended(*part, scale) for part in parts])

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        groups, shared = key.shape[1], query.shape[1] // key.shape[1]
        q, slope = _grouped(query, groups) * ctx.scale, _grouped(upstream, groups)
        k, v = _grouped(key, groups), _grouped(value, groups)
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for tile in ctx.tiles:
            mine, seen = slice(tile.start * shared, tile.end * shared), slice(tile.first, tile.end)
            weights = _weights(q[:, mine], k[:, seen], tile)
            d_v[:, seen] += weights.mT @ slope[:, mine]
            d_scores = torch._softmax_backward_data(slope[:, mine] @ v[:, seen].mT, weights, -1, weights.dtype)
            d_k[:, seen] += d_scores.mT @ q[:, mine]
            d_q[:, mine] = d_scores @ k[:, seen]
        return *(_ungrouped(one, like) for one, like in ((d_q.mul_(ctx.scale), query), (d_k, key), (d_v, value))), None, None


def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Attention within one record: (tokens, heads, size)."""
    heads_first = (x.transpose(0, 1)[None] for x in (query, key, value))
    shared = query.shape[1] != key.shape[1]
    return functional.scaled_dot_product_attention(*heads_first, is_causal=True, scale=scale, enable_gqa=shared)[0].transpose(0, 1)


def _grouped(x: torch.Tensor, groups: int) -> torch.Tensor:
    """(tokens, heads, size) as (groups, tokens x heads of a group, size): the heads that share keys are rows of one product."""
    return x.unflatten(1, (groups, -1)).transpose(0, 1).reshape(groups, -1, x.shape[-1])


def _ungrouped(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The inverse of `_grouped`; `like` has the shape of the result."""
    return x.unflatten(1, (len(like), -1)).transpose(0, 1).reshape(like.shape)


def _weights(queries: torch.Tensor, keys: torch.Tensor, tile: Tile) -> torch.Tensor:
    """The attention weights: (groups, queries x heads of a group, keys)."""
    scores = queries @ keys.mT
    scores.unflatten(1, (tile.end - tile.start, -1))[..., tile.masked - tile.first :] += tile.mask[:, None]
    return scores.softmax(-1)
