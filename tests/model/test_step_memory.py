"""The memory of a training step equals what is counted by hand and on real tensors."""

import math

import pytest
import torch

from mistral_lib.model import base_model, likelihood, model_shapes, step_memory
from mistral_lib.model.step_memory import Step
from mistral_lib.model.tensor_memory import TensorMemory
from mistral_lib.run import params

MISTRAL = "mistralai/Mistral-7B-Instruct-v0.3"


@pytest.fixture
def step(tiny_model: str) -> Step:
    return Step(tiny_model, max_tokens=128, micro_batch_size=2, checkpointing=False, quantization="none", dtype="float32", device="cpu",
                accumulates=False, supervised_share=0.5)  # fmt: skip


def changed(step: Step, **changes: object) -> int:
    return step_memory.peak(Step(**{**step.__dict__, **changes})).total


def test_weights_adapter_and_optimizer_equal_the_sum_by_hand(step: Step) -> None:
    config = model_shapes.config_of(step.base_model)
    linear = model_shapes.linear_parameters(config)
    assert linear == 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128)
    lora = 2 * 16 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))  # rank 16 on seven projections of two layers
    plain = step_memory.peak(step)
    assert plain.trainable == lora and plain.parts["LoRA"] == 4 * lora and plain.parts["optimizer"] == 8 * lora
    norms = 64 * (2 * 2 + 1)
    unquantized = 4 * (linear + norms + config.vocab_size * 64)
    assert unquantized <= plain.parts["unquantized modules"] <= unquantized + 1024  # the rest are the frequencies of the rotary embedding
    quantized = step_memory.peak(Step(**{**step.__dict__, "quantization": "nf4"}))
    scales = linear // 64
    nested = sum(math.ceil(n // 64 / 256) for n in 2 * [64 * 64, 64 * 64, 64 * 32, 64 * 32, 64 * 128, 64 * 128, 64 * 128])
    assert quantized.parts["weights in NF4"] == linear // 2 + scales + 4 * nested


def test_nf4_takes_4_127_bits_a_weight() -> None:
    parts = step_memory.peak(Step(MISTRAL, max_tokens=128, micro_batch_size=1, checkpointing=True)).parts
    linear = model_shapes.linear_parameters(model_shapes.config_of(MISTRAL))
    assert 8 * parts["weights in NF4"] / linear == pytest.approx(4.127, abs=0.001)
    assert parts["unquantized modules"] / 2 == pytest.approx(2 * 32768 * 4096, rel=0.01)


def test_rank_64_on_seven_projections_has_the_published_number_of_parameters() -> None:
    assert step_memory.peak(Step(MISTRAL, 128, 1, True, lora_rank=64)).trainable == 167_772_160


@pytest.mark.parametrize(("quantization", "dtype", "checkpointing"),
                         [("none", "float32", False), ("none", "float32", True), ("nf4", "bfloat16", False), ("nf4", "float32", True)])  # fmt: skip
def test_the_step_on_meta_tensors_has_the_memory_of_a_real_step(step: Step, quantization: str, dtype: str, checkpointing: bool) -> None:
    settings = params.Settings(base_model=step.base_model, quantization=quantization, dtype=dtype)
    model = base_model.attach_lora(base_model.load_base(settings), settings).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    memory = TensorMemory(model.config.vocab_size)
    memory.assign("model", [*model.parameters(), *model.buffers()])
    ids = torch.randint(3, 1000, (2, 128))
    labels = torch.where(torch.arange(128) < 64, -100, ids)
    batch = {"input_ids": ids, "labels": labels, "position_ids": torch.arange(64).repeat(2, 2)}
    before = memory.total
    with memory:
        likelihood.token_losses(model, batch)[0].sum().backward()
    options = {"quantization": quantization, "dtype": dtype, "checkpointing": checkpointing, "optimizer_bytes": 0}
    planned = step_memory.peak(Step(**{**step.__dict__, **options}))
    stays = sum(planned.parts[part] for part in ("weights in NF4", "unquantized modules", "LoRA"))
    assert planned.total - stays == pytest.approx(memory.peak - before, rel=0.02)


def test_more_work_takes_more_memory_and_checkpointing_and_nf4_take_less(step: Step) -> None:
    base = changed(step)
    assert base < changed(step, micro_batch_size=3) < changed(step, micro_batch_size=4)
    assert base < changed(step, max_tokens=256) and base < changed(step, supervised_share=1.0)
    assert base < changed(step, accumulates=True, supervised_share=0.1) + changed(step) - changed(step, supervised_share=0.1)
    few = changed(step, supervised_share=0.01)  # logits are not the peak here
    for less in ({"checkpointing": True}, {"dtype": "bfloat16"}, {"quantization": "nf4"}):
        assert changed(step, supervised_share=0.01, **less) < few
