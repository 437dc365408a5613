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

QUERIES = 64  # tokens of a tile: few enough for its scores to stay in a core's cache


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
        begins = (position_ids.flatten() == 0).nonzero().flatten()
        lengths = begins.diff(append=begins.new_tensor([position_ids.numel()]))
        own = begins.repeat_interleave(lengths)  # where the record of each token begins
        return cls(lengths.tolist(), [_tile(own, start, dtype) for start in range(0, len(own), QUERIES)])


def _tile(own: torch.Tensor, start: int, dtype: torch.dtype) -> Tile:
    end = min(start + QUERIES, len(own))
    first, last = int(own[start]), int(own[end - 1])
    masked = start if first == last else first  # in one record, all queries see all that stands before the tile
    queries, keys = torch.arange(start, end)[:, None], torch.arange(masked, end)
    hidden = (keys > queries) | (keys < own[start:end, None])
    return Tile(start, end, first, masked, torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf))


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
        d_query, d_key, d_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for tile in ctx.tiles:
            k, v = _seen(key, tile), _seen(value, tile)
            q, slope = _grouped(query, tile, len(k)) * ctx.scale, _grouped(upstream, tile, len(k))
            shares = _shares(q, k, tile)
            d_value[tile.first : tile.end] += (shares.mT @ slope).transpose(0, 1)
            d_scores = torch._softmax_backward_data(slope @ v.mT, shares, -1, shares.dtype)
            d_key[tile.first : tile.end] += (d_scores.mT @ q).transpose(0, 1)
            _write(d_query, tile, (d_scores @ k).mul_(ctx.scale))
        return d_query, d_key, d_value, None, None


def _attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """One record by itself."""
    heads_first = (x.transpose(0, 1)[None] for x in (query, key, value))
    shared = query.shape[1] != key.shape[1]
    return functional.scaled_dot_product_attention(*heads_first, is_causal=True, scale=scale, enable_gqa=shared)[0].transpose(0, 1)


def _seen(x: torch.Tensor, tile: Tile) -> torch.Tensor:
    """The tile's keys or values: (tokens, heads, size) → (heads, keys, size)."""
    return x[tile.first : tile.end].transpose(0, 1).contiguous()


def _grouped(x: torch.Tensor, tile: Tile, groups: int) -> torch.Tensor:
    """The tile of (tokens, heads, size) as (groups, heads of a group x queries, size), so that a group's heads are one product."""
    part = x[tile.start : tile.end].unflatten(1, (groups, -1))
    return part.permute(1, 2, 0, 3).reshape(groups, -1, x.shape[-1])


def _write(x: torch.Tensor, tile: Tile, grouped: torch.Tensor) -> None:
    """The opposite of `_grouped`."""
    part = x[tile.start : tile.end].unflatten(1, (len(grouped), -1))
    part.copy_(grouped.unflatten(1, (-1, tile.end - tile.start)).permute(2, 0, 1, 3))


def _shares(queries: torch.Tensor, k: torch.Tensor, tile: Tile) -> torch.Tensor:
    """How much each query takes from each key: (groups, heads of a group x queries, keys)."""
    scores = queries @ k.mT
    scores.unflatten(1, (-1, tile.end - tile.start))[..., tile.masked - tile.first :] += tile.mask
    return scores.softmax(-1)
