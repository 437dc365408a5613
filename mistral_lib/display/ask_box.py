"""Notebook 05: a question to a served model, and its answer below. Knows a function that answers; knows no server."""

import html
import threading
import time
from collections.abc import Callable

import ipywidgets

from mistral_lib.display.widget_base import PlainTextBox, button

PLAIN = "(a box to ask the served model; open this notebook in JupyterLab to use it)"
ANSWER = '<pre style="white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.4;border-left:4px solid #0072B2;padding-left:8px">{}</pre>'


class AskBox(PlainTextBox):
    """A prompt, a button, an answer."""

    def __init__(self, answer: Callable[[str], str], prompt: str = ""):
        """answer: from question to answer; it may take long and may raise."""
        self._answer = answer
        self.prompt = ipywidgets.Textarea(value=prompt, placeholder="ask the served model …", layout={"width": "98%", "height": "4em"})
        self.ask = button("Ask", self._ask, icon="play", button_style="primary")
        self.note, self.answer = ipywidgets.HTML(), ipywidgets.HTML()
        super().__init__([self.prompt, ipywidgets.HBox([self.ask, self.note]), self.answer], PLAIN)

    def _ask(self) -> None:
        if not self.prompt.value.strip():
            self.note.value = "write a question first"
            return
        self.ask.disabled, self.note.value = True, "answering …"
        threading.Thread(target=self._work, args=(self.prompt.value,), daemon=True).start()

    def _work(self, question: str) -> None:
        began = time.perf_counter()
        try:
            self.answer.value = ANSWER.format(html.escape(self._answer(question)))
            self.note.value = f"answered in {time.perf_counter() - began:.0f} s"
        except Exception as error:  # an error in a thread is shown nowhere else
            self.note.value = f"{type(error).__name__}: {html.escape(str(error))}"
        finally:
            self.ask.disabled = False
