"""The memory of a training step, of a paired evaluation and of generated answers, from the model's shapes and without its weights.

The model is built on `meta` tensors, with NF4 weights and the adapter of training, and runs one step with the loss of training, or the
forward passes of the evaluation. Nothing is looked up in a table: the plan counts what the code would allocate.
"""

import warnings
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch

from mistral_lib.kernels import installation, packed_attention, paired_layers
from mistral_lib.model import base_model, likelihood, model_shapes
from mistral_lib.model.tensor_memory import DeviceEmulation, MetaMemory, autocast_flag

MIB, GIB = 2**20, 2**30
NF4_BLOCK, NESTED_BLOCK = 64, 256  # weights per scale, scales per scale of scales: bitsandbytes' defaults
PARTS = ("weights in NF4", "unquantized modules", "LoRA", "optimizer", "gradients", "activations", "logits", "dequantized weights",
         "backward pass", "keys and values")  # fmt: skip
OWN = "by record"  # this library's attention; other values are names of transformers
FEWEST_LAYERS = 3  # of the smaller model of two: what the first and the last layer have of their own is in both
NO_BATCH = {"max_tokens": 0, "micro_batch_size": 0, "supervised_share": 0.0}
Pass = Callable[[Any, MetaMemory, DeviceEmulation, "Step"], None]


@dataclass(frozen=True)
class Step:
    """Everything that determines the memory of a training step.

    device: cuda or cpu. A GPU trains under autocast, a CPU does not. checkpointing: True, False, or n for every n-th layer.
    one_record: each block is a single record, for
    which the attention of transformers needs no mask. The defaults of optimizer_bytes, lora_float32 and
    double_quantization are those of this library's trainer; other values describe other tools.
    """

    base_model: str
    max_tokens: int
    micro_batch_size: int
    checkpointing: bool | int
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
    attention: str = OWN
    lora_alpha: int = 32  # attach_lora reads it; no memory depends on it
    compute_capability: tuple[int, int] = (8, 0)
    one_record: bool = False
    autocast: bool = True  # on a GPU; an evaluation has none
    layers: int = 0  # of the model; 0: as many as its configuration has


@dataclass(frozen=True)
class Peak:
    """Bytes of the tensors at the moment when most are allocated, in total and by part (PARTS)."""

    total: int
    parts: dict[str, int]
    trainable: int  # parameters of the adapter


@lru_cache(maxsize=256)
def peak(step: Step) -> Peak:
    """The peak of one forward and backward pass. Takes about a second of a CPU for a model of 7 billion parameters."""
    return _of_all_layers(run_step, step)


def evaluation_peak(step: Step) -> Peak:
    """The peak of measuring base and adapter together on a micro batch: twice its rows, no gradients, no optimizer, no autocast."""
    return _evaluation_peak(_without_training(step))


def generation_peak(step: Step, rows: int, prompt_tokens: int, new_tokens: int) -> Peak:
    """The peak of answering a batch of prompts: the pass over the prompts, and the last token with all keys and values in memory."""
    return _generation_peak(replace(_without_training(step), **NO_BATCH), rows, prompt_tokens, new_tokens)


@lru_cache(maxsize=64)
def _evaluation_peak(step: Step) -> Peak:
    return _of_all_layers(run_evaluation, step)


@lru_cache(maxsize=64)
def _generation_peak(step: Step, rows: int, prompt_tokens: int, new_tokens: int) -> Peak:
    def answer(model: Any, memory: MetaMemory, *_: Any) -> None:
        run_generation(model, memory, rows, prompt_tokens, new_tokens)

    return _of_all_layers(answer, step)


def _without_training(step: Step) -> Step:
    return replace(step, accumulates=False, checkpointing=False, optimizer_bytes=0, autocast=False)


def _of_all_layers(work: Pass, step: Step) -> Peak:
    """The peak of `work` on the complete model. All layers are alike, so it grows by the same bytes with each of them, or with each group
    of n if every n-th one is recomputed: two models of few layers give the peak of one of many. The test of it walks through all.
    Not if a backward pass makes the first gradients: the peak may then be at its end with many layers and at its begin with few."""
    group, layers = max(1, int(step.checkpointing)), step.layers or model_shapes.config_of(step.base_model).num_hidden_layers
    few = FEWEST_LAYERS + (layers - FEWEST_LAYERS) % group
    if layers <= few + group or (work is run_step and not step.accumulates):
        return _peak_of(work, replace(step, layers=layers))
    less, more = (_peak_of(work, replace(step, layers=count)) for count in (few, few + group))
    groups = (layers - few) // group

    def at_all(one: int, other: int) -> int:
        return one + (other - one) * groups

    parts = {part: at_all(less.parts[part], more.parts[part]) for part in PARTS}
    return Peak(at_all(less.total, more.total), parts, at_all(less.trainable, more.trainable))


