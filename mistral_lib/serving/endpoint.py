"""A model behind an address, asked as the stored probe needs it: ids of a chat, log-likelihood of given answers, greedy answers.

Speaks OpenAI's API, and what llama.cpp and vLLM add to it, which no standard has: token ids in and out. Knows requests and their answers;
knows nothing of runs, adapters or verdicts.
Source: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md; vLLM's vllm/entrypoints/openai/{chat_completion,completion}
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from queue import Queue
from typing import Any

from mistral_lib.serving.json_requests import EndpointError, JsonRequests, NoAnswerError, StillLoadingError, WrongKeyError

__all__ = ["Answer", "Endpoint", "EndpointError", "NoAnswerError", "StillLoadingError", "WrongKeyError"]

SECONDS = 600.0  # for one answer; nothing of it arrives before it is complete
FORCING = 1000.0  # added to a token's logit it makes any token the most likely one
VLLM_AT_ONCE = 16  # requests; vLLM batches what arrives

Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    ids: list[int] | None  # of the answer, with its end token if the server returns it; None if the server returns no ids
    ended: bool  # by the model itself, not by the limit of tokens


class Endpoint:
    """One model at one address. Errors of all methods: EndpointError and its kinds."""

    def __init__(self, url: str, key: str | None = None, model: str | None = None, seconds: float = SECONDS) -> None:
        """url: with or without /v1. model: as `models` lists it; default: the first."""
        self._requests, self._model = JsonRequests(url, key, seconds), model
        self.url = self._requests.url

    # -- what is there ------------------------------------------------------------------------------------------------

    def health(self) -> str:
        """`ready` or `loading`. Needs no key."""
        status = self._requests.status("/health")
        if status not in (200, 503):
            raise EndpointError(f"{self.url}: /health answers {status}, expected 200 or 503; is this llama.cpp or vLLM?")
        return "ready" if status == 200 else "loading"

    def models(self) -> list[str]:
        """The names that requests may give; those of adapters first: vLLM lists the base model too."""
        listed = self._requests.get("/v1/models")
        rows = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "id" in row for row in rows):
            raise EndpointError(f"{self.url}: /v1/models has no list of models; expected a server with OpenAI's API")
        return [row["id"] for row in sorted(rows, key=lambda row: row.get("parent") is None)]

    def engine(self) -> str:
        """`llama.cpp`, `vllm` or `other`."""
        owners = {row.get("owned_by") for row in self._requests.get("/v1/models")["data"]}
        return "llama.cpp" if "llamacpp" in owners else "vllm" if "vllm" in owners else "other"

    @cached_property
    def model(self) -> str:
        """The name that requests give."""
        names = [self._model] if self._model else self.models()
        if not names:
            raise EndpointError(f"{self.url}: /v1/models is empty, so there is no model to ask")
        return names[0]

    def slots(self) -> list[dict[str, Any]]:
        """llama.cpp's slots, each of which computes one request at a time."""
        return self._requests.get("/slots")

    # -- token ids ----------------------------------------------------------------------------------------------------

    def chat_ids(self, messages: Messages, slot: int | None = None) -> list[int]:
        """The ids that the server evaluates for a chat, up to where its answer begins. slot: llama.cpp's; None: any."""
        if self._engine == "vllm":
            return self._one_token_chat(messages, return_token_ids=True)["prompt_token_ids"]
        self._require_llama_cpp("the ids of a chat")
        prompt = self._requests.post("/apply-template", {"messages": messages})["prompt"]
        ids = self._tokenize(prompt, special=True)
        evaluated = self._one_token_chat(messages, **_in_slot(slot))["usage"]["prompt_tokens"]
        if evaluated != len(ids):
            raise EndpointError(
                f"{self.url}: evaluates {evaluated} tokens for a chat whose template and tokenizer give {len(ids)}; the ids cannot be known"
            )
        return ids

    def token_ids(self, text: str) -> list[int]:
        """The ids of a text, without a start token; in llama.cpp control strings in it are text, in vLLM they are control tokens."""
        if self._engine == "vllm":
            return self._requests.post("/tokenize", {"model": self.model, "prompt": text, "add_special_tokens": False})["tokens"]
        self._require_llama_cpp("the ids of a text")
        return self._tokenize(text, special=False)

    def _tokenize(self, text: str, special: bool) -> list[int]:
        return self._requests.post("/tokenize", {"content": text, "add_special": special, "parse_special": special})["tokens"]

    def _one_token_chat(self, messages: Messages, **more: Any) -> dict[str, Any]:
        return self._requests.post(
            "/v1/chat/completions", {"model": self.model, "messages": messages, "max_tokens": 1, "temperature": 0, **more}
        )

    # -- log-likelihood -----------------------------------------------------------------------------------------------

    def log_likelihood(self, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> list[float]:
        """The natural logarithm of each answer token's probability after the prompt and the answer up to it, in nats."""
        return self._log_likelihood(prompt_ids, answer_ids)

    def log_likelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """`log_likelihood` of several (prompt_ids, answer_ids), as many at once as the server computes."""
        return self._each(lambda pair, slot: self._log_likelihood(*pair, slot=slot), pairs)

    def scored_chats(self, rows: Sequence[tuple[Messages, Sequence[int], Sequence[int]]]) -> list[tuple[list[int], list[float]]]:
        """`chat_ids` of the messages and `log_likelihood` of the answer, of several (messages, prompt_ids, answer_ids), as many at once as the
        server computes: a prompt that is written as expected is computed once for both."""
        return self._each(lambda row, slot: (self.chat_ids(row[0], slot), self._log_likelihood(*row[1:], slot=slot)), rows)

    def _each(self, ask: Callable[[Any, int | None], Any], items: Sequence[Any]) -> list[Any]:
        """Ask for each item. In llama.cpp each keeps one slot to itself: in another one its tokens so far would be computed again."""
        places = [slot["id"] for slot in self.slots()] if self._engine == "llama.cpp" else [None] * VLLM_AT_ONCE
        free: Queue[int | None] = Queue()
        for place in places:
            free.put(place)

        def one(item: Any) -> Any:
            slot = free.get()
            try:
                return ask(item, slot)
            finally:
                free.put(slot)

        with ThreadPoolExecutor(len(places)) as threads:
            return list(threads.map(one, items))

    def _log_likelihood(self, prompt_ids: Sequence[int], answer_ids: Sequence[int], slot: int | None = None) -> list[float]:
        if not prompt_ids:
            raise EndpointError("a prompt without tokens has no likelihood; it needs at least a start token")
        if self._engine == "vllm":
            return self._prompt_log_probabilities(list(prompt_ids), list(answer_ids))
        self._require_llama_cpp("a log-likelihood")
        ids = [*prompt_ids, *answer_ids]
        return [self._forced(ids[:place], ids[place], slot) for place in range(len(prompt_ids), len(ids))]

    def _forced(self, ids: list[int], token: int, slot: int | None) -> float:
        """The log-probability of one token after `ids`: llama.cpp is made to choose it, and reports the probability before that.

        What it has computed of `ids` for the request before is kept, so that only the last id is new. slot: None: any.
        """
        found = self._requests.post("/completion", {
            "prompt": ids, "n_predict": 1, "n_probs": 1, "temperature": 0, "logit_bias": [[token, FORCING]], "cache_prompt": True,
            **_in_slot(slot),
        })  # fmt: skip
        chosen = (found.get("completion_probabilities") or [{}])[0]
        if chosen.get("id") != token or found["tokens_evaluated"] != len(ids):
            raise EndpointError(
                f"{self.url}: expected the log-probability of token {token} after {len(ids)} tokens, got that of {chosen.get('id')} "
                f"after {found['tokens_evaluated']}"
            )
        return chosen["logprob"]

    def _prompt_log_probabilities(self, prompt: list[int], answer: list[int]) -> list[float]:
        body = {"model": self.model, "prompt": prompt + answer, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        rows = self._requests.post("/v1/completions", body)["choices"][0]["prompt_logprobs"][len(prompt) :]
        return [row[str(token)]["logprob"] for row, token in zip(rows, answer, strict=True)]

    # -- answers ------------------------------------------------------------------------------------------------------

    def chat(self, messages: Messages, max_tokens: int) -> Answer:
        """The greedy answer to a chat."""
        body = {"model": self.model, "messages": messages, "max_tokens": max_tokens, "temperature": 0}
        with_ids = {"llama.cpp": {"logprobs": True}, "vllm": {"return_token_ids": True}}.get(self._engine, {})
        choice = self._requests.post("/v1/chat/completions", body | with_ids)["choices"][0]
        ids = choice.get("token_ids")
        if self._engine == "llama.cpp":
            ids = [token["id"] for token in (choice.get("logprobs") or {}).get("content", [])]
        return Answer(choice["message"]["content"] or "", ids, choice["finish_reason"] == "stop")

    @cached_property
    def _engine(self) -> str:
        return self.engine()

    def _require_llama_cpp(self, what: str) -> None:
        if self._engine != "llama.cpp":
            raise EndpointError(f"{self.url}: only llama.cpp and vLLM return {what}; this is another server")


def _in_slot(slot: int | None) -> dict[str, int]:
    """The parameter of a request to llama.cpp that names its slot."""
    return {} if slot is None else {"id_slot": slot}
