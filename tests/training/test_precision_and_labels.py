"""LoRA weights are float32 for every compute type of the base; every packed record has supervised tokens, its end token among them."""

import pytest
import torch
from datasets import load_from_disk
from peft.tuners.lora.layer import LoraLayer
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from transformers import AutoModelForCausalLM, set_seed

from mistral_lib.model import base_model, likelihood
from mistral_lib.preparation import prepare
from mistral_lib.run import Run, files
from mistral_lib.run.settings import Settings
from mistral_lib.tokens.chat_format import IGNORED
from mistral_lib.training import optimizer_steps, train
from tests.support.disturbed_training import at_forward, events


@pytest.mark.parametrize(
    ("device", "dtype", "autocast"),
    [
        ("cuda", "float16", torch.float16),
        ("cuda", "bfloat16", torch.bfloat16),
        ("cuda", "float32", None),
        ("cpu", "bfloat16", None),
    ],
)
def test_autocast_follows_device_and_type(device: str, dtype: str, autocast: torch.dtype | None) -> None:
    assert optimizer_steps.autocast_type(device, dtype) == autocast


def test_trial_first_and_later_trainer_compute_in_the_same_types(opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without autocast, peft casts each LoRA input to float32: on a GPU the trial and every trainer but the first computed so."""
    monkeypatch.setattr(optimizer_steps, "autocast_type", lambda *_: torch.bfloat16)
    run, passes = opened(lora_dropout=0.05, max_steps=2, micro_batch_size=2, dtype="bfloat16"), []

    def before(module: torch.nn.Module, inputs: tuple) -> None:
        if type(module).__name__ == "MistralModel" and module.training:
            passes.append(set())

    def after(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Linear | LoraLayer) and module.training and passes:
            passes[-1].add(output.dtype)  # the input of the next projection

    handles = [register_module_forward_pre_hook(before), register_module_forward_hook(after)]
    try:
        with at_forward(lambda number: number == 3):
            train.train(run)
    finally:
        for handle in handles:
            handle.remove()
    assert len(events(run, "out_of_memory")) == 1 and len(passes) == 1 + 2 + 4, "the trial, a trainer, and the one after it"
    assert passes == [{torch.bfloat16}] * len(passes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_lora_weights_and_their_gradients_stay_float32_with_a_half_precision_base(
    prepared: Run, tiny_model: str, dtype: torch.dtype
) -> None:
    blocks = load_from_disk(prepared.folder / "data" / "train").select(range(2))
    batch = {name: torch.tensor(blocks[:][name]) for name in likelihood.COLUMNS}
    found = {}
    for kind in (torch.float32, dtype):
        base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=kind).requires_grad_(False)
        set_seed(0)
        model = base_model.attach_lora(base, Settings(base_model=tiny_model)).train()
        losses = likelihood.token_losses(model, batch)[0]
        (losses.mean() * 1024).backward()  # a loss scale, as float16 training has
        lora = {name: p for name, p in model.named_parameters() if p.requires_grad}
        assert all("lora_" in name and p.dtype == p.grad.dtype == torch.float32 for name, p in lora.items())
        assert all(torch.isfinite(p.grad).all() for p in lora.values())
        assert base.model.layers[0].mlp.up_proj.base_layer.weight.dtype == kind
        found[kind] = losses.mean().item()
    assert found[dtype] == pytest.approx(found[torch.float32], rel=2e-3)


def test_every_packed_record_has_supervised_tokens_and_a_supervised_end(settings: Settings, corpus) -> None:
    words = " ".join(f"word{n}" for n in range(400))  # far longer than a block
    files.write_json_lines(
        corpus / "long.jsonl", [{"prompt": f"Tell tale {n}.", "completion": f"{n} {words}", "module": f"t{n}"} for n in range(40)]
    )
    files.write_json_lines(
        corpus / "plain.jsonl", [{"text": f"Document {n} says what {n * 7} means. " * 3, "module": f"d{n}"} for n in range(40)]
    )
    run = Run.open(settings)
    prepare.prepare(run)
    end = base_model.load_tokenizer(settings.base_model).eos_token_id
    domains = set()
    for split in ("train", "validation", "test"):
        last: dict[str, int] = {}
        for block in load_from_disk(run.folder / "data" / split):
            starts = [place for place, position in enumerate(block["position_ids"]) if position == 0] + [len(block["input_ids"])]
            for number, (record, domain) in enumerate(zip(block["record_ids"], block["domains"], strict=True)):
                labels = block["labels"][starts[number] : starts[number + 1]]
                graded = [label for label in labels if label != IGNORED]
                assert graded, f"{split}: a window of {record} ({domain}) has no supervised token"
                last[record] = max(last.get(record, 0), graded.count(end))
                domains.add(domain)
        without = [record for record, ends in last.items() if not ends]
        assert last and without == [], f"{split}: {len(without)} of {len(last)} records have no supervised end token"
    assert {"long", "plain"} <= domains
