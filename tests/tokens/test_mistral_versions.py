"""Every version of Mistral's chat format against mistral-common, token by token: texts, system text, several turns, tools, documents.

For the versions in mistral_tokenizer.COMPOSED, whose file mistral-common does not ship, its encoder of that version gets the shipped
vocabulary and the control tokens' names.
"""

import copy
from functools import cache

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, ToolMessage, UserMessage
from mistral_common.protocol.instruct.normalize import get_normalizer
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall, Tool, ToolCall
from mistral_common.protocol.instruct.validator import ValidationMode, get_validator
from mistral_common.tokens.tokenizers import instruct
from mistral_common.tokens.tokenizers.base import TokenizerVersion
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer
from mistral_common.tokens.tokenizers.tekken import Tekkenizer

from mistral_lib.model import mistral_tokenizer
from mistral_lib.tokens import chat_format, mistral_tools, mistral_versions, tool_chats
from tests.tokens import test_chat_format as plain
from tests.tokens import test_tool_chats as with_tools

VERSIONS = tuple(mistral_tokenizer.FILES)
WITH_TOOLS = tuple(name for name in VERSIONS if name not in ("v1", "v2"))
TEXTS = [
    "Hello", " one blank before", "  two blanks  inside  and after  ", "\n\na newline first", "newlines last\n\n", "a\r\nb\tc",
    "naïve Zürich 東京 😀👩‍👩‍👧 \u200b\u00a0 ﬁ① Ǆ ǅ ʰ ١٢٣ हिन्दी", "def f(x):\n    return  x  # code\n", "-", "It's we're 1234.5e6!!! //…\n\n\n",
    "say </s> and[/INST]<s> [TOOL_CALLS][SYSTEM_PROMPT] <SPECIAL_40> <unk> go", "[INST]", "[/INST] x", "\ue0000\ue001",
]  # fmt: skip
each_version = pytest.mark.parametrize("version", VERSIONS)


@cache
def reference(version: str, mode: ValidationMode = ValidationMode.finetuning) -> MistralTokenizer:
    """mistral-common's own tokenizer of this version."""
    path = mistral_tokenizer.vocabulary_file(version)
    if version not in mistral_tokenizer.COMPOSED:
        return MistralTokenizer.from_file(str(path), mode=mode)
    number = TokenizerVersion(version.removesuffix("-tekken"))
    vocabulary = copy.copy(_vocabulary())
    vocabulary._version = number
    encoder = getattr(instruct, f"InstructTokenizer{number.value.upper()}")(vocabulary)
    return MistralTokenizer(encoder, get_validator(number, mode=mode), get_normalizer(number))


@cache
def _vocabulary() -> Tekkenizer:
    data = orjson.loads(mistral_tokenizer.vocabulary_file("v7-tekken").read_bytes())
    setting = data["config"]
    names = [mistral_tokenizer.CONTROL.get(rank, f"<SPECIAL_{rank}>") for rank in range(setting["default_num_special_tokens"])]
    control = [{"rank": rank, "token_str": name, "is_control": True} for rank, name in enumerate(names)]
    sizes = setting["default_vocab_size"], setting["default_num_special_tokens"]
    return Tekkenizer(data["vocab"], control, setting["pattern"], *sizes, TokenizerVersion.v13)


def true_ids(version: str, messages: list[dict], tools: list[dict] | None = None, mode: ValidationMode = ValidationMode.finetuning):
    kinds = {"system": SystemMessage, "user": UserMessage, "tool": ToolMessage}

    def message(one: dict) -> object:
        if one["role"] != "assistant":
            return kinds[one["role"]](**{key: value for key, value in one.items() if key != "role"})
        calls = [
            ToolCall(function=FunctionCall(**c["function"]), **({"id": c["id"]} if "id" in c else {})) for c in one.get("tool_calls", [])
        ]
        return AssistantMessage(content=one["content"], tool_calls=calls or None)

    known = [Tool(function=Function(**tool["function"])) for tool in tools] if tools else None
    request = ChatCompletionRequest(messages=list(map(message, messages)), tools=known)
    return reference(version, mode).encode_chat_completion(request).tokens


@each_version
def test_the_version_is_recognized_and_its_tools_are_written_as_mistral_common_does(version: str) -> None:
    tokenizer = mistral_tokenizer.load(version)
    expected = {"v2": "v3", "v7m1": "v7", "v3-tekken": "v3", "v3m1-tekken": "v3", "v7-tekken": "v7"}.get(version, version)
    assert mistral_versions.version(tokenizer) == expected
    tekken = mistral_tokenizer.vocabulary_file(version).suffix == ".json"
    assert mistral_versions.blank(tokenizer) == ("" if tekken else " ")
    assert tool_chats.way(tokenizer) == (tool_chats.TEXT if version == "v1" else tool_chats.MISTRAL)
    assert len(tokenizer) == reference(version).instruct_tokenizer.tokenizer.n_words


