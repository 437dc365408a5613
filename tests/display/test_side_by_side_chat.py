"""One prompt, two answers in one batch: each equals what its model answers alone."""

import pytest
import torch

from mistral_lib.display import side_by_side_chat
from mistral_lib.model import base_model
from mistral_lib.run import Run
from mistral_lib.tokens import chat_format


@pytest.fixture
def pair(prepared: Run):
    """The tiny model with an adapter that changes every answer, and its tokenizer."""
    torch.manual_seed(1)
    model = base_model.attach_lora(base_model.load_base(prepared.settings), prepared.settings).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    return model, base_model.load_tokenizer(prepared.settings.base_model)


def alone(model, tokenizer, ids: list[int]) -> str:
    """The greedy answer of the model, adapter on or off as it is now, in a batch of one row."""
    batch = torch.tensor([ids])
    out = model.generate(input_ids=batch, attention_mask=torch.ones_like(batch), max_new_tokens=12, do_sample=False, use_cache=True)
    return tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).strip()


def test_each_row_answers_as_its_model_does_alone(pair) -> None:
    model, tokenizer = pair
    seen: list[list[str]] = []
    question = "What does red.tensor_0 do?"
    both = side_by_side_chat.answer(model, tokenizer, question, 12, lambda texts, ended: seen.append(texts))
    ids = chat_format.prompt_ids(tokenizer, [{"role": "user", "content": question}])
    with model.disable_adapter():
        base = alone(model, tokenizer, ids)
    adapter = alone(model, tokenizer, ids)
    assert both.texts() == [base, adapter] and base != adapter
    assert len(seen) == 12 and seen[2] != seen[8] and seen[-1] == both.texts(), "token by token"


def test_it_stops_on_request(pair) -> None:
    seen: list[list[str]] = []

    def third(texts: list[str], ended: list[bool]) -> bool:
        seen.append(texts)
        return len(seen) >= 3

    both = side_by_side_chat.answer(*pair, "What is a kernel?", 50, third)
    assert 3 <= len(both.ids[0]) <= 4, "at most one more token after the request"


def test_an_empty_prompt_is_refused(pair) -> None:
    with pytest.raises(ValueError, match="empty"):
        side_by_side_chat.answer(*pair, "  ", 5, lambda texts, ended: None)
