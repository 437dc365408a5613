"""docs/models.md: the family's table, made from its data and from the tests that prove it, and compared with the file.

`python -m tests.family.test_models_page` writes the file anew.
"""

import pytest

from mistral_lib.family import published_models, refused_models
from mistral_lib.family.published_models import FamilyModel
from mistral_lib.model import mistral_tokenizer, model_shapes, step_memory
from mistral_lib.model.step_memory import Step
from mistral_lib.run import paths
from tests.family import test_published_models as tests
from tests.support import family
from tests.tokens import test_mistral_versions

PAGE = paths.project() / "docs" / "models.md"
PARTS = {
    "NF4": tests.test_it_is_loaded_in_nf4_and_only_language_layers_are_adapted,
    "logits": tests.test_the_language_model_computes_what_the_complete_model_does,
    "packing": tests.test_packed_records_have_the_losses_and_gradients_of_separate_ones,
    "fused": tests.test_the_layers_have_their_fused_forward_passes,
    "training": tests.test_a_training_step_lowers_the_loss_and_the_adapter_reloads_into_the_same_base,
    "complete": tests.test_the_adapter_fits_the_complete_multimodal_model_under_its_names,
    "plan": tests.test_the_plan_builds_it_with_the_adapter_of_training,
}
INTRODUCTION = """# The Mistral family

Made by `python -m tests.family.test_models_page` from `mistral_lib/family/published_models.py` and from the tests themselves; `make test` compares this page with what they make. **None of these models was trained here at its real size**: what is tested is a tiny model of random weights and the same class, on a CPU.

Set `base_model` to one of the hub ids. `python -m mistral_lib plan params/g5_mistral_7b.yaml --set base_model=mistralai/Mistral-Nemo-Instruct-2407` plans it without fetching anything. Sizes are in the order: tokens of the vocabulary, width, width of the MLP, layers, heads / heads for keys and values.

| model | class | sizes | GiB in NF4 | tokenizer | chat format equals mistral-common's | tested parts |
|---|---|---|---|---|---|---|
"""
NOTES = """
## What the columns mean

- **GiB in NF4**: the language layers in NF4 with double quantization, embedding and head in 16 bits; without adapter, activations and the CUDA context, which `plan` adds.
- **chat format**: `tests/tokens/test_mistral_versions.py` compares token ids and the graded tokens for texts, system text, several turns, documents and (from v3 on) tools. *file*: with the very tokenizer file that mistral-common ships. *encoder*: mistral-common does not ship this version's file; its encoder of that version was given the tekken vocabulary that it ships. The model's own `tokenizer.json` and template from the hub were compared in neither case. The versions v2 and v7 with SentencePiece, of which no model is listed, are compared as well.
- **NF4**: loaded in NF4, and LoRA with `all-linear` reaches the seven projections of each language layer and nothing else. **logits**: equal to those of the complete model. **packing**: losses and gradients of packed records equal those of separate ones, for records shorter and longer than sliding window and query scaling, with the attention for CPUs and with transformers' mask. **fused**: norms, MLP, attention and LoRA have their fused forward pass. **training**: steps lower the loss; the adapter is saved, reloaded into a fresh base, and measured with the same loss, beside the base. **complete**: the adapter, its tensors renamed (`text_part.adapter_key_for_complete_model`), gives the same logits in the complete multimodal model. **plan**: the fit plan builds the same adapter.

## Multimodal checkpoints: the text part

The language layers of a `Mistral3ForConditionalGeneration` are a complete `MistralForCausalLM` or `Ministral3ForCausalLM` under other names (`language_model.model.…`). This class is loaded from the checkpoint by renaming; vision tower and projector are not read, so no adapter can reach them. Loading stops if a tensor is missing. The adapter's tensors have the names of the text model; a server that loads the complete model needs them renamed.

## Long records

Sliding-window layers (7B v0.1, Ministral 8B) and the query scaling of Ministral 3 change nothing in blocks that are no longer than the window (4,096 and 32,768 tokens) or than `original_max_position_embeddings` (16,384). Longer blocks are computed by transformers' own attention with a mask, which is slower.

## Without the hub

If the hub cannot be reached, the tokenizer of these models is rebuilt from the vocabulary that mistral-common ships, so that notebooks 01 and 02 and the plan can count, and a message says so. Training needs the model's own files.

## Refused by name

"""
UNVERIFIED = "\n## What no source confirmed\n\n"


def nf4_gib(row: FamilyModel) -> float:
    config = published_models.text_config(row)
    linear = model_shapes.linear_parameters(config)
    return (linear * (1 / 2 + 1 / 64 + 4 / 64 / 256) + model_shapes.checkpoint_bytes(config) - 2 * linear) / 2**30


def chat_format(row: FamilyModel) -> str:
    assert row.tokenizer in test_mistral_versions.VERSIONS
    return "encoder" if row.tokenizer in mistral_tokenizer.COMPOSED else f"file (`{mistral_tokenizer.FILES[row.tokenizer]}`)"


def parts_of(row: FamilyModel) -> str:
    """The tests that have the row's kind among their parameters."""
    marks = {part: [mark for mark in test.pytestmark if mark.args[0] == "kind"] for part, test in PARTS.items()}
    return ", ".join(part for part, found in marks.items() if family.kind(row) in found[0].args[1])


def table_row(row: FamilyModel) -> str:
    sizes = row.sizes
    shown = f"{sizes['vocab_size']:,}, {sizes['hidden_size']:,}, {sizes['intermediate_size']:,}, {sizes['num_hidden_layers']}, {sizes['num_attention_heads']} / {sizes['num_key_value_heads']}"
    names = "<br>".join(f"`{name}`" for name in row.hub_ids)
    mark = " (?)" if row.unverified else ""
    text = {"ministral3": "Ministral3ForCausalLM", "mistral": "MistralForCausalLM"}.get(row.model_type)
    shown_class = f"`{row.architecture}`, of it `{text}`" if row.multimodal else f"`{row.architecture}`"
    return f"| **{row.name}**{mark}<br>{names} | {shown_class} | {shown} | {nf4_gib(row):.2f} | {row.tokenizer} | {chat_format(row)} | {parts_of(row)} |"


def page() -> str:
    rows = "\n".join(map(table_row, published_models.FAMILY))
    refused = "\n".join(
        f"- `{pattern.strip('()')}`: {reason.format(other='the same name with -BF16 at its end')}"
        for pattern, reason in refused_models.BY_NAME
    )
    others = "\n- Folders: the same models by `config.json`, weights that are quantized already, and a checkpoint with `params.json` and `consolidated.safetensors` only."
    sources = "\n".join(f"- {row.name}: {row.source}" for row in published_models.FAMILY)
    unsure = "\n".join(f"- {row.name} (?): {row.unverified}" for row in published_models.FAMILY if row.unverified)
    return f"{INTRODUCTION}{rows}\n{NOTES}{refused}{others}\n\n## Sources of the sizes\n\n{sources}\n{UNVERIFIED}{unsure}\n"


def test_the_size_in_nf4_of_the_page_is_that_of_the_plan() -> None:
    row = next(row for row in published_models.FAMILY if row.name == "Ministral 3 3B")
    parts = step_memory.peak(Step(row.hub_ids[0], 128, 1, checkpointing=True)).parts
    assert nf4_gib(row) == pytest.approx((parts["weights in NF4"] + parts["unquantized modules"]) / 2**30, abs=0.01)


def test_the_page_is_what_these_tests_make() -> None:
    assert PAGE.read_text() == page(), "python -m tests.family.test_models_page writes it anew"


if __name__ == "__main__":
    PAGE.write_text(page())
