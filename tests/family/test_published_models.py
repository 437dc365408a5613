"""Every model of the family's table, as a tiny one of its architecture, through loading, training, measuring, saving and reloading.

docs/models.md is made from the table and from these tests (test_models_page.py).
"""

from functools import cache
from pathlib import Path

import bitsandbytes as bnb
import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset

from mistral_lib.family import layer_classes, published_models, text_part
from mistral_lib.family.published_models import FamilyModel
from mistral_lib.model import base_model, likelihood, model_shapes, step_memory
from mistral_lib.model.step_memory import Step
from mistral_lib.run.settings import Settings
from mistral_lib.training import adapter_check
from tests.support import family

KINDS = family.kinds()
LONG, SHORT = (9, 40, 6), (7, 5, 10)  # tokens of the records of a block: one beyond sliding window and query scaling, none
each_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory):
    """kind → (folder of the tiny model, that model), made once."""
    places = tmp_path_factory.mktemp("family")

    @cache
    def of(kind: str) -> tuple[str, torch.nn.Module]:
        return str(places / kind), family.save(KINDS[kind], places / kind)

    return of


def loaded(folder: str, quantization: str = "none") -> tuple[torch.nn.Module, Settings]:
    settings = Settings(base_model=folder, quantization=quantization, dtype="float32", lora_rank=4, lora_targets="all-linear")
    return base_model.load_base(settings), settings


def adapted(folder: str, quantization: str = "none") -> tuple[torch.nn.Module, Settings]:
    """The model with an adapter that changes something."""
    model, settings = loaded(folder, quantization)
    transformers.set_seed(0)
    model = base_model.attach_lora(model, settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model, settings


def blocks(lengths: tuple[int, ...], count: int = 2) -> Dataset:
    """Packed blocks of records with these lengths; every token but the first two of a record is graded."""
    tokens = np.random.default_rng(0).integers(5, family.WORDS, sum(lengths) * count)
    own = np.concatenate([np.arange(length) for _ in range(count) for length in lengths])
    starts = np.flatnonzero(own == 0).reshape(count, -1)
    return Dataset.from_dict(
        {
            "input_ids": tokens.reshape(count, -1).tolist(),
            "labels": np.where(own < 2, -100, tokens).reshape(count, -1).tolist(),
            "position_ids": own.reshape(count, -1).tolist(),
            "record_ids": [[f"{row}-{place}" for place in range(len(lengths))] for row in range(len(starts))],
            "domains": [["d"] * len(lengths) for _ in starts],
        }
    )


def batch(rows: Dataset) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(rows[:][name]) for name in likelihood.COLUMNS}


@each_kind
def test_it_is_loaded_in_nf4_and_only_language_layers_are_adapted(kind: str, made) -> None:
    row, (folder, _) = KINDS[kind], made(kind)
    model = adapted(folder, "nf4")[0]
    inner = likelihood._base(model)
    assert (
        type(inner).__name__ == {"mistral": "Mistral", "ministral": "Ministral", "ministral3": "Ministral3"}[row.model_type] + "ForCausalLM"
    )
    assert isinstance(inner.lm_head, torch.nn.Linear) and len(inner.model.layers) == 4
    quantized = [name for name, module in inner.named_modules() if isinstance(module, bnb.nn.Linear4bit) and "lora" not in name]
    assert len(quantized) == 4 * 7 and all(name.startswith("model.layers.") for name in quantized)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(trained) == 4 * 7 * 2 and all(".model.layers." in name and "lora_" in name for name in trained)
    assert not [name for name, _ in model.named_modules() if "vision" in name or "projector" in name]
    tied = inner.lm_head.weight.data_ptr() == inner.model.embed_tokens.weight.data_ptr()
    assert tied == row.sizes["tie_word_embeddings"]


@each_kind
def test_the_language_model_computes_what_the_complete_model_does(kind: str, made) -> None:
    """Weights are where they belong, and none is random: also those of a multimodal checkpoint, whose tensors have other names."""
    folder, whole = made(kind)
    model, _ = loaded(folder)
    ids = batch(blocks(LONG, 1))["input_ids"]
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, whole(input_ids=ids).logits)


@each_kind
@pytest.mark.parametrize(("lengths", "by_record"), [(LONG, True), (SHORT, True), (LONG, False)], ids=["long", "short", "masked"])
def test_packed_records_have_the_losses_and_gradients_of_separate_ones(kind: str, lengths: tuple[int, ...], by_record: bool, made) -> None:
    """Against transformers' own forward pass of each record: no record attends to another, and the fused layers change nothing.

    by_record: with the attention for CPUs; without it transformers' mask keeps the records apart.
    """
    folder, _ = made(kind)
    plain, fused = adapted(folder)[0], adapted(folder)[0]
    for module in plain.modules():
        if hasattr(module, "plain_forward"):
            module.forward = module.plain_forward
    if not by_record:
        del likelihood._base(fused).model.packed_forward
    rows = blocks(lengths)
    packed = batch(rows)
    found = likelihood.training_losses(fused, packed)
    found.sum().backward()
    expected = []
    for row in range(len(rows)):
        for record in torch.arange(sum(lengths)).split(lengths):
            ids, labels = packed["input_ids"][row, record][None], packed["labels"][row, record]
            logits = plain(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
            expected.append(torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="none")[labels[1:] != -100])
    torch.cat(expected).sum().backward()
    assert torch.allclose(found, torch.cat(expected), atol=2e-5)
    gradients = [(name, one.grad, other.grad) for (name, one), other in zip(fused.named_parameters(), plain.parameters(), strict=True)]
    compared = [name for name, one, other in gradients if one is not None and torch.allclose(one, other, rtol=1e-3, atol=1e-4)]
    assert len(compared) == sum(parameter.requires_grad for parameter in fused.parameters()) == 56


