"""The memory of a training step, from the model's shapes and without its weights.

The model is built on `meta` tensors, with NF4 weights and the adapter of training, and runs one step with the loss of training.
Nothing is looked up in a table: the plan counts what the code would allocate.
"""

import warnings
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from mistral_lib.kernels import installation, packed_attention
from mistral_lib.model import base_model, likelihood, model_shapes
from mistral_lib.model.tensor_memory import DeviceEmulation, MetaMemory, autocast_flag

MIB, GIB = 2**20, 2**30
NF4_BLOCK, NESTED_BLOCK = 64, 256  # weights per scale, scales per scale of scales: bitsandbytes' defaults
PARTS = ("weights in NF4", "unquantized modules", "LoRA", "optimizer", "gradients", "activations", "logits", "dequantized weights",
         "backward pass")  # fmt: skip


@dataclass(frozen=True)
class Step:
    """Everything that determines the memory of a training step.

    device: cuda or cpu. A GPU computes under autocast, a CPU does not. The defaults of optimizer_bytes, lora_float32 and
    double_quantization are those of this library's trainer; other values describe other tools.
    """

    base_model: str
    max_tokens: int
    micro_batch_size: int
    checkpointing: bool
    quantization: str = "nf4"
    dtype: str = "bfloat16"
    device: str = "cuda"
    accumulates: bool = True
    supervised_share: float = 1.0
    lora_rank: int = 16
    lora_targets: str = "all-linear"
    lora_dropout: float = 0.0
    lora_float32: bool = True
    double_quantization: bool = True
    optimizer_bytes: int = 8  # per trainable parameter: two float32 moments
    attention: str = "sdpa"
    lora_alpha: int = 32  # attach_lora reads it; no memory depends on it


@dataclass(frozen=True)
class Peak:
    """Bytes of the tensors at the moment of a step when most are allocated, in total and by part (PARTS)."""

    total: int
    parts: dict[str, int]
    trainable: int  # parameters of the adapter


@lru_cache(maxsize=256)
def peak(step: Step) -> Peak:
    """The peak of one forward and backward pass. Takes about a second for a model of 7 billion parameters."""
    model = build(replace(step, max_tokens=0, micro_batch_size=0, accumulates=False, supervised_share=0.0))
    for parameter in model.parameters():  # with accumulation, the gradients of an earlier pass are already allocated
        parameter.grad = torch.empty_like(parameter) if step.accumulates and parameter.requires_grad else None
    memory = MetaMemory(model.config.vocab_size, supervised=max(1, round(step.supervised_share * step.micro_batch_size * step.max_tokens)))
    trainable = count_persistent(memory, model, step)
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        stack.enter_context(autocast_flag(autocast_type(step) is not None))
        stack.enter_context(memory)
        emulation = stack.enter_context(device_emulation(step))
        run_step(model, memory, emulation, step)
    return Peak(memory.peak, {part: memory.peak_parts.get(part, 0) for part in PARTS}, trainable)


def autocast_type(step: Step) -> torch.dtype | None:
    """The type of the trainer's autocast; None if it is not used: on a CPU, or for float32."""
    return getattr(torch, step.dtype) if step.device == "cuda" and step.dtype != "float32" else None


def device_emulation(step: Step) -> DeviceEmulation:
    return DeviceEmulation(autocast_type(step), gpu=step.device == "cuda")


def run_step(model: Any, memory: MetaMemory, emulation: DeviceEmulation, step: Step) -> None:
    """One forward and backward pass."""
    shape = (step.micro_batch_size, step.max_tokens)
    batch = {name: torch.empty(shape, dtype=torch.long, device="meta") for name in likelihood.COLUMNS}
    memory.part, emulation.cache = "activations", {}
    loss = likelihood.token_losses(model, batch)[0].sum()
    emulation.cache = None
    memory.part = "backward pass"
    loss.backward()


def count_persistent(memory: MetaMemory, model: Any, step: Step) -> int:
    """Count weights, adapter, optimizer and gradients by part. Returns the number of trainable parameters."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    memory.assign("LoRA", trainable)
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            nested = [state.state2.absmax] if state.nested else []
            memory.assign("weights in NF4", [module.weight, state.absmax, *nested])
    memory.assign("unquantized modules", [t for t in (*model.parameters(), *model.buffers()) if not memory.is_counted(t)])
    count = sum(p.numel() for p in trainable)
    model.moments = torch.empty(count * step.optimizer_bytes, dtype=torch.uint8, device="meta")  # allocated as long as the model is
    memory.assign("optimizer", [model.moments])
    memory.assign("gradients", [p.grad for p in trainable if p.grad is not None])
    model.memory = memory  # for the gradients' hooks of `build`
    return count


@lru_cache(maxsize=4)
def build(step: Step) -> Any:
    """The base model with its adapter on meta tensors, as base_model.load_base and attach_lora make it. The batch of `step` has no effect."""
    from transformers import AutoModelForCausalLM

    config = model_shapes.config_of(step.base_model)
    config._attn_implementation = step.attention
    config.use_cache = False
    compute = getattr(torch, step.dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=compute, attn_implementation=step.attention)
    if step.quantization == "nf4":
        quantize(model, compute, step.double_quantization)
    model.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = base_model.attach_lora(model, step)
        if step.device == "cpu":
            installation.install_for(model, packed_attention.choose(torch.device("cpu"), compute), "cpu")
        if step.checkpointing:  # a layer that is recomputed in the backward pass needs the emulation again
            model.activation_checkpointing_enable({"use_reentrant": False, "context_fn": lambda: (nullcontext(), device_emulation(step))})
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data if step.lora_float32 else parameter.data.to(compute)
            parameter.register_post_accumulate_grad_hook(lambda p: model.memory.assign("gradients", [p.grad]))
    return model.train()


def quantize(model: Any, compute: torch.dtype, double: bool) -> None:
    """Replace every linear layer but the head by a bitsandbytes layer of the same size, as transformers does at loading."""
    model.is_loaded_in_4bit = True
    head = model.get_output_embeddings()
    for name, module in list(model.named_modules()):
        if type(module) is torch.nn.Linear and module is not head:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, nf4_layer(module, compute, double))


def nf4_layer(linear: torch.nn.Linear, compute: torch.dtype, double: bool) -> torch.nn.Module:
    """A 4-bit layer without data: half a byte per weight, a scale per 64 weights, and a scale of scales per 256 of those."""
    from bitsandbytes.functional import QuantState
    from bitsandbytes.nn import Linear4bit, Params4bit

    def empty(count: int, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(count, dtype=dtype, device="meta")

    outputs, inputs = linear.weight.shape
    weights = outputs * inputs
    scales = -(-weights // NF4_BLOCK)
    nested = QuantState(empty(-(-scales // NESTED_BLOCK), torch.float32), code=empty(256, torch.float32), blocksize=NESTED_BLOCK,
                        dtype=torch.float32) if double else None  # fmt: skip
    state = QuantState(empty(scales, torch.uint8 if double else torch.float32), shape=torch.Size((outputs, inputs)),
                       code=empty(16, torch.float32), blocksize=NF4_BLOCK, quant_type="nf4", dtype=compute,
                       offset=torch.empty((), device="meta") if double else None, state2=nested)  # fmt: skip
    layer = Linear4bit(inputs, outputs, bias=linear.bias is not None, compute_dtype=compute, quant_type="nf4", device="meta")
    packed = empty((weights + 1) // 2, torch.uint8).view(-1, 1)
    layer.weight = Params4bit(packed, requires_grad=False, quant_state=state, quant_type="nf4", bnb_quantized=True, module=layer)
    layer.quant_state = state
    return layer
