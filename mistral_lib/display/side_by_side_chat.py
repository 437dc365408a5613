"""Ask base model and adapter the same question and watch both answers side by side, token by token.

The model is loaded once; a batch has two rows, one without the adapter and one with it.
Source: peft, "Mixing different LoRA adapters in the same batch" (`adapter_names`).
"""

import html
import threading
from collections.abc import Callable
from typing import Any

import ipywidgets

from mistral_lib.display import figure
from mistral_lib.display.widget_base import PlainTextBox, button
from mistral_lib.model import base_model
from mistral_lib.run import Run
from mistral_lib.tokens import chat_format

ROWS = ("__base__", "default")  # peft's names for no adapter and for the loaded one
PLAIN = "(side-by-side chat: one prompt, base and adapter answering next to each other; open this notebook in JupyterLab to ask)"
ANSWER = (
    '<div style="border:1px solid #999;border-top:4px solid {color};border-radius:4px;padding:6px 10px;margin:0 6px 6px 0"><b>{who}</b> '
    '<span style="opacity:.75">{state}</span>'
    '<pre style="white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere;line-height:1.4;min-height:3em;margin:4px 0 0">{text}</pre></div>'
)
COLORS = {"base model": figure.BASE, "adapter": figure.ADAPTER}

Watcher = Callable[[list[str], list[bool]], bool | None]


class TwoAnswers:
    """The streamer of generate(): passes the texts so far, and which of them have ended, to `watch` after each token."""

    def __init__(self, tokenizer: Any, watch: Watcher):
        self.tokenizer, self.watch, self.stopped = tokenizer, watch, False
        self.ids: list[list[int]] = [[], []]
        self.ended = [False, False]

    def put(self, tokens: Any) -> None:
        """tokens: the prompt first, (2, tokens), then one token a row, (2,)."""
        if tokens.ndim == 2:
            return
        for row, token in enumerate(tokens.tolist()):
            self.ended[row] |= token == self.tokenizer.eos_token_id
            if not self.ended[row]:
                self.ids[row].append(token)
        self.stopped = bool(self.watch(self.texts(), list(self.ended)))

    def texts(self) -> list[str]:
        return [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in self.ids]

    def end(self) -> None:
        """generate() calls this at its end; put() has passed on everything."""


def answer(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int, watch: Watcher) -> TwoAnswers:
    """Greedy answers of base and adapter to one prompt. `watch(texts, ended)` is called per token; if it returns True, both stop.

    Errors: TemplateProblem if the prompt does not fit the chat format; ValueError if it is empty.
    """
    import torch
    from transformers import StoppingCriteriaList

    if not prompt.strip():
        raise ValueError("the prompt is empty; write a question")
    ids = chat_format.prompt_ids(tokenizer, [{"role": "user", "content": prompt}])
    batch = torch.tensor([ids, ids], device=next(model.parameters()).device)  # (2, tokens)
    streamer = TwoAnswers(tokenizer, watch)

    def stops(input_ids: Any, scores: Any, **_: Any) -> Any:
        return torch.full((2,), streamer.stopped, device=input_ids.device)

    model.eval()  # mixing rows with and without the adapter is for inference only
    model.generate(
        input_ids=batch, attention_mask=torch.ones_like(batch), adapter_names=list(ROWS), max_new_tokens=max_new_tokens, do_sample=False,
        use_cache=True, pad_token_id=tokenizer.pad_token_id, streamer=streamer, stopping_criteria=StoppingCriteriaList([stops]),
    )  # fmt: skip
    return streamer


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
        self.answers = [ipywidgets.HTML(layout={"width": "50%"}) for _ in ROWS]
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
            done = answer(self.model, self.tokenizer, self.prompt.value, self.longest.value, self._watch)
            self._show(done.texts(), done.ended, "stopped" if self._stop_requested else "cut here")
        except Exception as error:  # an error in a thread is shown nowhere else
            self.note.value = f"{type(error).__name__}: {html.escape(str(error))}"
        finally:
            self.ask.disabled, self.stop.disabled = False, True

    def _load(self) -> None:
        if self.model is None:
            self.note.value = "loading the base model and the adapter …"
            self.run.require("training", "train first: notebook 03_train_adapter")
            self.tokenizer = base_model.load_tokenizer(self.run.settings.base_model)
            self.model = base_model.load_adapter(self.run.settings, self.run.folder / "training" / "adapter")
        self.note.value = ""