@each_kind
def test_the_layers_have_their_fused_forward_passes(kind: str, made) -> None:
    model, _ = adapted(made(kind)[0])
    inner = likelihood._base(model).model
    layer = inner.layers[0]
    assert all(hasattr(module, "plain_forward") for module in (layer.mlp, layer.input_layernorm, layer.self_attn, inner.norm))
    limit = layer_classes.longest_plain_block(inner.config)
    scaled = KINDS[kind].model_type == "ministral3"
    assert limit == (family.SCALED_FROM if scaled else family.WINDOW if KINDS[kind].sizes["sliding_window"] else float("inf"))
    assert sum(SHORT) <= limit and (limit == float("inf") or sum(LONG) > limit)


@each_kind
def test_a_training_step_lowers_the_loss_and_the_adapter_reloads_into_the_same_base(kind: str, made, tmp_path: Path) -> None:
    model, settings = adapted(made(kind)[0], "nf4")
    initial, rows = base_model.adapter_hash(model), blocks(LONG)
    before = likelihood.mean(likelihood.record_losses(model, rows, 2))
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        likelihood.training_losses(model.train(), batch(rows)).mean().backward()
        optimizer.step()
    trained = likelihood.record_losses(model, rows, 2)
    assert likelihood.mean(trained) < before - 0.01
    numbers = dict.fromkeys(("records", "blocks", "block_tokens", "supervised_tokens", "steps", "adapter_step", "blocks_per_step"), 1)
    saved = adapter_check.save(model, settings, tmp_path, initial, numbers)
    again = base_model.load_adapter(settings, saved)
    assert base_model.adapter_hash(again) == base_model.adapter_hash(model) != initial
    measured = likelihood.paired_batch_losses(again, rows[:])
    assert [one.nats for one in measured["adapter"]] == pytest.approx([one.nats for one in trained], rel=1e-4)
    alone = likelihood.record_losses(loaded(made(kind)[0], "nf4")[0], rows, 2)
    assert [one.nats for one in measured["base"]] == pytest.approx([one.nats for one in alone], rel=1e-4)


@pytest.mark.parametrize("kind", [kind for kind, row in KINDS.items() if row.multimodal])
def test_the_adapter_fits_the_complete_multimodal_model_under_its_names(kind: str, made, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    folder, _ = made(kind)
    model, _ = adapted(folder)
    renamed = {text_part.adapter_key_for_complete_model(key): value for key, value in get_peft_model_state_dict(model).items()}
    whole = transformers.Mistral3ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    options = {key: getattr(model.peft_config["default"], key) for key in ("r", "lora_alpha")}
    targets = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj"
    whole = get_peft_model(whole, LoraConfig(target_modules=targets, **options)).eval()
    outcome = set_peft_model_state_dict(whole, renamed)
    assert not outcome.unexpected_keys
    ids = batch(blocks(LONG, 1))["input_ids"]
    with torch.no_grad():
        assert torch.allclose(whole(input_ids=ids).logits, model.eval()(input_ids=ids).logits, atol=1e-4)


@each_kind
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_plan_builds_it_with_the_adapter_of_training(kind: str, device: str, made) -> None:
    folder, _ = made(kind)
    trained = sum(parameter.numel() for parameter in adapted(folder)[0].parameters() if parameter.requires_grad)
    planned = step_memory.peak(Step(folder, 64, 2, checkpointing=False, device=device, lora_rank=4))
    assert planned.trainable == trained and planned.parts["activations"] > 0
    quantized = model_shapes.linear_parameters(model_shapes.config_of(folder))
    assert planned.parts["weights in NF4"] == pytest.approx(quantized * 4.127 / 8, rel=0.01)


BILLIONS = {"Mistral 7B v0.1": 7.24, "Mistral 7B v0.2": 7.24, "Mistral 7B v0.3": 7.25, "Mistral Nemo 12B 2407": 12.2, "Ministral 8B 2410": 8.02,
            "Mistral Small 24B 2501": 23.6, "Mistral Small 3.1 24B 2503": 23.6, "Mistral Small 3.2 24B 2506": 23.6, "Ministral 3 3B": 3.4,
            "Ministral 3 8B": 8.5, "Ministral 3 14B": 13.5}  # fmt: skip  # parameters of the language layers as the models' cards state them


@pytest.mark.parametrize("row", published_models.FAMILY, ids=lambda row: row.name)
def test_the_plan_knows_its_sizes_without_a_hub(row: FamilyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """And they add up to the number of parameters that is published."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    for name in row.hub_ids:
        config = model_shapes.config_of(name)
        assert config.model_type == row.model_type and {key: getattr(config, key) for key in row.sizes} == row.sizes
        assert model_shapes.checkpoint_bytes(config) / 2e9 == pytest.approx(BILLIONS[row.name], rel=0.01)
