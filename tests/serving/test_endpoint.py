"""The client against real llama.cpp, against vLLM's protocol, and against all that can be wrong with an address."""

import math
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mistral_lib.gguf_files import gguf_file
from mistral_lib.serving import llama_cpp, server_process
from mistral_lib.serving.endpoint import Endpoint, EndpointError, NoAnswerError, StillLoadingError, WrongKeyError
from mistral_lib.serving.server_process import RunningServer
from tests.support import tiny_gguf
from tests.support.http_stand_in import answering

KEY = "the-key-of-this-test"
CHAT = [{"role": "user", "content": "Say a word."}]
LONG = [
    "It says what the function does, what it returns, and which errors it raises. A good one names units and shapes, and gives an example that "
    "can be run. It is written in the third person, begins with a verb, and ends with a period; parameters follow, each with its type and meaning.",
    'def read(path: Path) -> list[str]:\n    """The lines of a file without their ends; empty ones are skipped.\n\n    Errors: '
    'FileNotFoundError if there is no such file.\n    """\n    return [line for line in path.read_text().splitlines() if line]\n',
]
LISTED = {"object": "list", "data": [{"id": "x", "owned_by": "llamacpp"}]}


@pytest.fixture(scope="module")
def server(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """llama.cpp with the tiny model."""
    folder = tmp_path_factory.mktemp("gguf")
    gguf = tiny_gguf.write(tiny_model, folder / "tiny.gguf")
    with llama_cpp.start(gguf, alias="tiny-f32-0123456789ab", key=KEY, slots=3, context_tokens=512, logs=folder) as running:
        yield running


@pytest.fixture
def endpoint(server: RunningServer) -> Endpoint:
    return Endpoint(server.url, KEY)


def log_probabilities(folder: str, ids: list[int]) -> Any:
    """By torch, (tokens, vocabulary)."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)


def by_torch(folder: str, prompt: list[int], answer: list[int]) -> list[float]:
    found = log_probabilities(folder, prompt + answer)
    return [found[len(prompt) - 1 + place, token].item() for place, token in enumerate(answer)]


# -- llama.cpp -----------------------------------------------------------------------------------------------------------


def test_what_is_there(endpoint: Endpoint) -> None:
    assert (endpoint.health(), endpoint.engine(), endpoint.models()) == ("ready", "llama.cpp", ["tiny-f32-0123456789ab"])
    assert endpoint.model == "tiny-f32-0123456789ab" and len(endpoint.slots()) == 3


def test_the_ids_of_a_chat_are_those_of_the_trained_format(endpoint: Endpoint, tiny_model: str) -> None:
    from mistral_lib.model import base_model

    tokenizer = base_model.load_tokenizer(tiny_model)
    for chat in (CHAT, [{"role": "system", "content": "Be brief."}, *CHAT, {"role": "assistant", "content": "Yes."}, *CHAT]):
        expected = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
        assert endpoint.chat_ids(chat) == list(expected)


@pytest.mark.parametrize("adds,doubled,starts", [(True, False, 1), (False, True, 2), (True, True, 2)])
def test_the_start_tokens_that_the_server_evaluates_are_shown(
    tiny_model: str, tmp_path: Path, adds: bool, doubled: bool, starts: int
) -> None:
    """The template writes the start token. If the tokenizer adds it too, llama.cpp evaluates one; if the template writes two, it evaluates both."""
    gguf = tiny_gguf.write(tiny_model, tmp_path / "plain.gguf")
    header = gguf_file.read(gguf, arrays=True)
    metadata, add = dict(header.metadata), "tokenizer.ggml.add_bos_token"
    template = "<|im_start|>" * doubled + metadata[gguf_file.TEMPLATE].value
    metadata |= {add: replace(metadata[add], value=adds), gguf_file.TEMPLATE: replace(metadata[gguf_file.TEMPLATE], value=template)}
    tiny_gguf.put(tmp_path / "other.gguf", metadata, {one.name: gguf_file.rows(header, one) for one in header.tensors})
    with llama_cpp.start(tmp_path / "other.gguf", alias="x", key=KEY, slots=1, context_tokens=256, logs=tmp_path) as running:
        ids = running.endpoint.chat_ids(CHAT)
        assert ids[: starts + 1] == [1] * starts + [9690], "<|im_start|>, system"


def test_control_strings_in_a_text_are_text(endpoint: Endpoint) -> None:
    assert len(endpoint.token_ids("<|im_end|>")) > 1 and endpoint.token_ids("") == []


def test_log_likelihoods_are_those_of_torch_also_of_unlikely_and_of_end_tokens(endpoint: Endpoint, tiny_model: str) -> None:
    prompt = endpoint.chat_ids(CHAT)
    least = log_probabilities(tiny_model, prompt)[-1].argmin().item()  # of all 49,152 tokens
    answer = [least, *endpoint.token_ids("a word"), 0, 49151, 2, 30000, 2]
    found, expected = endpoint.log_likelihood(prompt, answer), by_torch(tiny_model, prompt, answer)
    assert found == pytest.approx(expected, abs=0.003)
    assert found[0] < -math.log(49152) - 1, "much less likely than by chance"


def test_several_records_at_once_give_what_each_gives_alone(endpoint: Endpoint) -> None:
    pairs = [
        (endpoint.chat_ids([{"role": "user", "content": word}]), endpoint.token_ids(f"{word}, and more"))
        for word in ("one", "two", "six", "ten")
    ]
    together, alone = endpoint.log_likelihoods(pairs), [endpoint.log_likelihood(*pair) for pair in pairs]
    assert [len(row) for row in together] == [len(answer) for _, answer in pairs]
    for found, expected in zip(together, alone, strict=True):
        assert found == pytest.approx(expected, abs=0.003)
    assert endpoint.log_likelihoods([]) == []


def test_a_record_keeps_its_slot_so_that_only_its_new_token_is_computed(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """All prompts are alike: llama.cpp itself would let the records exchange their slots and compute each other's tokens again."""
    computed, post = [], endpoint._requests.post

    def counting(path: str, body: dict) -> Any:
        answer = post(path, body)
        if path == "/completion":
            computed.append((answer["id_slot"], answer["timings"]["prompt_n"]))
        return answer

    monkeypatch.setattr(endpoint._requests, "post", counting)
    pairs = [(endpoint.chat_ids([{"role": "user", "content": f"Go on, part {part}."}]), list(range(100, 130))) for part in range(6)]
    endpoint.log_likelihoods(pairs)
    assert len(computed) == 6 * 30 and {slot for slot, _ in computed} == {0, 1, 2}
    assert sum(count == 1 for _, count in computed) >= 6 * 29, "all but the first token of each record"


def test_a_greedy_answer_is_that_of_the_model(endpoint: Endpoint, tiny_model: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    answer, prompt = endpoint.chat(CHAT, 12), endpoint.chat_ids(CHAT)
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    with torch.no_grad():
        made = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :].tolist()
    assert answer.ids == made and answer.text and answer.ended is (made[-1] == 2)


def test_what_the_server_refuses_is_said_in_its_words(endpoint: Endpoint) -> None:
    with pytest.raises(EndpointError, match=r"status 400.*exceeds the available context size"):
        endpoint.log_likelihood([5] * 600, [7])
    with pytest.raises(EndpointError, match=r"status 400.*invalid tokens"):
        endpoint.log_likelihood([10**7], [7])
    with pytest.raises(EndpointError, match="a prompt without tokens"):
        endpoint.log_likelihood([], [7])
    assert endpoint.log_likelihood([5], []) == []


def test_a_wrong_key_and_none(server: RunningServer) -> None:
    wrong = secrets.token_hex(8)
    for key, words in ((wrong, "the key is refused"), (None, "asks for a key, and none was given")):
        other = Endpoint(server.url, key)
        assert other.health() == "ready", "health is open"
        for ask, given in ((other.models, ()), (other.chat, (CHAT, 1)), (other.log_likelihood, ([5], [7])), (other.chat_ids, (CHAT,))):
            with pytest.raises(WrongKeyError, match=words) as refused:
                ask(*given)
            assert wrong not in str(refused.value)


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_an_address_with_or_without_v1(server: RunningServer, ending: str) -> None:
    assert Endpoint(server.url + ending, KEY).models() == Endpoint(server.url.removeprefix("http://") + ending, KEY).models()


def test_the_quantized_embedded_model_agrees_with_its_dequantized_weights(tmp_path: Path) -> None:
    """llama.cpp rounds what enters a product to 8 bits: each token differs by about 0.1 nats, their mean hardly."""
    from mistral_lib.model import demo_model

    with llama_cpp.start(tiny_gguf.embedded(), alias="demo-q4_1-0", key=KEY, slots=2, context_tokens=256, logs=tmp_path) as running:
        prompt = running.endpoint.chat_ids([{"role": "user", "content": "Go on."}])
        answers = [[*running.endpoint.token_ids(text), 2] for text in LONG]
        found = running.endpoint.log_likelihoods([(prompt, answer) for answer in answers])
    expected = [by_torch(str(demo_model.folder()), prompt, answer) for answer in answers]
    differences = [one - other for rows in zip(found, expected, strict=True) for one, other in zip(*rows, strict=True)]
    assert len(differences) > 100 and min(map(min, found)) < -10, "an unlikely token is among them"
    assert abs(sum(differences) / len(differences)) < 0.02 and max(map(abs, differences)) < 0.6


# -- what can be wrong with an address -----------------------------------------------------------------------------------


def test_a_dead_port_does_not_answer() -> None:
    for ask in (lambda one: one.health(), lambda one: one.models(), lambda one: one.log_likelihood([5], [7])):
        with pytest.raises(NoAnswerError, match=r"nothing answers \(Connection refused\); start a server there"):
            ask(Endpoint(f"http://127.0.0.1:{server_process.free_port(9500)}", KEY))


@pytest.mark.parametrize("address", ["ftp://127.0.0.1:8001", "http://", "/tmp/x"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(EndpointError, match="not an address; expected one such as"):
        Endpoint(address)


def test_a_name_that_no_machine_has() -> None:
    with pytest.raises(NoAnswerError, match="nothing answers"):
        Endpoint("http://no-such-machine.invalid:8001", seconds=5).health()


def test_a_server_that_is_still_loading() -> None:
    loading = (503, {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}})
    with answering({"/health": loading, "/v1/models": loading}) as stand_in:
        waiting = Endpoint(stand_in.url, KEY)
        assert waiting.health() == "loading"
        with pytest.raises(StillLoadingError, match=r"its model is still loading; ask again when .*/health answers 200"):
            waiting.models()


def test_another_status_503_is_not_called_loading() -> None:
    with answering({"/v1/models": (503, {"error": "overloaded"})}) as stand_in, pytest.raises(EndpointError, match="overloaded") as refused:
        Endpoint(stand_in.url, KEY).models()
    assert not isinstance(refused.value, StillLoadingError)


@pytest.mark.parametrize("answer", [b"<html>a router</html>", b"", b"[]", b'{"data": "no list"}', b'{"data": [{}]}'])
def test_a_page_that_is_no_model_server(answer: bytes) -> None:
    with (
        answering({"/v1/models": (200, answer), "/health": (404, b"")}) as stand_in,
        pytest.raises(EndpointError, match="expected a server with OpenAI's API"),
    ):
        Endpoint(stand_in.url).models()
    with answering({"/health": (404, b"")}) as stand_in, pytest.raises(EndpointError, match="/health answers 404"):
        Endpoint(stand_in.url).health()


def test_a_list_without_models() -> None:
    with answering({"/v1/models": (200, {"data": []})}) as stand_in, pytest.raises(EndpointError, match="there is no model to ask"):
        Endpoint(stand_in.url).model  # noqa: B018


def test_an_answer_that_takes_too_long() -> None:
    def slow(_: dict) -> tuple[int, dict]:
        time.sleep(1)
        return 200, LISTED

    with answering({"/v1/models": slow}) as stand_in, pytest.raises(NoAnswerError, match="got no answer within 0 s"):
        Endpoint(stand_in.url, seconds=0.2).models()


def test_a_connection_that_the_server_has_closed_is_opened_again() -> None:
    with answering({"/v1/models": (200, LISTED)}, keeps_connections=False) as stand_in:
        one = Endpoint(stand_in.url, KEY)
        assert [one.models() for _ in range(3)] == [["x"]] * 3
        assert [headers["Authorization"] for _, _, headers in stand_in.requests] == [f"Bearer {KEY}"] * 3


def test_a_server_that_ends_during_its_answer() -> None:
    with answering({"/v1/models": None}) as stand_in, pytest.raises(NoAnswerError, match="nothing answers"):
        Endpoint(stand_in.url, seconds=5).models()


def test_a_forced_token_that_the_server_did_not_choose_is_no_log_likelihood() -> None:
    """A server that ignores logit_bias must not pass for one that computes what was asked."""
    reply = {"completion_probabilities": [{"id": 99, "logprob": -0.1}], "tokens_evaluated": 1}
    with (
        answering({"/v1/models": (200, LISTED), "/completion": (200, reply)}) as stand_in,
        pytest.raises(EndpointError, match="expected the log-probability of token 7 after 1 tokens, got that of 99"),
    ):
        Endpoint(stand_in.url, KEY).log_likelihood([5], [7])


def test_a_second_start_token_that_only_the_evaluation_has_is_found() -> None:
    """The ids of template and tokenizer are not returned if the server then evaluates another number of tokens."""
    table = {
        "/v1/models": (200, LISTED), "/apply-template": (200, {"prompt": "<s>x"}), "/tokenize": (200, {"tokens": [1, 5]}),
        "/v1/chat/completions": (200, {"usage": {"prompt_tokens": 3}}),
    }  # fmt: skip
    with (
        answering(table) as stand_in,
        pytest.raises(EndpointError, match=r"evaluates 3 tokens for a chat .* give 2; the ids cannot be known"),
    ):
        Endpoint(stand_in.url, KEY).chat_ids(CHAT)


def test_a_server_without_token_ids_still_chats() -> None:
    table = {
        "/v1/models": (200, {"data": [{"id": "y", "owned_by": "somebody"}]}),
        "/v1/chat/completions": (200, {"choices": [{"message": {"content": "Hi."}, "finish_reason": "length"}]}),
    }
    with answering(table) as stand_in:
        other = Endpoint(stand_in.url, KEY)
        assert other.engine() == "other"
        answer = other.chat(CHAT, 3)
        assert (answer.text, answer.ids, answer.ended) == ("Hi.", None, False)
        for ask in (lambda: other.chat_ids(CHAT), lambda: other.token_ids("x"), lambda: other.log_likelihood([1], [2])):
            with pytest.raises(EndpointError, match=r"only llama.cpp and vLLM return"):
                ask()


# -- vLLM's protocol: as its sources of version 0.33 have it ----------------------------------------------------------------


def vllm(prompt: list[int], answer: list[int]) -> dict:
    """A stand-in for vLLM with a base model and an adapter: what each request must hold is asserted in it."""

    def chat(body: dict) -> tuple[int, dict]:
        assert body["model"] == "run-adapter-0123456789ab" and body["return_token_ids"] is True and body["temperature"] == 0
        choice = {"message": {"content": "Yes."}, "finish_reason": "stop", "token_ids": answer}
        return 200, {"choices": [choice], "prompt_token_ids": prompt, "usage": {"prompt_tokens": len(prompt)}}

    def completion(body: dict) -> tuple[int, dict]:
        assert body["prompt"] == prompt + answer and body["prompt_logprobs"] == 0 and body["max_tokens"] == 1
        rows = [None, *({str(token): {"logprob": -token / 10, "rank": 1, "decoded_token": "x"}} for token in body["prompt"][1:])]
        return 200, {"choices": [{"text": "x", "prompt_logprobs": rows}]}

    listed = [{"id": "base", "owned_by": "vllm", "parent": None}, {"id": "run-adapter-0123456789ab", "owned_by": "vllm", "parent": "base"}]
    return {
        "/health": (200, b""), "/v1/models": (200, {"object": "list", "data": listed}), "/v1/chat/completions": chat,
        "/v1/completions": completion, "/tokenize": lambda body: (200, {"tokens": [8, 9], "count": 2}),
    }  # fmt: skip


def test_vllm_is_asked_in_its_own_words() -> None:
    prompt, answer = [1, 20, 30], [40, 50, 2]
    with answering(vllm(prompt, answer)) as stand_in:
        endpoint = Endpoint(stand_in.url, KEY)
        assert endpoint.health() == "ready" and endpoint.engine() == "vllm"
        assert endpoint.models() == ["run-adapter-0123456789ab", "base"], "the adapter first: it is what is asked by default"
        assert endpoint.chat_ids(CHAT) == prompt and endpoint.token_ids("two words") == [8, 9]
        assert endpoint.log_likelihood(prompt, answer) == [-4.0, -5.0, -0.2]
        assert endpoint.log_likelihoods([(prompt, answer)] * 3) == [[-4.0, -5.0, -0.2]] * 3
        given = endpoint.chat(CHAT, 5)
        assert (given.text, given.ids, given.ended) == ("Yes.", answer, True)
