"""How fast is it? Tokens a second of each way of training, of generation, and of TRL and Unsloth on the same card."""

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any
from unittest import mock

import torch

from mistral_lib.kernels import installation, liger, packed_attention
from mistral_lib.model import base_model, likelihood
from mistral_lib.run import hardware
from mistral_lib.training import optimizer_steps
from tests.gpu.bench import Bench, adapted, packed_batch

REPEATS = 5
TOKENS, BLOCKS = 2048, 2
RANK = 16


def generation(bench: Bench) -> dict[str, Any]:
    """How many tokens a second do base and adapter generate, one answer at a time?"""
    count = 8 if bench.rehearsal else 64
    model = adapted(bench.settings(base_model=bench.whole_model()), train=False)
    prompt = torch.randint(3, model.config.vocab_size, (1, 32), device=bench.device)

    def answer() -> None:
        model.generate(input_ids=prompt, attention_mask=torch.ones_like(prompt), min_new_tokens=count, max_new_tokens=count, do_sample=False,
                       use_cache=True, pad_token_id=0)  # fmt: skip

    with torch.inference_mode():
        answer()
        adapter = seconds(bench, answer)
        with model.disable_adapter():
            base = seconds(bench, answer)
    assert adapter < 3 * base, f"the adapter generates at {base / adapter:.0%} of the base model's speed"
    return {"base, tokens/s": count / base, "adapter, tokens/s": count / adapter}


def training_speed(bench: Bench) -> dict[str, Any]:
    """How many tokens a second does a training step take with each way of attention, with and without liger-kernel, and where does it go?"""
    tokens, blocks = (64, 2) if bench.rehearsal else (TOKENS, BLOCKS)
    dtype = "float32" if bench.rehearsal else hardware.choose_dtype()[0]
    model = adapted(bench.settings(base_model=bench.whole_model(), dtype=dtype))
    batch = packed_batch(model.config.vocab_size, tokens, blocks, bench.device)
    figures: dict[str, Any] = {}
    for way in ways_here(bench, dtype):
        for fused in (True, False) if bench.device == "cuda" and not liger.why_not(0) else (False,):
            installed(model, way, bench.device)
            with mock.patch.object(liger, "runs_on", (lambda x: x.is_cuda) if fused else (lambda x: False)):
                took = seconds(bench, lambda: step(bench, model, batch, dtype))
            figures[f"{way.name}{' with liger-kernel' if fused else ''}, tokens/s"] = tokens * blocks / took
    figures["profile"] = profile(bench, lambda: step(bench, model, batch, dtype))
    return figures


def ways_here(bench: Bench, dtype: str) -> list[packed_attention.Way]:
    chosen = packed_attention.choose(torch.device(bench.device), getattr(torch, dtype))
    older = [packed_attention.by_capability((7, 5), torch.float16)] if chosen.name == "variable length" else []
    return [chosen, *older, packed_attention.masked("to compare with")]


def installed(model: Any, way: packed_attention.Way, device: str) -> None:
    """Give the model another way of attention than it has."""
    for module in model.modules():
        if hasattr(module, "packed_forward"):
            del module.packed_forward
    installation.install_for(model, way, device)


def step(bench: Bench, model: Any, batch: dict[str, torch.Tensor], dtype: str) -> None:
    likelihood.training_losses(model, batch, optimizer_steps.autocast_type(bench.device, dtype)).mean().backward()


def seconds(bench: Bench, work: Callable[[], None]) -> float:
    """The median of some repeats, after one that does not count."""
    found = []
    for _ in range((1 if bench.rehearsal else REPEATS) + 1):
        began = time.perf_counter()
        work()
        if bench.device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return sorted(found[1:])[len(found[1:]) // 2]


def profile(bench: Bench, work: Callable[[], None]) -> str:
    """The operators that take most of the time, with their shares."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    activity = ProfilerActivity.CUDA if bench.device == "cuda" else ProfilerActivity.CPU
    with profiler(activities=[activity]) as seen:
        work()
        if bench.device == "cuda":
            torch.cuda.synchronize()
    name = "self_device_time_total" if bench.device == "cuda" else "self_cpu_time_total"
    spent = sorted(((getattr(one, name), one.key) for one in seen.key_averages()), reverse=True)
    total = sum(time_ for time_, _ in spent) or 1
    return ", ".join(f"{key[:60]} {time_ / total:.0%}" for time_, key in spent[:8])


def trl_on_the_same_card(bench: Bench) -> dict[str, Any]:
    """How many tokens a second does TRL train with packing, and Unsloth if it is installed, on the same model and card?"""
    bench.require_cuda("a comparison on a card")
    found: dict[str, Any] = {}
    if find_spec("trl"):
        found["TRL with packing, tokens/s"] = trl(bench)
    if find_spec("unsloth"):
        found["Unsloth, tokens/s"] = unsloth(bench)
    return found or {"neither": "is installed: pip install --no-deps trl==1.16.0"}


def trl(bench: Bench) -> float:
    """SFTTrainer with packing and its default checkpointing, NF4 and the same rank; blocks of as many tokens."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    dtype = hardware.choose_dtype()[0]
    model = base_model.load_base(bench.settings(base_model=bench.whole_model(), dtype=dtype))
    options = {"bf16": dtype == "bfloat16", "fp16": dtype == "float16", "report_to": "none", "save_strategy": "no", "disable_tqdm": True}
    steps, length = 6, 256
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(3, model.config.vocab_size, (steps * BLOCKS * TOKENS // length, length), generator=draw).tolist()
    arguments = SFTConfig(output_dir=str(bench.settings().run_name), max_length=TOKENS, packing=True, per_device_train_batch_size=BLOCKS,
                          max_steps=steps, logging_steps=1, **options)  # fmt: skip
    tokenizer = base_model.load_tokenizer(bench.whole_model())
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=Dataset.from_dict({"input_ids": ids, "labels": ids}),
                         processing_class=tokenizer, peft_config=lora)  # fmt: skip
    torch.cuda.synchronize()
    began = time.perf_counter()
    trainer.train()
    torch.cuda.synchronize()
    return steps * BLOCKS * TOKENS / (time.perf_counter() - began)


def unsloth(bench: Bench) -> float:
    """FastLanguageModel with its own checkpointing, NF4 and the same rank: forward and backward pass of the same blocks."""
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(bench.whole_model(), max_seq_length=TOKENS, load_in_4bit=True)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    model = FastLanguageModel.get_peft_model(model, r=RANK, lora_alpha=2 * RANK, lora_dropout=0, target_modules=targets)
    batch = packed_batch(model.config.vocab_size, TOKENS, BLOCKS, "cuda")
    took = seconds(bench, lambda: model(input_ids=batch["input_ids"], labels=batch["labels"]).loss.backward())
    return TOKENS * BLOCKS / took


CHECKS = [generation, training_speed, trl_on_the_same_card]
