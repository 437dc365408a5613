"""For CPUs only: attention record by record in packed blocks. `base_model.use_cpu_kernels` installs it.

PyTorch's fused attention on a CPU computes what the mask hides as well, and its backward pass takes six times as long as the
forward pass. So the forward pass calls it for each record by itself, and the backward pass recomputes the attention weights as
plain matrix products, which bfloat16 matrix units run at full speed: one tile of queries at a time, with only the keys that it
may see. Only q, k and v are kept between the two.

Source: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762 ; recomputation: Dao et al. 2022, https://arxiv.org/abs/2205.14135
"""

from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch.autograd import Function
from torch.nn import functional

from mistral_lib.family import layer_classes
from mistral_lib.model.fused_layers import project, replace_forward

KEYS = 32  # the keys of a tile are a multiple of this: the softmax over other numbers of keys takes twice as long
QUERIES = 192  # tokens of a tile: few enough for its scores to stay in a core's cache


def install(model: Any) -> None:
    """Give a model of the Mistral family `packed_forward`, which attends record by record. Its other forward pass stays as it is."""
    for module in model.modules():
        if layer_classes.is_one_of(module, "Attention"):
            replace_forward(module, _attention_forward)
        elif layer_classes.is_one_of(module, "Model"):
            module.packed_forward = MethodType(_packed_forward, module)


def _packed_forward(self: Any, position_ids: torch.Tensor, **inputs: Any) -> Any:
    if position_ids.shape[1] > layer_classes.longest_plain_block(self.config):  # transformers' own mask keeps the records apart
        return self(position_ids=position_ids, **inputs)
    return self(position_ids=position_ids, records=RecordSpans.from_positions(position_ids, self.dtype), **inputs)


def _attention_forward(
    self: Any, hidden_states: torch.Tensor, position_embeddings: Any, attention_mask: Any, records: Any = None, **kwargs: Any
) -> Any:
    if records is None:
        return self.plain_forward(hidden_states, position_embeddings, attention_mask, **kwargs)
    batch, tokens = hidden_states.shape[:2]
    projections = project(hidden_states, self.q_proj, self.k_proj, self.v_proj)
    query, key, value = (x.view(batch, tokens, -1, self.head_dim) for x in projections)
    query, key = Rotation.apply(query, *position_embeddings), Rotation.apply(key, *position_embeddings)
    attended = RecordAttention.apply(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), records, self.scaling)
    return self.o_proj(attended.reshape(batch, tokens, -1)), None


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
            weights = _weights(q[:, mine], k[:, seen], tile)
            d_v[:, seen] += weights.mT @ slope[:, mine]
            d_scores = torch._softmax_backward_data(slope[:, mine] @ v[:, seen].mT, weights, -1, weights.dtype)
            d_k[:, seen] += d_scores.mT @ q[:, mine]
            d_q[:, mine] = d_scores @ k[:, seen]
        return *(_ungrouped(one, like) for one, like in ((d_q.mul_(ctx.scale), query), (d_k, key), (d_v, value))), None, None


def _attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
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


class Rotation(Function):
    """Rotary position embedding of (batch, tokens, heads, size); keeps only the angles.

    Source: Su et al. 2021, https://arxiv.org/abs/2104.09864 (the two halves side by side, as in transformers)
    """

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
