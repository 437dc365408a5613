"""Base model and adapter answer the same prompt, in one batch and token by token; loaded as the adapter was trained.

The model is loaded once; a batch has two rows, one without the adapter and one with it. On a CPU, 4-bit weights are unpacked once and
not for each token, if the memory suffices: that was most of the time of an answer.
Source: peft, "Mixing different LoRA adapters in the same batch" (`adapter_names`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mistral_lib.kernels import fused_layers, paired_layers
from mistral_lib.model import base_model
from mistral_lib.run import Run, cuda_device, params, paths
from mistral_lib.run.folder import summary
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import chat_format

Watcher = Callable[[list[str], list[bool]], bool | None]


class TwoAnswers:
    """The streamer of generate(): passes the texts so far, and which of them have ended, to `watch` after each token."""

    def __init__(self, tokenizer: Any, watch: Watcher):
        self.tokenizer, self.watch, self.stopped = tokenizer, watch, False
        self.ids: list[list[int]] = [[], []]
        self.ended = [False, False]

    def put(self, tokens: Any) -> None:
        """tokens: the prompt first, (2, tokens), then one token a row, (2,): base before adapter."""
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


def trained_settings(run: Run) -> Settings:
    """The run's settings, with those parameters that its adapter was trained with: on another base model it gives nonsense.

    A hub model is pinned to the commit of that time. Errors: RuntimeError if the training is not complete or the adapter was altered;
    BaseModelError if the base model on disk has other weights now.
    """
    trained = run.require("training", "train first: notebook 03_train_adapter")
    if damages := run.damages("training", below="training/adapter/"):
        raise RuntimeError(f"{paths.short(run.folder)}: {summary(damages)}; train again: notebook 03_train_adapter")
    recorded = {name: trained["parameters"].get(name, params.default(name)) for name in run.settings.stage("training")}
    recorded["base_model"] = base_model.pinned(recorded["base_model"], trained["inputs"]["base_model"])
    return run.settings.model_copy(update=recorded)


def load(run: Run, say: Callable[[str], Any]) -> tuple[Any, Any]:
    """The run's adapter on the base model that it was trained on, and the tokenizer. `say(text)` reports what is loaded.

    Errors: those of `trained_settings`.
    """
    settings = trained_settings(run)
    what = f"{base_model.shown_name(settings.base_model)} ({settings.quantization}) and the adapter of {run.folder.name}"
    say(" ".join(filter(None, ["loading", what, cuda_device.cpu_instead(settings.instance), "…"])))
    model = base_model.load_adapter(settings, run.folder / "training" / "adapter")
    if next(model.parameters()).device.type == "cpu":
        fused_layers.unpack(model)
    return model, base_model.load_tokenizer(settings.base_model)


def answer(model: Any, tokenizer: Any, prompt: str, max_new_tokens: int, watch: Watcher) -> TwoAnswers:
    """Greedy answers of base and adapter to one prompt. `watch(texts, ended)` is called per token; if it returns True, both stop.

    Errors: TemplateError if the prompt does not fit the chat format; ValueError if it is empty.
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
    with _mixed(model) as options:
        model.generate(
            input_ids=batch, attention_mask=torch.ones_like(batch), max_new_tokens=max_new_tokens, do_sample=False, use_cache=True,
            pad_token_id=tokenizer.pad_token_id, streamer=streamer, stopping_criteria=StoppingCriteriaList([stops]), **options,
        )  # fmt: skip
    return streamer


@contextmanager
def _mixed(model: Any) -> Iterator[dict[str, Any]]:
    """Within this context, and with the options that it yields, generate() uses the adapter in the second row only. peft's own way is for
    adapters that `paired_layers` does not know, such as one of the embedding."""
    if paired_layers.can_pair(model):
        with paired_layers.paired(model):
            yield {}
    else:
        yield {"adapter_names": ["__base__", "default"]}
