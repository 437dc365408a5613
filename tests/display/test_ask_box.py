"""The box that asks a served model."""

import threading

from mistral_lib.display.ask_box import PLAIN, AskBox


def asked(box: AskBox) -> None:
    box.ask.click()
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and thread.daemon and getattr(thread, "_target", None) == box._work:
            thread.join(10)


def test_an_answer_is_shown_as_text_and_the_button_can_be_used_again() -> None:
    box = AskBox(lambda question: f"<b>{question}</b>", "who?")
    asked(box)
    assert "&lt;b&gt;who?&lt;/b&gt;" in box.answer.value and "answered in" in box.note.value and not box.ask.disabled


def test_an_error_is_shown_and_an_empty_question_is_not_asked() -> None:
    def dead(question: str) -> str:
        raise ConnectionError("nothing answers")

    box = AskBox(dead)
    asked(box)
    assert box.note.value == "write a question first" and not box.ask.disabled
    box.prompt.value = "who?"
    asked(box)
    assert box.note.value == "ConnectionError: nothing answers" and not box.ask.disabled


def test_headless_it_is_a_line_of_text() -> None:
    assert AskBox(str)._repr_mimebundle_()["text/plain"] == PLAIN
