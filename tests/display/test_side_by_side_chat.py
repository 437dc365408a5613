"""The page that asks both models: it loads the model that was trained, and says what it is doing and what went wrong."""

import pytest

from mistral_lib.display.side_by_side_chat import Chat
from mistral_lib.run import Run
from tests.support.corpora import other


def notes(chat: Chat) -> list[str]:
    """What the page has said above the answers, from now on."""
    found: list[str] = []
    chat.note.observe(lambda change: found.append(change["new"]), "value")
    return found


def test_it_loads_what_was_trained_once_and_says_what_it_does(trained_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat(other(trained_run, base_model="models/another", quantization="nf4"), "What does red.tensor_0 do?")
    said = notes(chat)
    chat._answer()
    assert said[:2] == ["loading tiny (none) and the adapter of small …", "answering …"] and said[2].startswith("answered in "), said
    assert all("<pre" in place.value and "cut here" in place.value for place in chat.answers)
    chat._answer()
    assert said[3] == "answering …" and len(said) in (4, 5), "the model stays loaded; five if the seconds differ"


def test_an_untrained_run_gets_the_way_out(prepared: Run) -> None:
    chat = Chat(prepared, "What does red.tensor_0 do?")
    chat._answer()
    assert chat.note.value.startswith("RuntimeError: ") and "train first: notebook 03_train_adapter" in chat.note.value
    assert not chat.ask.disabled and chat.stop.disabled, "another question can be asked"
