"""The published memory figures of other tools, planned with each tool's documented settings. Run: python -m tests.benchmarks.published_figures

No number here is tuned: each setting is documented by its source or marked as assumed. Sources: litgpt config_hub/finetune,
torchtune README and recipes/configs/llama3_1/8B_qlora_single_device.yaml, Unsloth's Mistral notebook, the Hugging Face blog.
"""

import types
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from mistral_lib.family import published_models
from mistral_lib.kernels import fused_layers, fused_loss
from mistral_lib.model import model_shapes, step_memory
from mistral_lib.model.step_memory import Step
from mistral_lib.training import fit_plan

LLAMA_2 = {**published_models.MISTRAL_7B, "vocab_size": 32000, "intermediate_size": 11008, "num_key_value_heads": 32}
LLAMA_31 = {**published_models.MISTRAL_7B, "vocab_size": 128256}
MISTRAL = "mistralai/Mistral-7B-v0.3"


@dataclass(frozen=True)
class Figure:
    """A published peak, in bytes, with the step that its source describes."""

    source: str
    published: float
    step: Step
    notes: str
    bitsandbytes_keeps_inputs: bool = False  # MatMul4Bit did until 2024: ctx.tensors = (A, B)
    reserved: bool = False  # the source gives what PyTorch's allocator reserved, not the bytes of the tensors


def litgpt(**options: Any) -> Step:
    return Step("mistralai/Mistral-7B-v0.1", 512, 2, False, lora_rank=32, lora_targets="q_proj,v_proj", lora_dropout=0.05,
                lora_float32=False, double_quantization=False, attention="sdpa", **options)  # fmt: skip


def figures() -> list[Figure]:
    model_shapes.PUBLISHED.update({"llama-2-7b": LLAMA_2, "llama-3.1-8b": LLAMA_31})
    torchtune = Step(
        "llama-3.1-8b",
        2048,
        2,
        True,
        lora_rank=8,
        lora_float32=False,
        optimizer_bytes=4,
        accumulates=False,
        supervised_share=1 / 8,
        attention="sdpa",
    )
    unsloth = [Step(MISTRAL, length, 2, True, optimizer_bytes=2, attention="sdpa") for length in (512, 1024)]
    blog = [Step("llama-2-7b", length, 2, True, optimizer_bytes=2, attention="eager") for length in (512, 1024, 2048)]
    return [
        Figure("litgpt LoRA, bf16", 20.66e9, litgpt(quantization="none", optimizer_bytes=4), "all settings documented"),
        Figure("litgpt QLoRA", 14.29e9, litgpt(optimizer_bytes=0), "all settings documented; today's bitsandbytes"),
        Figure("litgpt QLoRA", 14.29e9, litgpt(optimizer_bytes=0), "the same, inputs kept as by the bitsandbytes of its time", True),
        Figure("torchtune QLoRA", 7.4 * 2**30, torchtune, "logits in eight chunks, one alive; NF4 blocks and torch.compile not copied"),
        *(Figure("Unsloth QLoRA", 5.84 * 2**30, step, f"longest pair assumed {step.max_tokens} tokens; figure is reserved memory", reserved=True) for step in unsloth),
        *(Figure("HF blog, Alpaca / OASST", 7.1e9 if step.max_tokens < 2048 else 10.4e9, step, f"longest pair assumed {step.max_tokens} tokens") for step in blog),
    ]  # fmt: skip


class KeepInput(torch.autograd.Function):
    """Passes an output on and keeps the layer's input until the backward pass."""

    @staticmethod
    def forward(ctx: Any, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(inputs)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[None, torch.Tensor]:
        return None, gradient


@contextmanager
def plain_layers() -> Any:
    """Other tools have neither this library's fused layers nor its loss in chunks."""
    earlier = fused_layers.install, fused_loss.head_losses
    fused_layers.install = lambda model: model
    fused_loss.head_losses = lambda hidden, head, targets: functional.cross_entropy(head(hidden).float(), targets, reduction="none")
    yield
    fused_layers.install, fused_loss.head_losses = earlier


@contextmanager
def inputs_kept(step: Step) -> Any:
    """The model of this step with 4-bit layers that keep their inputs."""
    step_memory.build.cache_clear()
    step_memory.peak.cache_clear()
    earlier = step_memory.nf4_layer

    def layer(*arguments: Any) -> torch.nn.Module:
        made = earlier(*arguments)
        forward = made.forward
        made.forward = types.MethodType(lambda self, x: KeepInput.apply(x, forward(x)), made)
        return made

    step_memory.nf4_layer = layer
    yield
    step_memory.nf4_layer = earlier
    step_memory.build.cache_clear()
    step_memory.peak.cache_clear()


def planned(figure: Figure) -> float:
    """Bytes by the plan; if the source gives what PyTorch reserved, with the plan's share for the allocator."""
    with plain_layers(), inputs_kept(figure.step) if figure.bitsandbytes_keeps_inputs else nullcontext():
        tensors = step_memory.peak(figure.step).total
    return tensors * (1 + fit_plan.ALLOCATOR_SHARE if figure.reserved else 1)


def main() -> None:
    warnings.simplefilter("ignore")
    print(f"{'source':<26} {'published':>9} {'planned':>9} {'off':>7}   in GB (10^9 bytes)")
    for figure in figures():
        found = planned(figure)
        print(
            f"{figure.source:<26} {figure.published / 1e9:>9.2f} {found / 1e9:>9.2f} {found / figure.published - 1:>+7.1%}   {figure.notes}",
            flush=True,
        )


if __name__ == "__main__":
    main()