def _peak_of(work: Pass, step: Step) -> Peak:
    model = build(replace(_without_training(step), **NO_BATCH, one_record=False))
    recompute(model, step)
    for parameter in model.parameters():  # with accumulation, the gradients of an earlier pass are already allocated
        parameter.grad = torch.empty_like(parameter) if step.accumulates and parameter.requires_grad else None
    supervised = max(1, round(step.supervised_share * step.micro_batch_size * step.max_tokens))
    memory = MetaMemory(model.config.vocab_size, supervised, step.one_record)
    trainable = count_persistent(memory, model, step)
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")
        stack.enter_context(autocast_flag(autocast_type(step) is not None))
        stack.enter_context(memory)
        emulation = stack.enter_context(device_emulation(step))
        memory.part = "activations"
        work(model, memory, emulation, step)
    return Peak(memory.peak, {part: memory.peak_parts.get(part, 0) for part in PARTS}, trainable)


def autocast_type(step: Step) -> torch.dtype | None:
    """The type of the trainer's autocast; None if it is not used: on a CPU, for float32, or outside of training."""
    return getattr(torch, step.dtype) if step.autocast and step.device == "cuda" and step.dtype != "float32" else None


def device_emulation(step: Step) -> DeviceEmulation:
    return DeviceEmulation(autocast_type(step), step.device == "cuda", step.compute_capability)


def run_step(model: Any, memory: MetaMemory, emulation: DeviceEmulation, step: Step) -> None:
    """One forward and backward pass."""
    model.train()
    emulation.cache = {}
    loss = likelihood.token_losses(model, _batch(step))[0].sum()
    emulation.cache = None
    memory.part = "backward pass"
    loss.backward()


def run_evaluation(model: Any, memory: MetaMemory, emulation: DeviceEmulation, step: Step) -> None:
    """The paired losses of one micro batch."""
    model.eval()
    with paired_layers.paired(model), torch.no_grad():
        likelihood.paired_token_losses(model, _batch(step))


def run_generation(model: Any, memory: MetaMemory, rows: int, prompt_tokens: int, new_tokens: int) -> None:
    """The first and the last forward pass of greedy answers: logits of one position a row, copied to float32 as generate() does."""
    from transformers import DynamicCache

    def logits(tokens: int, seen: int, kept: Any) -> torch.Tensor:
        ids, mask = (torch.empty((rows, size), dtype=torch.long, device="meta") for size in (tokens, seen))
        return model(input_ids=ids, attention_mask=mask, past_key_values=kept, use_cache=True, logits_to_keep=1).logits.float()

    model.eval()
    with torch.no_grad():
        logits(prompt_tokens, prompt_tokens, DynamicCache())
        kept, before = DynamicCache(), prompt_tokens + new_tokens - 1
        memory.part = "keys and values"
        heads, size = model.config.num_key_value_heads, model_shapes.head_size(model.config)
        for layer in range(model.config.num_hidden_layers):
            kept.update(*(torch.empty((rows, heads, before, size), dtype=model.dtype, device="meta") for _ in range(2)), layer)
        logits(1, before + 1, kept)  # which makes them anew, one token longer


def _batch(step: Step) -> dict[str, torch.Tensor]:
    shape = (step.micro_batch_size, step.max_tokens)
    return {name: torch.empty(shape, dtype=torch.long, device="meta") for name in likelihood.COLUMNS}


def recompute(model: Any, step: Step) -> None:
    """Switch activation checkpointing of a built model to that of `step`."""
    model.activation_checkpointing_disable()
    model.disable_input_require_grads()
    if step.checkpointing:  # a layer that is recomputed in the backward pass needs the emulation again
        options = {"use_reentrant": False, "context_fn": lambda: (nullcontext(), device_emulation(step))}
        model.activation_checkpointing_enable(options, every_n_layers=int(step.checkpointing))


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


@lru_cache(maxsize=16)
def build(step: Step) -> Any:
    """The base model with its adapter on meta tensors, as base_model.load_base and attach_lora make it. The batch and the checkpointing of
    `step` have no effect."""
    from transformers import AutoModelForCausalLM

    config = model_shapes.config_of(step.base_model)
    config.num_hidden_layers = step.layers or config.num_hidden_layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: config.num_hidden_layers]
    attention = "sdpa" if step.attention == OWN else step.attention
    config._attn_implementation = attention
    config.use_cache = False
    compute = getattr(torch, step.dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=compute, attn_implementation=attention)
    if step.quantization == "nf4":
        quantize(model, compute, step.double_quantization)
    model.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = base_model.attach_lora(model, step)
        if step.device == "cpu":
            installation.install_for(model, packed_attention.choose(torch.device("cpu"), compute), "cpu")
        elif step.attention == OWN:
            installation.install_for(model, packed_attention.by_capability(step.compute_capability, compute), "cuda")
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
