"""Asks a form what the probe holds: ids of the prompts, log-likelihood of every token of the reference answers, a few greedy answers.

A form is an endpoint, or a model of a folder loaded into this process. What the answers mean: parity_verdict.py.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from mistral_lib.export import parity_verdict, probe_measurement
from mistral_lib.export.adapter_in_weights import Share
from mistral_lib.export.parity_verdict import LOADING, NO_ANSWER, OTHER_TEMPLATE, UNKNOWN, WRONG_KEY, Answered, Decode, Finding
from mistral_lib.export.probe import PerToken, Probe
from mistral_lib.model import base_model
from mistral_lib.run.settings import Settings
from mistral_lib.serving.endpoint import Answer, EndpointError, NoAnswerError, StillLoadingError, WrongKeyError

# messages of a chat, ids of its prompt and of the reference answer
Row = tuple[list[dict[str, str]], Sequence[int], Sequence[int]]
FAULTS = {NoAnswerError: NO_ANSWER, StillLoadingError: LOADING, WrongKeyError: WRONG_KEY}


class Scorer(Protocol):
    """What can be asked: an endpoint, or a model in this process."""

    def chat_ids(self, messages: list[dict[str, str]]) -> list[int]: ...

    def scored_chats(self, rows: Sequence[Row]) -> list[tuple[list[int], list[float]]]: ...

    def chat(self, messages: list[dict[str, str]], max_tokens: int) -> Answer: ...


class LoadedModel:
    """The model of a folder in this process, asked as an endpoint is. Errors: BaseModelError."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.tokenizer = base_model.load_tokenizer(str(folder))
        self.model = base_model.load_base(settings.model_copy(update={"base_model": str(folder), "quantization": "none"})).eval()

    def chat_ids(self, messages: list[dict[str, str]]) -> list[int]:
        """As everybody gets them who uses the folder with transformers."""
        found = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)
        return list(found["input_ids"])

    def scored_chats(self, rows: Sequence[Row]) -> list[tuple[list[int], list[float]]]:
        return [(self.chat_ids(chat), probe_measurement.log_likelihood(self.model, prompt, answer)) for chat, prompt, answer in rows]

    def chat(self, messages: list[dict[str, str]], max_tokens: int) -> Answer:
        one = probe_measurement.greedy(self.model, self.tokenizer, [self.chat_ids(messages)], max_tokens)[0]
        return Answer(self.tokenizer.decode(one.ids, skip_special_tokens=True), one.ids, one.ended)


def compare(
    probe: Probe, scorer: Scorer, form: str, decode: Decode, min_kept: float, weights: str | None = None, in_weights: Share | None = None,
    seen: Callable[[PerToken], Share | None] | None = None,
) -> Finding:  # fmt: skip
    """Ask a form, and judge. decode, min_kept, weights, in_weights: as in `parity_verdict.judge`. seen: gets the log-likelihoods that were
    answered, and returns `in_weights` if they show it. If the form does not answer, the finding says so."""
    try:
        try:
            scored = scorer.scored_chats([(record.messages, record.prompt_ids, record.answer_ids) for record in probe.records])
        except EndpointError as error:
            return _unscored(probe, form, [scorer.chat_ids(record.messages) for record in probe.records], decode, error)
        answered = _with_greedy(probe, scorer, Answered([ids for ids, _ in scored], [values for _, values in scored]))
    except EndpointError as error:
        return fault(form, error)
    share = in_weights if seen is None else seen(answered.log_likelihoods)
    return parity_verdict.judge(probe, form, answered, decode, min_kept, weights, share)


def _with_greedy(probe: Probe, scorer: Scorer, answered: Answered) -> Answered:
    """With greedy answers to the prompts that base model and adapter have answered, and the time that they took."""
    began = time.perf_counter()
    answers = [scorer.chat(probe.records[number].messages, probe.max_new_tokens) for number in probe.asked]
    return replace(answered, greedy=[(one.ids, one.ended) for one in answers], seconds=time.perf_counter() - began)


def _unscored(probe: Probe, form: str, prompts: list[list[int]], decode: Decode, error: EndpointError) -> Finding:
    """A server that refuses the ids of the reference answers: if it writes prompts otherwise as well, it has another tokenizer."""
    evidence = parity_verdict.prompt_evidence(probe, Answered(prompts, []), decode)
    if type(error) in FAULTS or evidence["equal"] == evidence["of"]:
        return fault(form, error)
    return Finding(form, OTHER_TEMPLATE, None, False, f"{evidence['first_difference']}; and {error}", {"prompts": evidence})


def fault(form: str, error: EndpointError) -> Finding:
    """The finding on an endpoint that does not answer, or not as it is asked."""
    return Finding(form, FAULTS.get(type(error), UNKNOWN), None, False, str(error))