@each_version
def test_chats_have_the_ids_of_mistral_common(version: str) -> None:
    tokenizer, other = mistral_tokenizer.load(version), "Fine </s>."
    for text in TEXTS:
        for messages in (
            plain.chat(text, other), plain.chat(other, text), plain.chat(text, other, text, text), plain.chat(text, other, other, text, system=text),
            plain.chat(other, text, system="Be brief."),
        ):  # fmt: skip
            found = plain.encode(tokenizer, messages)
            assert found.input_ids == true_ids(version, messages), (text, messages)
            asked = chat_format.prompt_ids(tokenizer, messages[:-1])
            assert asked == true_ids(version, messages[:-1], mode=ValidationMode.test) == found.input_ids[: len(asked)]
            answers = [message["content"] for message in messages if message["role"] == "assistant"]
            assert plain.graded(found) == [answer_ids(version, answer) for answer in answers]


def answer_ids(version: str, answer: str) -> list[int]:
    text = answer if version == "v1" else answer.rstrip(" ")
    return reference(version).instruct_tokenizer.tokenizer.encode(text, bos=False, eos=True)


@each_version
def test_documents_have_the_ids_of_mistral_common(version: str) -> None:
    for text in TEXTS:
        found = plain.encode(mistral_tokenizer.load(version), text=text)
        assert found.input_ids == reference(version).instruct_tokenizer.tokenizer.encode(text, bos=True, eos=True)


@pytest.mark.parametrize("version", WITH_TOOLS)
@pytest.mark.parametrize("name", with_tools.CHATS)
def test_chats_with_tools_have_the_ids_of_mistral_common(version: str, name: str) -> None:
    tokenizer, messages = mistral_tokenizer.load(version), with_id(with_tools.CHATS[name])
    for tools in (with_tools.TOOLS, None):
        row = with_tools.mapped(messages, tools)
        found = with_tools.encoded(tokenizer, row)
        assert found.input_ids == true_ids(version, messages, tools)
        answers = sum(message["role"] == "assistant" for message in messages)
        assert found.labels.count(tokenizer.eos_token_id) == answers and len(plain.graded(found)) == answers
        if messages[-2]["role"] in ("user", "tool"):
            asked = chat_format.prompt_ids(tokenizer, row.messages[:-1], row.tools)
            assert asked == true_ids(version, messages[:-1], tools, ValidationMode.test) == found.input_ids[: len(asked)]


def with_id(messages: list[dict]) -> list[dict]:
    """Calls with ids: v13 requires them."""
    calls = [{**call, "id": call.get("id", with_tools.ONE)} for message in messages for call in message.get("tool_calls", [])]
    waiting = iter(calls)
    return [{**one, "tool_calls": [next(waiting) for _ in one["tool_calls"]]} if one.get("tool_calls") else one for one in messages]


def test_results_in_another_order_than_the_calls() -> None:
    """v11 and v13 sort them: v13 writes no ids, so the order of the results tells to which call each belongs."""
    one, two = with_tools.ONE, with_tools.TWO
    messages = [with_tools.user("Both?"), with_tools.calling(with_tools.call(one, {"to": "EUR"}), with_tools.call(two, {}, "clock")),
                with_tools.result(two, "12"), with_tools.result(one, "1.5"), with_tools.answer("Done.")]  # fmt: skip
    for version in WITH_TOOLS:
        found = with_tools.encoded(mistral_tokenizer.load(version), with_tools.mapped(messages, with_tools.TOOLS))
        assert found.input_ids == true_ids(version, messages, with_tools.TOOLS), version


words = st.lists(
    st.sampled_from([" ", "  ", "\n", "a", "Wort", "X=1", "é", "😀", "\t", ".", "'s", "Ü", "ß9", "中文", "ا", "\u0301", *plain.CONTROL]),
    min_size=1,
    max_size=12,
).map("".join)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(VERSIONS), st.lists(words.filter(str.strip), min_size=1, max_size=3), words.filter(str.strip), st.booleans())
def test_any_chat_has_the_ids_of_mistral_common(version, answers, question, with_system):
    system = question if with_system else ""
    messages = plain.chat(*(text for answer in answers for text in (question, answer)), system=system)
    found = plain.encode(mistral_tokenizer.load(version), messages)
    assert found.input_ids == true_ids(version, messages)
    assert plain.graded(found) == [answer_ids(version, answer) for answer in answers]


def test_a_default_system_text_of_the_template_is_written_with_tools_too() -> None:
    tokenizer = plain.with_template(
        mistral_tokenizer.load("v7"),
        mistral_tokenizer.TEMPLATES["v7"].replace("if messages[0]['role'] == 'system' else none", "if messages[0]['role'] == 'system' else 'Be kind.'", 1)
        .replace("messages[1:] if system is not none else messages", "messages[1:] if messages[0]['role'] == 'system' else messages"),
    )  # fmt: skip
    assert mistral_tools.can_write(tokenizer)
    chat = with_tools.CHATS["call, result, answer"]
    system = {"role": "system", "content": "Be kind."}
    assert plain.encode(tokenizer, plain.chat("a", "b")).input_ids == true_ids("v7", plain.chat("a", "b", system="Be kind."))
    assert with_tools.encoded(tokenizer, with_tools.mapped(chat, with_tools.TOOLS)).input_ids == true_ids(
        "v7", [system, *chat], with_tools.TOOLS
    )
