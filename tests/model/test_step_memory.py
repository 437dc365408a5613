"""The memory of a training step: what is counted equals what can be counted by hand and on real tensors."""

import math

import pytest
import torch

from mistral_lib.model import base_model, likelihood, model_shapes, process_memory, step_memory
from mistral_lib.model.step_memory import Step
from mistral_lib.model.tensor_memory import LiveMemory
from mistral_lib.run import allocator, params, paths

MISTRAL = "mistralai/Mistral-7B-Instruct-v0.3"


@pytest.fixture
def step(tiny_model: str) -> Step:
    return Step(tiny_model, max_tokens=128, micro_batch_size=2, checkpointing=False, quantization="none", dtype="float32", device="cpu",
                accumulates=False, supervised_share=0.5)  # fmt: skip


def changed(step: Step, **changes: object) -> int:
    return step_memory.peak(Step(**{**step.__dict__, **changes})).total


def test_what_stays_equals_the_sum_by_hand(step: Step) -> None:
    config = model_shapes.config_of(step.base_model)
    linear = model_shapes.linear_parameters(config)
    assert linear == 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128)
    lora = 2 * 16 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))  # rank 16 on seven projections of two layers
    plain = step_memory.peak(step)
    assert plain.trainable == lora and plain.parts["LoRA"] == 4 * lora and plain.parts["optimizer"] == 8 * lora
    norms = 64 * (2 * 2 + 1)
    unquantised = 4 * (linear + norms + config.vocab_size * 64)
    assert unquantised <= plain.parts["unquantised modules"] <= unquantised + 1024  # and the frequencies of the rotary embedding
    quantised = step_memory.peak(Step(**{**step.__dict__, "quantization": "nf4"}))
    scales = linear // 64
    nested = sum(math.ceil(n // 64 / 256) for n in 2 * [64 * 64, 64 * 64, 64 * 32, 64 * 32, 64 * 128, 64 * 128, 64 * 128])
    assert quantised.parts["weights in NF4"] == linear // 2 + scales + 4 * nested


def test_nf4_takes_4_127_bits_a_weight() -> None:
    parts = step_memory.peak(Step(MISTRAL, max_tokens=128, micro_batch_size=1, checkpointing=True)).parts
    linear = model_shapes.linear_parameters(model_shapes.config_of(MISTRAL))
    assert 8 * parts["weights in NF4"] / linear == pytest.approx(4.127, abs=0.001)
    assert parts["unquantised modules"] / 2 == pytest.approx(2 * 32768 * 4096, rel=0.01)


def test_rank_64_on_seven_projections_has_the_known_number_of_parameters() -> None:
    assert step_memory.peak(Step(MISTRAL, 128, 1, True, lora_rank=64)).trainable == 167_772_160


@pytest.mark.parametrize(("quantization", "dtype", "checkpointing"),
                         [("none", "float32", False), ("none", "float32", True), ("nf4", "bfloat16", False), ("nf4", "float32", True)])  # fmt: skip
def test_the_step_without_weights_holds_what_a_real_step_holds(step: Step, quantization: str, dtype: str, checkpointing: bool) -> None:
    settings = params.Settings(base_model=step.base_model, quantization=quantization, dtype=dtype)
    model = base_model.attach_lora(base_model.load_base(settings), settings).train()
    if checkpointing:
        model.activation_checkpointing_enable()
    memory = LiveMemory(model.config.vocab_size)
    memory.hold("model", [*model.parameters(), *model.buffers()])
    ids = torch.randint(3, 1000, (2, 128))
    labels = torch.where(torch.arange(128) < 64, -100, ids)
    batch = {"input_ids": ids, "labels": labels, "position_ids": torch.arange(64).repeat(2, 2)}
    before = memory.total
    with memory:
        likelihood.token_losses(model, batch)[0].sum().backward()
    options = {"quantization": quantization, "dtype": dtype, "checkpointing": checkpointing, "optimizer_bytes": 0}
    planned = step_memory.peak(Step(**{**step.__dict__, **options}))
    stays = sum(planned.parts[part] for part in ("weights in NF4", "unquantised modules", "LoRA"))
    assert planned.total - stays == pytest.approx(memory.peak - before, rel=0.02)


def test_on_a_cpu_the_weights_file_and_the_gaps_are_counted(step: Step) -> None:
    size = sum(file.stat().st_size for file in (paths.home() / step.base_model).glob("*.safetensors"))
    stored, dtype = process_memory.stored(step.base_model)
    assert stored == size and dtype == "float32"

    def beside(loading: bool = False, **changes: object) -> int:
        one = Step(**{**step.__dict__, **changes})
        return process_memory.file_beside(one, step_memory.peak(one), loading)

    unquantised = step_memory.peak(Step(**{**step.__dict__, "quantization": "nf4"})).parts["unquantised modules"]
    assert beside(quantization="nf4") == size - unquantised, "float32 layers are left in the file, which stays mapped"
    assert beside(dtype="bfloat16") == 0 and beside(dtype="bfloat16", loading=True) == size, "copies: the file is closed after loading"
    plain, twice, saving = (Step(**{**step.__dict__, **one}) for one in ({}, {"max_tokens": 256}, {"checkpointing": True}))
    assert process_memory.gaps(twice, step_memory.peak(twice)) == 2 * process_memory.gaps(plain, step_memory.peak(plain)) > 0
    assert process_memory.gaps(saving, step_memory.peak(saving)) > allocator.KEPT_IN_A_PASS
    small = process_memory.parts_of(step, step_memory.peak(step))
    assert small[process_memory.WEIGHTS_FILE] < 8192, "its weights are the file, all but the header"
    read = Step(
        **{**step.__dict__, "base_model": MISTRAL, "max_tokens": 32, "micro_batch_size": 1, "quantization": "nf4", "dtype": "bfloat16"}
    )
    parts = process_memory.parts_of(read, step_memory.peak(read))
    assert sum(parts.values()) > 14.4e9 and sum(parts.values()) - parts[process_memory.WEIGHTS_FILE] < 8e9, "mapped pages may be dropped"


def test_more_work_takes_more_memory_and_checkpointing_and_nf4_take_less(step: Step) -> None:
    base = changed(step)
    assert base < changed(step, micro_batch_size=3) < changed(step, micro_batch_size=4)
    assert base < changed(step, max_tokens=256) and base < changed(step, supervised_share=1.0)
    assert base < changed(step, accumulates=True, supervised_share=0.1) + changed(step) - changed(step, supervised_share=0.1)
    few = changed(step, supervised_share=0.01)  # where logits are not the peak
    for less in ({"checkpointing": True}, {"dtype": "bfloat16"}, {"quantization": "nf4"}):
        assert changed(step, supervised_share=0.01, **less) < few
