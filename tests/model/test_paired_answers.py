"""One prompt, two answers in one batch: each equals what its model answers alone, and the model is the one that was trained."""

import shutil
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch

from mistral_lib.kernels import fused_layers, paired_layers
from mistral_lib.model import base_model, paired_answers
from mistral_lib.run import Run, files, params, system_memory
from mistral_lib.tokens import chat_format
from tests.support.corpora import other

pytestmark = pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # peft, of an adapted embedding


@pytest.fixture(params=["all-linear", "q_proj, down_proj, embed_tokens"])
def pair(prepared: Run, request: pytest.FixtureRequest):
    """The tiny model with an adapter that changes every answer, and its tokenizer. The adapter of an embedding is answered with by peft."""
    torch.manual_seed(1)
    settings = prepared.settings.model_copy(update={"lora_targets": request.param})
    model = base_model.attach_lora(base_model.load_base(settings), settings).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:
            parameter.data.normal_(std=0.2)
    assert paired_layers.can_pair(model) == (request.param == "all-linear")
    return model, base_model.load_tokenizer(settings.base_model)


def alone(model, tokenizer, ids: list[int]) -> str:
    """The greedy answer of the model, adapter on or off as it is now, in a batch of one row."""
    batch = torch.tensor([ids])
    out = model.generate(input_ids=batch, attention_mask=torch.ones_like(batch), max_new_tokens=12, do_sample=False, use_cache=True)
    return tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).strip()


def test_each_row_answers_as_its_model_does_alone(pair) -> None:
    model, tokenizer = pair
    seen: list[list[str]] = []
    question = "What does red.tensor_0 do?"
    both = paired_answers.answer(model, tokenizer, question, 12, lambda texts, ended: seen.append(texts))
    ids = chat_format.prompt_ids(tokenizer, [{"role": "user", "content": question}])
    with model.disable_adapter():
        base = alone(model, tokenizer, ids)
    adapter = alone(model, tokenizer, ids)
    assert both.texts() == [base, adapter] and base != adapter
    assert len(seen) == 12 and seen[2] != seen[8] and seen[-1] == both.texts(), "token by token"


def test_unpacked_weights_give_the_same_answers_and_only_if_the_memory_suffices(pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def layers() -> list:
        return [module for module in pair[0].modules() if isinstance(module, bnb.nn.Linear4bit)]

    packed = paired_answers.answer(*pair, "What is a kernel?", 12, lambda texts, ended: None).texts()
    size = sum(layer.in_features * layer.out_features for layer in layers()) * layers()[0].weight.quant_state.dtype.itemsize
    monkeypatch.setattr(system_memory, "left_bytes", lambda: 2 * size - 1)
    assert not fused_layers.unpack(pair[0]) and len(layers()) == 14
    monkeypatch.setattr(system_memory, "left_bytes", lambda: 2 * size)
    assert fused_layers.unpack(pair[0]) and layers() == []
    assert paired_answers.answer(*pair, "What is a kernel?", 12, lambda texts, ended: None).texts() == packed


def test_it_stops_on_request(pair) -> None:
    seen: list[list[str]] = []

    def third(texts: list[str], ended: list[bool]) -> bool:
        seen.append(texts)
        return len(seen) >= 3

    both = paired_answers.answer(*pair, "What is a kernel?", 50, third)
    assert 3 <= len(both.ids[0]) <= 4, "at most one more token after the request"


def test_an_empty_prompt_is_refused(pair) -> None:
    with pytest.raises(ValueError, match="empty"):
        paired_answers.answer(*pair, "  ", 5, lambda texts, ended: None)


def test_the_parameters_of_the_training_count_and_not_todays(trained_run: Run, tiny_model: str) -> None:
    today = other(trained_run, base_model="models/another", quantization="nf4", dtype="auto", lora_rank=4, max_new_tokens=99)
    found = paired_answers.trained_settings(today)
    assert (found.base_model, found.quantization, found.dtype, found.lora_rank) == (tiny_model, "none", "float32", 16)
    assert found.max_new_tokens == 99, "what is not a parameter of the training is today's"
    said: list[str] = []
    model, tokenizer = paired_answers.load(today, said.append)
    assert said == ["loading tiny (none) and the adapter of small …"] and len(tokenizer) == model.config.vocab_size
    assert next(model.parameters()).dtype == torch.float32


def test_a_parameter_that_the_training_did_not_record_had_its_default(trained_run: Run) -> None:
    recorded = trained_run.entry("training")["parameters"]
    with trained_run.lock("a test"):
        trained_run.record("training", parameters={name: value for name, value in recorded.items() if name != "lora_dropout"})
    assert paired_answers.trained_settings(other(trained_run, lora_dropout=0.5)).lora_dropout == params.default("lora_dropout")


def test_without_a_complete_training_there_is_nothing_to_ask(prepared: Run) -> None:
    with pytest.raises(RuntimeError, match="stage training is not started, expected complete; train first: notebook 03_train_adapter"):
        paired_answers.load(prepared, print)


def test_an_altered_adapter_is_refused(trained_run: Run) -> None:
    (trained_run.folder / "training" / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(RuntimeError, match=r"small: training/adapter/adapter_model\.safetensors is missing; train again"):
        paired_answers.trained_settings(trained_run)


def test_a_base_model_that_changed_since_the_training_is_refused(trained_run: Run, tiny_model: str, home: Path) -> None:
    trained = trained_run.entry("training")["inputs"]["base_model"]
    assert base_model.pinned(tiny_model, trained) == tiny_model
    shutil.copytree(tiny_model, home / "models" / "tiny")
    config = files.read_json(home / "models" / "tiny" / "config.json")
    files.write_json(home / "models" / "tiny" / "config.json", {**config, "rope_theta": 1.0})
    with pytest.raises(base_model.BaseModelError, match=r"tiny: its weights or config\.json are not those that the adapter was trained on"):
        base_model.pinned("models/tiny", trained)


def test_a_hub_model_is_loaded_at_the_commit_that_was_trained() -> None:
    for name in ("mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mistral-7B-Instruct-v0.3@main"):
        assert base_model.pinned(name, "c" * 40) == f"mistralai/Mistral-7B-Instruct-v0.3@{'c' * 40}"
