"""Do the kernels return what they should? 4-bit products, attention by record, losses and gradients against float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from mistral_lib.kernels import fused_layers, installation, packed_attention
from mistral_lib.model import base_model, likelihood
from mistral_lib.run import hardware
from tests.gpu.bench import Bench, adapted, packed_batch, separate

NF4_ERROR = 0.15  # of a normal weight, relative: 4-bit NormalFloat in blocks of 64 has about 0.09
MATH = "aten::_scaled_dot_product_attention_math"


def four_bit_products(bench: Bench) -> dict[str, Any]:
    """Do bitsandbytes' 4-bit weights come back, and is its product for a few rows that of the unpacked weight?"""
    import bitsandbytes as bnb
    from bitsandbytes import functional

    torch.manual_seed(0)
    dtype = getattr(torch, hardware.choose_dtype()[0])
    linear = bnb.nn.Linear4bit(512, 768, bias=False, compute_dtype=dtype, quant_type="nf4")
    weight = torch.randn(768, 512, dtype=dtype)
    linear.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
    linear = linear.to(bench.device)
    back = functional.dequantize_4bit(linear.weight.data, linear.weight.quant_state)
    error = ((back.cpu().float() - weight.float()).norm() / weight.float().norm()).item()
    assert error < NF4_ERROR, f"the weights come back with an error of {error:.3f}, expected below {NF4_ERROR}"
    figures = {"error of the weights": error}
    for rows in (1, 2, 64, 65):
        x = torch.randn(rows, 512, dtype=dtype, device=bench.device)
        expected = x.float() @ back.float().T
        off = ((fused_layers.product(x, linear).float() - expected).norm() / expected.norm()).item()
        assert off < 0.02, f"{rows} rows: the product is off by {off:.3f}"
        figures[f"{rows} rows off"] = off
    return figures


def attention_by_record(bench: Bench) -> dict[str, Any]:
    """Does a packed block give the losses of separate records, with each way of attention, also without flash and cuDNN as on a T4?"""
    figures: dict[str, Any] = {}
    dtypes = [torch.float32] if bench.rehearsal else [torch.float16, torch.bfloat16]
    for dtype in dtypes:
        settings = bench.settings(quantization="none", dtype=str(dtype).removeprefix("torch."))
        for way in ways(bench, dtype):
            for t4 in (False,) if bench.rehearsal else (False, True):
                name = f"{way.name} {str(dtype).removeprefix('torch.')}{' as on a T4' if t4 else ''}"
                if t4 and way.name == "variable length":
                    continue  # it is flash attention
                with kernels_of_a_t4(t4), profile(activities=[ProfilerActivity.CPU]) as seen:
                    figures[name] = packed_against_separate(bench, settings, way)
                if way.attend is not None:
                    assert MATH not in {event.key for event in seen.key_averages()}, f"{name}: the MATH kernel was chosen"
    return figures


def ways(bench: Bench, dtype: torch.dtype) -> list[packed_attention.Way]:
    """Every way that this device has, the masked one last."""
    chosen = packed_attention.choose(torch.device(bench.device), dtype)
    assert chosen.attend is not None, f"no way by record: {chosen.reason}"
    older = [] if bench.rehearsal or chosen.name == "memory-efficient" else [packed_attention.by_capability((7, 5), dtype)]
    return [chosen, *older, packed_attention.masked("to compare with")]


@contextmanager
def kernels_of_a_t4(on: bool) -> Iterator[None]:
    """Without flash and cuDNN attention, which a T4 does not have."""
    from torch.backends import cuda

    earlier = cuda.flash_sdp_enabled(), cuda.cudnn_sdp_enabled()
    cuda.enable_flash_sdp(earlier[0] and not on)
    cuda.enable_cudnn_sdp(earlier[1] and not on)
    try:
        yield
    finally:
        cuda.enable_flash_sdp(earlier[0])
        cuda.enable_cudnn_sdp(earlier[1])


def packed_against_separate(bench: Bench, settings: Any, way: packed_attention.Way) -> float:
    """The largest difference of a token's loss, nats; separate records go through transformers' own layers. Errors: AssertionError above what rounding explains, or if the check could not tell
    records that see each other from those that do not."""
    model = base_model.load_base(settings).eval()
    batch = packed_batch(model.config.vocab_size, 256, 2, bench.device)
    places = torch.arange(256, device=bench.device).expand(2, -1)
    with torch.inference_mode():
        alone = torch.cat([likelihood.token_losses(model, one)[0] for one in separate(batch) if one["input_ids"].shape[1] > 1])
        installation.install_for(model, way, bench.device)
        packed = likelihood.token_losses(model, batch)[0]
        mixed = likelihood.token_losses(model, {**batch, "position_ids": places})[0]
    off, most = (packed - alone).abs().max().item(), 1e-3 if settings.dtype == "float32" else 0.15
    assert len(packed) == len(alone) and off < most, f"{way.name}: a token's loss is off by {off:.3f}"
    assert (mixed - alone).abs().max().item() > 3 * most, "records that see each other have the same losses: this model shows nothing"
    return off


def losses_and_gradients(bench: Bench) -> dict[str, Any]:
    """Are the loss and every LoRA gradient those of float32, for each compute type, dropout and checkpointing?"""
    figures: dict[str, Any] = {}
    exact = step(bench, "float32", 0.0, False)
    for dtype in ["bfloat16"] if bench.rehearsal else ["float16", "bfloat16"]:
        for dropout in (0.0, 0.05):
            plain = step(bench, dtype, dropout, False)
            if not dropout:
                figures[f"{dtype} against float32"] = compared(plain, exact, 0.12, f"{dtype} against float32")
            for layers in (2, 1):
                words = f"{dtype}, dropout {dropout}, every {'2nd' if layers == 2 else ''} layer recomputed"
                figures[words] = compared(step(bench, dtype, dropout, layers), plain, 0.02, words)
    return figures


def step(bench: Bench, dtype: str, dropout: float, recomputed: int) -> tuple[float, dict[str, torch.Tensor]]:
    """The mean loss and the gradients of one batch, under the autocast of training. recomputed: every n-th layer; 0: none."""
    from mistral_lib.training import optimizer_steps

    model = adapted(bench.settings(quantization="none", dtype=dtype, lora_dropout=dropout))
    if recomputed:
        model.enable_input_require_grads()
        model.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=recomputed)
    batch = packed_batch(model.config.vocab_size, 256, 2, bench.device)
    torch.manual_seed(3)
    losses = likelihood.training_losses(model, batch, optimizer_steps.autocast_type(bench.device, dtype))
    (losses.mean() * 1024).backward()
    found = {name: (p.grad / 1024).cpu() for name, p in model.named_parameters() if p.requires_grad}
    assert all(torch.isfinite(one).all() for one in found.values()), "a gradient is not finite"
    return losses.mean().item(), found


def compared(found: tuple, expected: tuple, most: float, what: str) -> float:
    """The largest relative difference of a gradient. Errors: AssertionError above `most`, or for a loss off by more than 2 %."""
    assert abs(found[0] / expected[0] - 1) < 0.02, f"{what}: loss {found[0]:.4f}, expected {expected[0]:.4f}"
    off = {name: ((found[1][name] - one).norm() / one.norm()).item() for name, one in expected[1].items()}
    name = max(off, key=off.__getitem__)
    assert off[name] < most, f"{what}: the gradient of {name} is off by {off[name]:.3f}, expected below {most}"
    return off[name]


CHECKS = [four_bit_products, attention_by_record, losses_and_gradients]
