"""The layers of a training step with fewer passes over memory, for every device: LoRA projections, norms, gated MLP.

On a processor that multiplies bfloat16 matrices fast, a step's time goes into everything else: casts to float32 and back,
activations written and read again. Each function here returns what the plain layer returns, to rounding, and keeps less of it
for the backward pass. Knows a model's layers; knows nothing of runs.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch.autograd import Function
from torch.nn import functional

from mistral_lib.family import layer_classes
from mistral_lib.kernels import liger
from mistral_lib.run import system_memory

FEW_ROWS = 64  # tokens up to which bitsandbytes' own 4-bit product is faster than unpacking the weight: generation, not training


def install(model: Any) -> None:
    """Replace the forward pass of every layer that has a fused one, in place."""
    from peft.tuners.lora.layer import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            replace_forward(module, _lora_forward)
        elif layer_classes.is_one_of(module, "RMSNorm"):
            replace_forward(module, _norm_forward)
        elif layer_classes.is_one_of(module, "MLP") and module.config.hidden_act == "silu":
            replace_forward(module, _mlp_forward)


def replace_forward(module: Any, forward: Callable) -> None:
    """Give a module another forward pass; its own stays as `plain_forward`."""
    if not hasattr(module, "plain_forward"):  # once is enough
        module.plain_forward = module.forward
        module.forward = MethodType(forward, module)


# -- LoRA projections -------------------------------------------------------------------------------------------------


def weight_of(linear: Any) -> torch.Tensor:
    """The weight (out, in) of a plain or 4-bit linear layer in its compute type; a 4-bit one is unpacked at each call."""
    quantized = getattr(linear.weight, "quant_state", None)
    if quantized is None:
        return linear.weight
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(linear.weight.data, quantized)


def compute_type(linear: Any) -> torch.dtype:
    """The type that `weight_of` returns."""
    return getattr(linear.weight, "quant_state", linear.weight).dtype


def product(x: torch.Tensor, linear: Any) -> torch.Tensor:
    """x Wᵀ without bias and without gradients. x: (rows, in) in the layer's compute type; a 4-bit weight is unpacked only for many rows."""
    quantized = getattr(linear.weight, "quant_state", None)
    if quantized is None or len(x) > FEW_ROWS:
        return x @ weight_of(linear).T
    import bitsandbytes as bnb

    return bnb.matmul_4bit(x, linear.weight.data, quantized)


def unpack(model: Any) -> bool:
    """Replace every 4-bit linear layer by a plain one with the same weights, in place, so that generating does not unpack all of them for
    each token. For inference on a CPU. Returns False, and changes nothing, if that takes more than half of the memory that is left."""
    linears = ((name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    packed = {name: linear for name, linear in linears if getattr(linear.weight, "quant_state", None)}
    needed = sum(linear.in_features * linear.out_features * linear.weight.quant_state.dtype.itemsize for linear in packed.values())
    if needed > system_memory.left_bytes() / 2:
        return False
    for name, linear in packed.items():
        plain = torch.nn.Linear(linear.in_features, linear.out_features, bias=False, device="meta")
        plain.weight, plain.bias = torch.nn.Parameter(weight_of(linear), requires_grad=False), linear.bias
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, plain)
    return True


class LoraProjections(Function):
    """y = x Wᵀ + scale · (x Aᵀ) Bᵀ for every projection of the same x. W is frozen, and all products are in its type; A, B and their
    gradients are float32. The products add up the gradient of x.

    Keeps x, x Aᵀ (tokens, ranks), and A and B in the products' type for the backward pass.   Source: Hu et al. 2021, https://arxiv.org/abs/2106.09685
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, linears: list[Any], scales: list[float], *ab: torch.Tensor) -> tuple[torch.Tensor, ...]:
        all_a, all_b = ab[::2], ab[1::2]
        flat = x.reshape(-1, x.shape[-1]).to(compute_type(linears[0]))  # (tokens, in)
        down = torch.cat(all_a).to(flat.dtype)  # (ranks, in)
        ups = [(b * scale).to(flat.dtype) for b, scale in zip(all_b, scales, strict=True)]  # each (out, rank)
        low = flat @ down.T  # (tokens, ranks)
        results = []
        for linear, up, own in zip(linears, ups, low.split([up.shape[1] for up in ups], 1), strict=True):
            y = product(flat, linear).addmm_(own, up.T)
            results.append((y if linear.bias is None else y.add_(linear.bias)).view(*x.shape[:-1], -1))
        ctx.linears, ctx.scales, ctx.dtype = linears, scales, x.dtype
        ctx.save_for_backward(flat, low, down, *ups)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, low, down, *ups = ctx.saved_tensors
        ranks = [up.shape[1] for up in ups]
        grads = [dy.reshape(-1, dy.shape[-1]).to(flat.dtype) for dy in upstream]
        d_low = torch.cat([dy @ up for dy, up in zip(grads, ups, strict=True)], 1)
        all_da = (d_low.T @ flat).float().split(ranks)
        lows = low.split(ranks, 1)
        all_db = [(own.T @ dy).T.float().mul_(scale) for dy, own, scale in zip(grads, lows, ctx.scales, strict=True)]
        d_x = None
        if ctx.needs_input_grad[0]:
            d_x = d_low @ down
            for dy, linear in zip(grads, ctx.linears, strict=True):
                d_x.addmm_(dy, weight_of(linear))
            d_x = d_x.view(*upstream[0].shape[:-1], -1).to(ctx.dtype)
        return d_x, None, None, *(gradient for pair in zip(all_da, all_db, strict=True) for gradient in pair)


def project(x: torch.Tensor, *modules: Any) -> tuple[torch.Tensor, ...]:
    """The output of each projection of the same x, computed together if all of them can be fused."""
    if not all(_is_fused(module) for module in modules):
        return tuple(module(x) for module in modules)
    names = [module.active_adapters[0] for module in modules]
    pairs = [(module.lora_A[name].weight, module.lora_B[name].weight) for module, name in zip(modules, names, strict=True)]
    scales = [module.scaling[name] for module, name in zip(modules, names, strict=True)]
    return LoraProjections.apply(x, [module.base_layer for module in modules], scales, *(one for pair in pairs for one in pair))


def _is_fused(module: Any) -> bool:
    """Whether a layer is a frozen projection with one plain, active adapter, and uses the fused forward pass."""
    if getattr(module.forward, "__func__", None) is not _lora_forward:
        return False  # not adapted, or with another forward pass, such as that of paired_layers
    if module._forward_pre_hooks or module._forward_hooks:
        return False  # peft uses hooks for a batch of several adapters
    if not has_plain_adapter(module):
        return False
    return not module.training or isinstance(module.lora_dropout[module.active_adapters[0]], torch.nn.Identity)


def has_plain_adapter(layer: Any) -> bool:
    """Whether a layer is linear (4-bit ones are) with a single active adapter, which is a plain LoRA and not merged."""
    names = layer.active_adapters
    active = len(names) == 1 and not layer.disable_adapters and not layer.merged
    return active and isinstance(layer.base_layer, torch.nn.Linear) and names[0] in layer.lora_A and names[0] not in layer.lora_variant


def _lora_forward(self: Any, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if args or kwargs or not _is_fused(self):
        return self.plain_forward(x, *args, **kwargs)
    return project(x, self)[0]


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
    norm = liger.norm if liger.runs_on(x) else RootMeanSquareNorm.apply
    return norm(x, self.weight, self.variance_epsilon)


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
    gated = liger.gated if liger.runs_on(x) else GatedUnit.apply
    return self.down_proj(gated(*project(x, self.gate_proj, self.up_proj)))
