"""The layers of a training step with fewer passes over memory: LoRA projections, norms, gated MLP, attention record by record.

On a processor that multiplies bfloat16 matrices fast, a step's time goes into everything else: casts to float32 and back,
activations written and read again, attention between records that may not attend to each other. Each function here gives
what the plain layer gives, to rounding, and keeps less of it for the way back. Knows a model's layers; knows nothing of runs.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch.autograd import Function
from torch.nn import functional


def install(model: Any) -> Any:
    """Give every layer that has a leaner form that form, in place; a layer of another kind stays as it is. Returns the model."""
    from peft.tuners.lora.layer import LoraLayer
    from transformers.models.mistral.modeling_mistral import MistralAttention, MistralMLP, MistralModel, MistralRMSNorm

    for module in model.modules():
        if isinstance(module, LoraLayer):
            _replace(module, _lora_forward)
        elif isinstance(module, MistralRMSNorm):
            _replace(module, _norm_forward)
        elif isinstance(module, MistralMLP) and module.config.hidden_act == "silu":
            _replace(module, _mlp_forward)
        elif isinstance(module, MistralAttention):
            _replace(module, _attention_forward)
        elif isinstance(module, MistralModel):
            module.attends_by_record = True
    return model


def _replace(module: Any, forward: Callable) -> None:
    if not hasattr(module, "plain_forward"):  # once is enough
        module.plain_forward = module.forward
        module.forward = MethodType(forward, module)


# -- LoRA projections -------------------------------------------------------------------------------------------------


def weight_of(linear: Any) -> torch.Tensor:
    """The weight (out, in) of a plain or 4-bit linear layer in its compute type; a 4-bit one is unpacked anew at each call."""
    quantised = getattr(linear.weight, "quant_state", None)
    if quantised is None:
        return linear.weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(linear.weight.data, quantised)


class LoraProjection(Function):
    """y = x Wᵀ + scale · (x Aᵀ) Bᵀ with W frozen, all products in W's type; A and B, and their gradients, stay float32.

    Keeps x and x Aᵀ (tokens, rank) for the way back.   Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, linear: Any, scale: float) -> torch.Tensor:
        weight = weight_of(linear)
        flat = x.reshape(-1, x.shape[-1]).to(weight.dtype)  # (tokens, in)
        low = flat @ a.to(flat.dtype).T  # (tokens, rank)
        y = (flat @ weight.T).addmm_(low, (b * scale).to(flat.dtype).T)
        if linear.bias is not None:
            y += linear.bias
        ctx.linear, ctx.scale, ctx.dtype = linear, scale, x.dtype
        ctx.save_for_backward(flat, low, a, b)
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, low, a, b = ctx.saved_tensors
        grad = dy.reshape(-1, dy.shape[-1]).to(flat.dtype)
        d_low = grad @ (b * ctx.scale).to(flat.dtype)  # (tokens, rank)
        d_a = (d_low.T @ flat).to(a.dtype)
        d_b = (grad.T @ low).to(b.dtype).mul_(ctx.scale)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = (grad @ weight_of(ctx.linear)).addmm_(d_low, a.to(flat.dtype)).view(*dy.shape[:-1], -1).to(ctx.dtype)
        return d_x, d_a, d_b, None, None


def _lora_forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    name = self.active_adapters[0] if len(self.active_adapters) == 1 else None
    plain = self.disable_adapters or self.merged or args or kwargs or name not in self.lora_A or name in self.lora_variant
    if plain or (self.training and not isinstance(self.lora_dropout[name], torch.nn.Identity)):
        return self.plain_forward(x, *args, **kwargs)
    return LoraProjection.apply(x, self.lora_A[name].weight, self.lora_B[name].weight, self.base_layer, self.scaling[name])


# -- norm and gated MLP -----------------------------------------------------------------------------------------------


