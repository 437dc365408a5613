"""Attention between the tokens of a record and no others, for packed blocks on a CPU.

Forward, PyTorch's fused attention runs over each record. Backward it takes six times as long as forward, so there the shares
are made again as plain matrix products, which bfloat16 matrix units do at full speed: a tile of queries at a time, each with
just the keys that it may see. Nothing but q, k and v is kept.

Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762 ; shares made again: Dao et al. 2022, https://arxiv.org/abs/2205.14135
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import Function
from torch.nn import functional

KEYS = 32  # a softmax over a multiple of so many takes half of the time that others take
QUERIES = 192  # tokens of a tile: few enough for its scores to stay in a core's cache


@dataclass(frozen=True)
class Tile:
    """Queries [start, end) of the flattened batch, and the keys [first, end) that they see, all but those that `mask` hides."""

    start: int
    end: int
    first: int
    masked: int  # the first key that is hidden from any of the queries
    mask: torch.Tensor  # (queries, keys from `masked`): 0 or -inf


@dataclass(frozen=True)
class Records:
    """The records of a batch of packed blocks, row after row: their lengths, and the tiles that their queries fall into."""

    lengths: list[int]
    tiles: list[Tile]

    @classmethod
    def of(cls, position_ids: torch.Tensor, dtype: torch.dtype) -> "Records":
        """position_ids: (batch, tokens); a record begins wherever the position is 0. dtype: of the scores."""
        device = position_ids.device
        if position_ids.is_meta:  # a plan's: there are no data, so each block is taken for one record
            position_ids = torch.arange(position_ids.shape[1], device="cpu").expand(position_ids.shape)
        begins = (position_ids.flatten() == 0).nonzero().flatten()
        lengths = begins.diff(append=begins.new_tensor([position_ids.numel()]))
        own = begins.repeat_interleave(lengths)  # where the record of each token begins
        return cls(lengths.tolist(), [_tile(own, start, dtype, device) for start in range(0, len(own), QUERIES)])


def _tile(own: torch.Tensor, start: int, dtype: torch.dtype, device: torch.device) -> Tile:
    end = min(start + QUERIES, len(own))
    begins, last = int(own[start]), int(own[end - 1])
    first = begins // KEYS * KEYS
    masked = start if first == last else first  # in one record, all queries see all that stands before the tile
    queries, keys = torch.arange(start, end)[:, None], torch.arange(masked, end)
    hidden = (keys > queries) | (keys < own[start:end, None])
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)
    return Tile(start, end, first, masked, mask.to(device))


class RecordAttention(Function):
    """softmax(scale · q kᵀ) v within each record; several heads of q may share one of k and v.

    query: (tokens, heads, size); key, value: (tokens, fewer heads, size); returns (tokens, heads, size).
    """

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, records: Records, scale: float) -> torch.Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.tiles, ctx.scale = records.tiles, scale
        parts = zip(*(x.split(records.lengths) for x in (query, key, value)), strict=True)
        return torch.cat([_attended(*part, scale) for part in parts])

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        groups, shared = key.shape[1], query.shape[1] // key.shape[1]
        q, slope = _grouped(query, groups) * ctx.scale, _grouped(upstream, groups)
        k, v = _grouped(key, groups), _grouped(value, groups)
        d_q, d_k, d_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for tile in ctx.tiles:
            mine, seen = slice(tile.start * shared, tile.end * shared), slice(tile.first, tile.end)
            shares = _shares(q[:, mine], k[:, seen], tile)
            d_v[:, seen] += shares.mT @ slope[:, mine]
            d_scores = torch._softmax_backward_data(slope[:, mine] @ v[:, seen].mT, shares, -1, shares.dtype)
            d_k[:, seen] += d_scores.mT @ q[:, mine]
            d_q[:, mine] = d_scores @ k[:, seen]
        return *(_ungrouped(one, like) for one, like in ((d_q.mul_(ctx.scale), query), (d_k, key), (d_v, value))), None, None


def _attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """One record by itself."""
    heads_first = (x.transpose(0, 1)[None] for x in (query, key, value))
    shared = query.shape[1] != key.shape[1]
    return functional.scaled_dot_product_attention(*heads_first, is_causal=True, scale=scale, enable_gqa=shared)[0].transpose(0, 1)


def _grouped(x: torch.Tensor, groups: int) -> torch.Tensor:
    """(tokens, heads, size) as (groups, tokens x heads of a group, size): the heads that share keys are rows of one product."""
    return x.unflatten(1, (groups, -1)).transpose(0, 1).reshape(groups, -1, x.shape[-1])


def _ungrouped(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """The opposite."""
    return x.unflatten(1, (len(like), -1)).transpose(0, 1).reshape(like.shape)


def _shares(queries: torch.Tensor, keys: torch.Tensor, tile: Tile) -> torch.Tensor:
    """How much each query takes from each key: (groups, queries x heads of a group, keys)."""
    scores = queries @ keys.mT
    scores.unflatten(1, (tile.end - tile.start, -1))[..., tile.masked - tile.first :] += tile.mask[:, None]
    return scores.softmax(-1)
