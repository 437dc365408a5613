"""The general retention set: the base model's own greedy answers to general prompts, on which the evaluation measures forgetting.

It suits any corpus and any base model. The base model predicts its own greedy answers better than any other text, so a change can
nearly only be a rise: its size in nats says how far the adapter moved from what the base model would say to everybody.
It does not show whether an answer was right, nor whether the adapter's own answer would be worse.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any

from mistral_lib.corpus.records import Record
from mistral_lib.evaluation import generation
from mistral_lib.evaluation.general_prompts import PROMPTS
from mistral_lib.evaluation.retention import RetentionSet
from mistral_lib.model import base_model
from mistral_lib.run import files, hardware, paths
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import chat_format, packed_dataset
from mistral_lib.tokens.chat_format import IGNORED, Encoded

ANSWER_TOKENS = 32  # of the longest answer; a longer one is cut, and its end is not measured
FORM = 1  # of the stored answers


def chosen(count: int) -> list[tuple[str, str]]:
    """(kind, prompt) of the first `count` prompts, one of each kind, then the second of each, and so on."""
    pairs = [[(kind, prompt) for prompt in prompts] for kind, prompts in PROMPTS.items()]
    return list(islice(generation.round_robin(*pairs), count))


def build(settings: Settings, tokenizer: Any, model: Callable[[], Any], measured: Any) -> RetentionSet | None:
    """The answers in packed blocks, each a document of its own, its domain the prompt's kind; None if no prompt is requested.

    model: returns the model with its adapter; called only if the base model's answers are not on this machine yet.
    """
    asked = chosen(settings.general_prompts)
    if not asked:
        return None
    answers = measured.each("general_answers", [0], lambda _: kept_answers(settings, tokenizer, model, asked), "general answers")[0]
    windows = []
    for (kind, prompt), answer in zip(asked, answers, strict=True):
        record = Record(
            kind, f"general:{kind}", prompt, "messages", messages=[*_chat(prompt), {"role": "assistant", "content": answer["text"]}]
        )
        before = chat_format.prompt_ids(tokenizer, _chat(prompt))
        encoded = Encoded(before + answer["ids"], [IGNORED] * len(before) + answer["ids"])
        if answer["ids"] and len(encoded.input_ids) <= settings.max_tokens:
            windows.append((record, record.record_id, encoded))
    blocks = packed_dataset.packed(tokenizer, windows, settings.max_tokens, 0)
    left_out = {"longer_than_max_tokens": len(asked) - len(windows)} if len(windows) < len(asked) else {}
    return RetentionSet(blocks, {key: record.source_group for record, key, _ in windows}, left_out, name="general")


def _chat(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def kept_answers(settings: Settings, tokenizer: Any, model: Callable[[], Any], asked: list[tuple[str, str]]) -> list[dict[str, Any]]:
    """The base model's answers (`text`, `ids`, `stopped`), from models/general_answers/ if it gave them before with these settings."""
    weights = base_model.fingerprint(settings.base_model)
    dtype = hardware.choose_dtype(settings.dtype)[0]
    key = files.digest([FORM, weights, base_model.tokenizer_hash(tokenizer), settings.quantization, dtype, ANSWER_TOKENS, asked])
    place = paths.models() / "general_answers" / f"{key[:32]}.json"
    if not place.exists():
        files.write_json(place, _answers(tokenizer, model(), [prompt for _, prompt in asked]))
    return files.read_json(place)


def _answers(tokenizer: Any, model: Any, prompts: list[str]) -> list[dict[str, Any]]:
    """In one batch: a step of 60 short rows takes hardly longer than one of 20, since 4-bit weights are unpacked in each step."""
    with model.disable_adapter():
        return generation.generate(
            model, tokenizer, [chat_format.prompt_ids(tokenizer, _chat(prompt)) for prompt in prompts], ANSWER_TOKENS
        )
