"""Does memory behave as planned? Loading, the plan against measured peaks, running out of memory, memory before the reload."""

import resource
import time
from typing import Any
from unittest import mock

import torch

from mistral_lib.kernels import installation
from mistral_lib.model import base_model, likelihood, step_memory
from mistral_lib.model.step_memory import GIB, Step
from mistral_lib.run import hardware
from mistral_lib.training import optimizer_steps, train
from tests.gpu.bench import Bench, packed_batch
from tests.support.disturbed_training import events

SHAPES = {"T4": ("float16", 1024, 1), "A10G": ("bfloat16", 2048, 1)}  # compute type, tokens, blocks
OFF = 0.10  # relative difference of plan and measurement that is accepted


def loading(bench: Bench) -> dict[str, Any]:
    """What do 32 layers take at loading, on the card and on the host, and how long?"""
    bench.require_cuda("memory of the card")
    settings = bench.settings(base_model=bench.whole_model())
    before, began = host_mib(), time.perf_counter()
    torch.cuda.reset_peak_memory_stats()
    model = base_model.load_base(settings)
    seconds, peak = time.perf_counter() - began, torch.cuda.max_memory_allocated() / GIB
    kept = torch.cuda.memory_allocated() / GIB
    assert len(model.model.layers) == 32 and kept < 5, f"{kept:.1f} GiB of weights in NF4, expected below 5"
    assert peak < kept + 1.5, f"{peak:.1f} GiB at the peak of loading, {kept:.1f} GiB kept"
    return {"kept on the card, GiB": kept, "peak on the card, GiB": peak, "peak on the host, MiB": host_mib() - before, "seconds": seconds}


def host_mib() -> int:
    """The peak of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def plan_against_measured(bench: Bench) -> dict[str, Any]:
    """Is the planned peak of a step the measured one to 10 %, for the shapes of a T4 and an A10G, with and without checkpointing?"""
    bench.require_cuda("a measured peak")
    figures, off = {}, {}
    for card, (dtype, tokens, blocks) in SHAPES.items():
        if dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            continue
        for checkpointing in (False, True):
            name = f"{card} {tokens} x {blocks}{', all recomputed' if checkpointing else ''}"
            planned, measured = peaks(bench, dtype, tokens, blocks, checkpointing)
            figures[name] = f"planned {planned:.2f}, measured {measured:.2f} GiB"
            off[name] = abs(planned / measured - 1)
    assert all(one < OFF for one in off.values()), f"the plan is off: {figures}"
    return figures


def peaks(bench: Bench, dtype: str, tokens: int, blocks: int, checkpointing: bool) -> tuple[float, float]:
    """Planned and measured GiB of tensors at the peak of a step, both with the gradients of an earlier pass."""
    settings = bench.settings(base_model=bench.whole_model(), max_tokens=tokens, micro_batch_size=blocks, dtype=dtype)
    model = base_model.attach_lora(base_model.load_base(settings), settings).train()
    if checkpointing:
        model.enable_input_require_grads()
        model.activation_checkpointing_enable()
    batch = packed_batch(model.config.vocab_size, tokens, blocks, "cuda")
    share = float((batch["labels"] >= 0).float().mean())
    trained = [p for p in model.parameters() if p.requires_grad]
    moments = [torch.zeros_like(p) for p in trained for _ in range(2)]
    for _ in range(2):  # the second pass finds the gradients of the first
        torch.cuda.reset_peak_memory_stats()
        likelihood.training_losses(model, batch, optimizer_steps.autocast_type("cuda", dtype)).mean().backward()
    measured = torch.cuda.max_memory_allocated() / GIB
    del moments
    step = Step(settings.base_model, tokens, blocks, checkpointing, dtype=dtype, supervised_share=round(share, 2))
    return step_memory.peak(step).total / GIB, measured


def out_of_memory(bench: Bench) -> dict[str, Any]:
    """Does a training that really runs out of memory go on with a smaller micro batch, to the loss of an undisturbed one?"""
    bench.require_cuda("a limit for the card's memory")
    changes = {"micro_batch_size": 8, "gradient_accumulation_steps": 1, "max_tokens": 1024, "max_steps": 4}
    undisturbed = train.train(bench.run("undisturbed", **changes))
    torch.cuda.empty_cache()
    run, most = bench.run("short-of-memory", **changes), undisturbed["peak_memory_mib"]
    total = torch.cuda.get_device_properties(0).total_memory / 2**20
    torch.cuda.set_per_process_memory_fraction(0.7 * most / total)
    try:
        result = train.train(run)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    shrunk = [event["was"] for event in events(run, "out_of_memory")]
    off = abs(result["validation_loss"]["adapter"] / undisturbed["validation_loss"]["adapter"] - 1)
    assert shrunk and off < 2e-3, f"shrunk {len(shrunk)} times, the loss is off by {off:.2%}"
    return {"batches that did not fit": ", ".join(shrunk), "micro batch at the end": result["micro_batch_size"], "loss off": off}


def memory_before_the_reload(bench: Bench) -> dict[str, Any]:
    """Is the trained model gone from the card before the adapter is loaded into a fresh one?"""
    bench.require_cuda("memory of the card")
    torch.cuda.empty_cache()
    before, seen, load = torch.cuda.memory_allocated(), [], base_model.load_adapter

    def noted(*arguments: Any) -> Any:
        seen.append((torch.cuda.memory_allocated() - before) / 2**20)
        return load(*arguments)

    with mock.patch.object(base_model, "load_adapter", noted):
        train.train(bench.run("reload"))
    assert len(seen) == 1 and seen[0] < 64, f"{seen} MiB are still allocated"
    return {"MiB": seen[0]}


def installed_kernels(bench: Bench) -> dict[str, Any]:
    """Which attention and layers does this device get, and why?"""
    model = base_model.attach_lora(base_model.load_base(bench.settings()), bench.settings())
    found = installation.described(model)
    assert found["attention"] != "masked", found["why"]
    return {**found, "compute type": " ".join(hardware.choose_dtype())}


CHECKS = [installed_kernels, loading, plan_against_measured, out_of_memory, memory_before_the_reload]
