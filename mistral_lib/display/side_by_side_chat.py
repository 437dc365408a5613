"""Ask base model and adapter the same question and watch both answers side by side, token by token."""

import html
import threading
import time

import ipywidgets

from mistral_lib.display import figure
from mistral_lib.display.widget_base import PlainTextBox, button
from mistral_lib.model import paired_answers
from mistral_lib.run import Run

PLAIN = "(side-by-side chat: one prompt, base and adapter answering next to each other; open this notebook in JupyterLab to ask)"
ANSWER = (
    '<div style="border:1px solid #999;border-top:4px solid {color};border-radius:4px;padding:6px 10px;margin:0 6px 6px 0"><b>{who}</b> '
    '<span style="opacity:.75">{state}</span>'
    '<pre style="white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere;line-height:1.4;min-height:3em;margin:4px 0 0">{text}</pre></div>'
)
COLORS = {"base model": figure.BASE, "adapter": figure.ADAPTER}


class Chat(PlainTextBox):
    """A prompt, a button, two answers. The model is loaded at the first question and stays loaded while the kernel lives."""

    def __init__(self, run: Run, prompt: str = ""):
        self.run, self.model, self.tokenizer, self._stop_requested = run, None, None, False
        self.prompt = ipywidgets.Textarea(value=prompt, placeholder="ask both …", layout={"width": "98%", "height": "5em"})
        look = {"description": "longest answer, tokens", "style": {"description_width": "initial"}, "layout": {"width": "28em"}}
        self.longest = ipywidgets.IntSlider(run.settings.max_new_tokens, 8, 512, 8, **look)
        self.ask = button("Ask both", self._ask, icon="play", button_style="primary")
        self.stop = button("Stop", self._stop, icon="stop", disabled=True)
        self.note = ipywidgets.HTML()
        self.answers = [ipywidgets.HTML(layout={"width": "50%"}) for _ in COLORS]
        buttons = ipywidgets.HBox([self.ask, self.stop, self.longest], layout={"flex_flow": "row wrap"})
        super().__init__([self.prompt, buttons, self.note, ipywidgets.HBox(self.answers)], PLAIN)
        self._show(["", ""], [False, False], "")

    def _show(self, texts: list[str], ended: list[bool], state: str) -> None:
        for place, who, text, done in zip(self.answers, COLORS, texts, ended, strict=True):
            place.value = ANSWER.format(color=COLORS[who], who=who, text=html.escape(text), state="" if done else state)

    def _ask(self) -> None:
        """Answer in a thread, so that the Stop button works meanwhile."""
        self.ask.disabled, self.stop.disabled, self._stop_requested = True, False, False
        threading.Thread(target=self._answer, daemon=True).start()

    def _stop(self) -> None:
        self._stop_requested = True

    def _watch(self, texts: list[str], ended: list[bool]) -> bool:
        self._show(texts, ended, "is writing …")
        return self._stop_requested

    def _answer(self) -> None:
        try:
            self._load()
            self.note.value, began = "answering …", time.perf_counter()
            done = paired_answers.answer(self.model, self.tokenizer, self.prompt.value, self.longest.value, self._watch)
            self._show(done.texts(), done.ended, "stopped" if self._stop_requested else "cut here")
            self.note.value = f"answered in {time.perf_counter() - began:.0f} s"
        except Exception as error:  # an error in a thread is shown nowhere else
            self.note.value = f"{type(error).__name__}: {html.escape(str(error))}"
        finally:
            self.ask.disabled, self.stop.disabled = False, True

    def _say(self, text: str) -> None:
        self.note.value = html.escape(text)

    def _load(self) -> None:
        if self.model is None:
            self.model, self.tokenizer = paired_answers.load(self.run, self._say)
