"""A published model's tokenizer when the hub cannot be reached: for counts, with a message; never for other models, never for training."""

import pytest

from mistral_lib.corpus.records import Record
from mistral_lib.model import base_model, mistral_tokenizer
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import chat_format

NAME = "mistralai/Mistral-7B-Instruct-v0.3"
CHAT = [{"role": "user", "content": "Why </s>?"}, {"role": "assistant", "content": "So."}]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    base_model.load_tokenizer.cache_clear()
    yield
    base_model.load_tokenizer.cache_clear()


def test_a_published_model_gets_its_tokenizer_and_says_so(home, capsys: pytest.CaptureFixture) -> None:
    tokenizer = base_model.load_tokenizer(f"{NAME}@main")
    (found,) = chat_format.encode(tokenizer, [Record("d", "f:1", "g", "messages", messages=CHAT)])
    (expected,) = chat_format.encode(mistral_tokenizer.load("v3"), [Record("d", "f:1", "g", "messages", messages=CHAT)])
    assert found == expected and found.supervised == 3
    said = capsys.readouterr().err
    assert "HF_HUB_OFFLINE is set" in said and "version v3 from mistral-common, for counts and plans (its token ids are exact)" in said
    assert "training needs the model's own files" in said


def test_a_composed_version_says_that_ids_may_differ(home, capsys: pytest.CaptureFixture) -> None:
    tokenizer = mistral_tokenizer.without_hub("mistralai/Ministral-3-3B-Base-2512", OSError("offline"))
    assert tokenizer.pad_token == "<pad>" and "its counts are right, its control tokens may have other ids" in capsys.readouterr().err


def test_training_and_other_models_still_need_their_files(home) -> None:
    with pytest.raises(base_model.BaseModelError, match="HF_HUB_OFFLINE is set"):
        base_model.load_base(Settings(base_model=NAME))
    with pytest.raises(base_model.BaseModelError, match="HF_HUB_OFFLINE is set"):
        base_model.load_tokenizer("somebody/some-model")
    assert mistral_tokenizer.without_hub("somebody/some-model", OSError("offline")) is None