class RootMeanSquareNorm(Function):
    """w · x / rms(x) over the last dimension, computed in float32; keeps x and 1/rms.

    Source: Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        wide = x.float()
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, scale, weight)
        return (wide * scale).to(x.dtype) * weight

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, scale, weight = ctx.saved_tensors
        wide = x.float()
        grad = (dy * weight).float()
        share = (grad * wide).sum(-1, keepdim=True).mul_(scale.square()).div_(x.shape[-1])
        return grad.addcmul_(wide, share, value=-1).mul_(scale).to(x.dtype), None, None


def _norm_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    if self.weight.requires_grad:
        return self.plain_forward(x)
    return RootMeanSquareNorm.apply(x, self.weight, self.variance_epsilon)


class GatedUnit(Function):
    """silu(gate) · up; keeps the two inputs only.   Source: Shazeer 2020, https://arxiv.org/abs/2002.05202"""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up = ctx.saved_tensors
        d_up = functional.silu(gate).mul_(dy)
        return torch.ops.aten.silu_backward(dy * up, gate), d_up


def _mlp_forward(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.down_proj(GatedUnit.apply(self.gate_proj(x), self.up_proj(x)))


# -- attention --------------------------------------------------------------------------------------------------------


class Rotation(Function):
    """Rotary position embedding of (batch, tokens, heads, size); keeps only the angles.

    Source: Su et al. 2021, https://arxiv.org/abs/2104.09864 (halves side by side, as transformers has it)
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
    """cos, sin: (batch, tokens, size), equal in both halves."""
    half = x.shape[-1] // 2
    cos, sin = cos[:, :, None, :half], sin[:, :, None, :half]
    left, right = x[..., :half], x[..., half:]
    turned = torch.empty_like(x)
    torch.mul(left, cos, out=turned[..., :half]).addcmul_(right, sin, value=-1)
    torch.mul(right, cos, out=turned[..., half:]).addcmul_(left, sin)
    return turned


def attention_options(model: Any, position_ids: torch.Tensor) -> dict[str, list[int]]:
    """What the model's forward wants besides, to attend record by record: on a CPU, where a mask would only be multiplied through.
    On a GPU one masked kernel for the whole block is kept: records one by one have not been measured there."""
    lean = position_ids.device.type == "cpu" and getattr(model, "attends_by_record", False)
    return {"record_lengths": lengths_of(position_ids)} if lean else {}


def lengths_of(position_ids: torch.Tensor) -> list[int]:
    """The lengths of the records in a batch of packed blocks, row after row: a record begins wherever the position is 0."""
    starts = (position_ids.flatten() == 0).nonzero().flatten().tolist()
    return [end - start for start, end in zip(starts, [*starts[1:], position_ids.numel()], strict=True)]


def _attention_forward(
    self: Any, hidden_states: torch.Tensor, position_embeddings: Any, attention_mask: Any, record_lengths: Any = None, **kwargs: Any
) -> Any:
    if record_lengths is None:
        return self.plain_forward(hidden_states, position_embeddings, attention_mask, **kwargs)
    batch, tokens = hidden_states.shape[:2]
    query, key, value = (
        project(hidden_states).view(batch, tokens, -1, self.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj)
    )
    query, key = Rotation.apply(query, *position_embeddings), Rotation.apply(key, *position_embeddings)
    attended = by_record(query, key, value, record_lengths, self.scaling)
    return self.o_proj(attended.reshape(batch, tokens, -1)), None


def by_record(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int], scale: float) -> torch.Tensor:
    """Causal attention within each record of (batch, tokens, heads, size); returns (batch x tokens, heads, size)."""
    records = zip(*(x.flatten(0, 1).split(lengths) for x in (query, key, value)), strict=True)
    attended = [
        functional.scaled_dot_product_attention(
            *(x.transpose(0, 1)[None] for x in record), is_causal=True, scale=scale, enable_gqa=query.shape[2] != key.shape[2]
        )[0].transpose(0, 1)
        for record in records
    ]
    return torch.cat(attended)
