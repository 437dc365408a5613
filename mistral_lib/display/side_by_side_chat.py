"""Ask base model and adapter the same question and watch both answers side by side, token by token.

The model is loaded at the first question. It is given back by a button, after a while without a question (a page that was closed asks
none), and when this process loads another model or starts a training.
"""

import html
import threading
import time

import ipywidgets

from mistral_lib.display import figure
from mistral_lib.display.widget_base import AUTO, PlainTextBox, button
from mistral_lib.model import paired_answers
from mistral_lib.run import Run, idle_models

IDLE_SECONDS = 900.0  # without a question, after which the model is freed
PLAIN = "(side-by-side chat: one prompt, base and adapter answering next to each other; open this notebook in JupyterLab to ask)"
ANSWER = (
    '<div style="border:1px solid #999;border-top:4px solid {color};border-radius:4px;padding:6px 10px;margin:0 6px 6px 0"><b>{who}</b> '
    '<span style="opacity:.75">{state}</span>'
    '<pre style="white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere;line-height:1.4;min-height:3em;margin:4px 0 0">{text}</pre></div>'
)
COLORS = {"base model": figure.BASE, "adapter": figure.ADAPTER}


class Chat(PlainTextBox):
    """A prompt, a button, two answers. `free` gives the model's memory back; the next question loads it again."""

    def __init__(self, run: Run, prompt: str = ""):
        self.run, self.model, self.tokenizer, self._stop_requested = run, None, None, False
        self._in_use, self._idle = threading.RLock(), threading.Timer(IDLE_SECONDS, self.free)
        self.prompt = ipywidgets.Textarea(value=prompt, placeholder="ask both …", layout={"width": "98%", "height": "5em"})
        look = {"description": "longest answer, tokens", "style": {"description_width": "initial"}, "layout": {"width": "28em"}}
        self.longest = ipywidgets.IntSlider(run.settings.max_new_tokens, 8, 512, 8, **look)
        self.ask = button("Ask both", self._ask, icon="play", button_style="primary")
        self.stop = button("Stop", self._stop, icon="stop", disabled=True)
        frees = "the next question loads the model again"
        self.give_back = button("Free the memory", self._free, icon="eject", tooltip=frees, disabled=True, layout=AUTO)
        self.note = ipywidgets.HTML()
        self.answers = [ipywidgets.HTML(layout={"width": "50%"}) for _ in COLORS]
        buttons = ipywidgets.HBox([self.ask, self.stop, self.give_back, self.longest], layout={"flex_flow": "row wrap"})
        super().__init__([self.prompt, buttons, self.note, ipywidgets.HBox(self.answers)], PLAIN)
        self._show(["", ""], [False, False], "")

    def _show(self, texts: list[str], ended: list[bool], state: str) -> None:
        for place, who, text, done in zip(self.answers, COLORS, texts, ended, strict=True):
            place.value = ANSWER.format(color=COLORS[who], who=who, text=html.escape(text), state="" if done else state)

    def _ask(self) -> None:
        """Answer in a thread, so that the Stop button works meanwhile."""
        self.ask.disabled, self.stop.disabled = True, False
        threading.Thread(target=self._answer, daemon=True).start()

    def _stop(self) -> None:
        self._stop_requested = True

    def _watch(self, texts: list[str], ended: list[bool]) -> bool:
        self._show(texts, ended, "is writing …")
        return self._stop_requested

    def _answer(self) -> None:
        self._idle.cancel()
        self._stop_requested = False
        try:
            with self._in_use:
                self._load()
                self.note.value, began = "answering …", time.perf_counter()
                done = paired_answers.answer(self.model, self.tokenizer, self.prompt.value, self.longest.value, self._watch)
            self._show(done.texts(), done.ended, "stopped" if self._stop_requested else "cut here")
            self.note.value = f"answered in {time.perf_counter() - began:.0f} s"
        except Exception as error:  # an error in a thread is shown nowhere else
            self.note.value = f"{type(error).__name__}: {html.escape(str(error))}"
        finally:
            self.ask.disabled, self.stop.disabled = False, True
            self._free_when_idle()

    def _free_when_idle(self) -> None:
        self._idle = threading.Timer(IDLE_SECONDS, self.free)
        self._idle.daemon = True
        self._idle.start()

    def _say(self, text: str) -> None:
        self.note.value = html.escape(text)

    def _load(self) -> None:
        if self.model is None:
            self.model, self.tokenizer = paired_answers.load(self.run, self._say)
            self.give_back.disabled = False
            idle_models.keep(self)

    def _free(self) -> None:
        """Free the memory in a thread: an answer that is being written first ends with its next token."""
        threading.Thread(target=self.free, daemon=True).start()

    def free(self) -> None:
        """Stop the answer that is being written, if there is one, and give the model's memory back."""
        self._stop_requested = True
        with self._in_use:
            self._idle.cancel()
            if self.model is None:
                return
            self.model = self.tokenizer = None
            idle_models.forget(self)
            self.give_back.disabled, self.note.value = True, "the model's memory is free; the next question loads it again"

    def close(self) -> None:
        """Remove the page; its model goes with it."""
        self.free()
        super().close()
