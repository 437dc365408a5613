"""The loss: equal to that of transformers on separate records, whatever they are packed with."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from datasets import load_from_disk
from transformers import AutoModelForCausalLM, set_seed

from mistral_lib.model import base_model, likelihood
from mistral_lib.run import Run
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import packing
from mistral_lib.tokens.chat_format import IGNORED, Encoded


def test_packed_losses_equal_separate_ones(prepared: Run, tiny_model: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    blocks = load_from_disk(prepared.folder / "data" / "test").select(range(4))
    for row, block in enumerate(blocks):
        starts = [i for i, place in enumerate(block["position_ids"]) if place == 0] + [len(block["input_ids"])]
        packed = likelihood.record_losses(model, blocks.select([row]), 1)
        assert len(packed) == len(block["record_ids"]) > 1
        for number, loss in enumerate(packed):
            part = slice(starts[number], starts[number + 1])
            ids, labels = (torch.tensor([block[name][part]]) for name in ("input_ids", "labels"))
            with torch.no_grad():
                alone = model(input_ids=ids, labels=labels, attention_mask=torch.ones_like(ids)).loss.item()
            assert loss.tokens == sum(label != IGNORED for label in block["labels"][part])
            assert math.isclose(loss.nats / loss.tokens, alone, rel_tol=1e-5)


def test_a_model_with_equal_logits_has_the_loss_of_a_uniform_guess(tiny_model: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    torch.nn.init.zeros_(model.lm_head.weight)
    blocks = packing.blocks(np.array([5, 6, 7, 8]), np.array([False, True, True, True]), np.array([4]), np.array([1]), 4, 0)
    batch = {name: torch.tensor(blocks[name].astype("int64")) for name in likelihood.COLUMNS}
    losses, graded = likelihood.token_losses(model, batch)
    assert graded.tolist() == [[False, True, True, True]]
    assert losses.tolist() == pytest.approx([math.log(model.config.vocab_size)] * 3)


def gradients(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    model.train()
    model.zero_grad()
    likelihood.token_losses(model, batch)[0].mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_measuring_in_between_does_not_change_the_gradients_of_a_4_bit_model(tiny_model: str, prepared: Run) -> None:
    """bitsandbytes repacks weights at the first forward without gradients on some CPUs; base_model prevents it."""
    settings = Settings(base_model=tiny_model, quantization="nf4")
    blocks = load_from_disk(prepared.folder / "data" / "validation").select(range(2))
    batch = {name: torch.tensor(blocks[:][name]) for name in likelihood.COLUMNS}
    set_seed(0)
    model = base_model.attach_lora(base_model.load_base(settings), settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)  # so that every lora_A has a gradient too
    before = gradients(model, batch)
    likelihood.record_losses(model, blocks, 2)
    after = gradients(model, batch)
    assert len(before) == 2 * 2 * 7, "two layers, seven projections, two matrices"
    assert all(torch.allclose(before[name], after[name], rtol=1e-4, atol=1e-7) for name in before)
    import bitsandbytes as bnb

    quantized = [m for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert quantized and not any(m.support_avx512bf16_for_cpu for m in quantized)


@pytest.mark.parametrize("at_once", [10_000, 1])
def test_answers_to_one_prompt_have_the_losses_of_separate_records(at_once: int, tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """at_once: the prompt tokens that are copied at once; with 1 each column of answers goes through the model alone."""
    monkeypatch.setattr(likelihood, "CHOICE_TOKENS", at_once)
    settings = Settings(base_model=tiny_model, quantization="none", dtype="float32")
    set_seed(0)
    model = base_model.attach_lora(base_model.load_base(settings), settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    prompts, answers = (
        [[5, 6, 7, 8, 9], [11, 12], [13, 14, 15]],
        [[[20, 21, 2], [20, 22, 23, 2], [24, 2]], [[25, 2], [26, 2]], [[27, 30, 2], [27, 31, 2]]],
    )
    shared = [0, 0, 1]  # first tokens that all answers of a prompt have in common: they decide nothing and are not counted
    questions = [
        [Encoded(prompt + answer, [IGNORED] * len(prompt) + answer) for answer in own] for prompt, own in zip(prompts, answers, strict=True)
    ]
    found = likelihood.choice_losses(model, questions)
    for who in ("base", "adapter"):
        for windows, prompt, skipped, nats in zip(questions, prompts, shared, found[who], strict=True):
            for window, own in zip(windows, nats, strict=True):
                ids, labels = torch.tensor([window.input_ids]), torch.tensor([window.labels])
                labels[:, : len(prompt) + skipped] = IGNORED
                with torch.no_grad(), model.disable_adapter() if who == "base" else nullcontext():
                    mean = model(input_ids=ids, labels=labels, attention_mask=torch.ones_like(ids)).loss.item()
                assert own == pytest.approx(mean * (window.supervised - skipped), rel=1e-4)
    assert found["base"] != found["adapter"]
