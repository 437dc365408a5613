"""The page that asks both models: it loads the model that was trained, says what it is doing and what went wrong, and gives the memory back."""

import threading
import time
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mistral_lib.display import side_by_side_chat
from mistral_lib.display.side_by_side_chat import Chat
from mistral_lib.model import base_model, paired_answers
from mistral_lib.run import Run
from mistral_lib.training import trainer_process
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


def released(chat: Chat) -> weakref.ref:
    """A weak reference to the chat's model, which is loaded now."""
    assert chat.model is not None and not chat.give_back.disabled
    return weakref.ref(chat.model)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_its_button_gives_the_memory_back_and_the_next_question_loads_again(trained_run: Run) -> None:
    chat = Chat(trained_run, "What does red.tensor_0 do?")
    assert chat.give_back.disabled, "nothing is loaded yet"
    chat._answer()
    first, model = chat.answers[1].value, released(chat)
    chat.give_back.click()
    until(lambda: chat.give_back.disabled)
    assert model() is None and chat.note.value == "the model's memory is free; the next question loads it again"
    chat._answer()
    assert chat.answers[1].value == first and released(chat)() is chat.model


def test_a_page_that_asks_nothing_for_a_while_or_is_closed_gives_it_back(trained_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = Chat(trained_run, "What does red.tensor_0 do?")
    monkeypatch.setattr(side_by_side_chat, "IDLE_SECONDS", 0.3)
    chat._answer()
    model = weakref.ref(chat.model) if chat.model is not None else lambda: None
    until(lambda: chat.give_back.disabled)
    assert model() is None
    monkeypatch.setattr(side_by_side_chat, "IDLE_SECONDS", 900.0)
    chat._answer()
    model = released(chat)
    chat.close()
    assert model() is None


def test_another_model_in_the_same_kernel_or_a_training_takes_its_place(trained_run: Run, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """In the middle of an answer as well: that ends with its next token."""
    chat = Chat(trained_run, "What does red.tensor_0 do?")
    answer, begun, go_on = paired_answers.answer, threading.Event(), threading.Event()

    def slow(*arguments: Any) -> Any:
        begun.set()
        go_on.wait(60)
        return answer(*arguments)

    monkeypatch.setattr(paired_answers, "answer", slow)
    chat.ask.click()
    assert begun.wait(60)
    model = released(chat)
    threading.Timer(0.3, go_on.set).start()
    base_model.load_base(trained_run.settings)
    assert model() is None and chat.model is None
    until(lambda: not chat.ask.disabled)
    assert "stopped" in chat.answers[0].value, "it was not written to its end"

    chat._answer()
    model = released(chat)
    monkeypatch.setattr(trainer_process.subprocess, "Popen", lambda *_, **__: SimpleNamespace(pid=1, poll=lambda: 0, returncode=0))
    capsys.readouterr()
    trainer_process.start(other(trained_run, max_steps=9))
    assert model() is None and "the chat's model in this notebook is freed" in capsys.readouterr().err
