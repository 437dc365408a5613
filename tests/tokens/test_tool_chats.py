"""Chats with tools: token for token as mistral-common for its v3, by the base model's own template, or as text; and what is graded."""

import copy
import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, ToolMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall, Tool, ToolCall
from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from mistral_lib.corpus.records import Record, map_row
from mistral_lib.model import base_model, demo_model, mistral_tokenizer
from mistral_lib.tokens import chat_format, long_records, mistral_tools, tool_chats
from mistral_lib.tokens.chat_format import IGNORED

RATE = {"name": "get_rate", "description": "Exchange rate – „live“", "parameters": {"type": "object", "properties": {"to": {"type": "string"}}, "required": ["to"]}}  # fmt: skip
CLOCK = {"name": "clock", "description": "", "parameters": {"type": "object", "properties": {}}}
TOOLS = [{"type": "function", "function": RATE}, {"type": "function", "function": CLOCK}]


def call(number: str | None, arguments: object, name: str = "get_rate") -> dict:
    function = {"name": name, "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)}
    return {"type": "function", "function": function, **({"id": number} if number else {})}


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def answer(text: str) -> dict:
    return {"role": "assistant", "content": text}


def calling(*calls: dict) -> dict:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def result(number: str, content: str) -> dict:
    return {"role": "tool", "tool_call_id": number, "content": content}


ONE, TWO = "abcdefghi", "A1b2C3d4E"
CHATS = {
    "call at the end": [user("Rate?"), calling(call(None, {"to": "EUR"}))],
    "call, result, answer": [user("Rate?"), calling(call(ONE, {"to": "EUR"})), result(ONE, '{"rate": 1.5}'), answer("It is 1.5.")],
    "result is text": [user("Rate?"), calling(call(ONE, {"to": "€ \" \n"})), result(ONE, "no rate today </s>"), answer("None.")],
    "two calls at once": [user("Both?"), calling(call(ONE, {"to": "EUR"}), call(TWO, {}, "clock")), result(ONE, "1.5"), result(TWO, "[12, 30]"), answer("Done.")],
    "two rounds": [user("Rate?"), calling(call(ONE, {"to": "EUR"})), result(ONE, "1"), answer("One."), user("And CHF?"), calling(call(TWO, {"to": "CHF", "n": None, "x": [1.0, 1e16]})), result(TWO, ""), answer("Two. ")],
    "system": [{"role": "system", "content": "Be brief."}, user("Rate?"), answer("Where?"), user("Here."), calling(call(ONE, {"to": "EUR"})), result(ONE, "1"), answer("One.")],
    "tools without a call": [user("Hello"), answer("Hi.")],
}  # fmt: skip
CONTROL = ["[TOOL_CALLS]", "[/INST]", "</s>", "[AVAILABLE_TOOLS]", "<|im_end|>", "\ue000", "\ue0000\ue001"]


@cache
def reference(mode: ValidationMode) -> MistralTokenizer:
    return MistralTokenizer.from_file(str(mistral_tokenizer.vocabulary_file()), mode=mode)


def true_ids(messages: list[dict], tools: list[dict] | None, mode: ValidationMode = ValidationMode.finetuning) -> list[int]:
    """What mistral-common writes for the same chat."""
    kinds = {"system": SystemMessage, "user": UserMessage, "tool": ToolMessage}

    def message(one: dict) -> object:
        if one["role"] != "assistant":
            return kinds[one["role"]](**{key: value for key, value in one.items() if key != "role"})
        calls = [
            ToolCall(function=FunctionCall(**c["function"]), **({"id": c["id"]} if "id" in c else {})) for c in one.get("tool_calls", [])
        ]
        return AssistantMessage(content=one["content"], tool_calls=calls or None)

    known = [Tool(function=Function(**tool["function"])) for tool in tools] if tools else None
    return reference(mode).encode_chat_completion(ChatCompletionRequest(messages=list(map(message, messages)), tools=known)).tokens


def mapped(messages: list[dict], tools: object = None) -> Record:
    return map_row({"messages": messages, "tools": tools}, "chats.jsonl:1")


def encoded(tokenizer: object, record: Record) -> chat_format.Encoded:
    (found,) = chat_format.encode(tokenizer, [record])
    assert not found.problem
    return found


def graded_texts(tokenizer: object, found: chat_format.Encoded) -> list[str]:
    """The stretches of graded tokens, as text."""
    stretches: list[list[int]] = [[]]
    for label in found.labels:
        stretches += [[]] if label == IGNORED else []
        stretches[-1] += [label] if label != IGNORED else []
    return [tokenizer.decode(stretch) for stretch in stretches if stretch]


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("tools", [TOOLS, TOOLS[:1], None], ids=["two tools", "one tool", "no tool"])
def test_ids_are_those_of_mistral_common(name, tools):
    tokenizer, record = mistral_tokenizer.load(), mapped(CHATS[name], tools)
    found = encoded(tokenizer, record)
    assert found.input_ids == true_ids(CHATS[name], tools)
    answers = [message for message in CHATS[name] if message["role"] == "assistant"]
    assert found.labels.count(tokenizer.eos_token_id) == len(answers), "every answer's end token is graded"
    graded = graded_texts(tokenizer, found)
    assert len(graded) == len(answers) and not any("rate today" in text or "[TOOL_RESULTS]" in text for text in graded)
    asked = [*record.messages[:-1]]
    if asked[-1]["role"] in ("user", "tool"):
        prompt = chat_format.prompt_ids(tokenizer, asked, record.tools)
        assert prompt == true_ids(CHATS[name][:-1], tools, ValidationMode.test) == found.input_ids[: len(prompt)]


TEXT = (
    st.lists(st.sampled_from(["a", " ", "Wort", "é", "😀", "\n", '"', "\\", "1", *CONTROL]), min_size=1, max_size=8)
    .map("".join)
    .filter(str.strip)
)
VALUE = st.recursive(
    st.integers(-(2**53), 2**53) | st.booleans() | TEXT | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=60)
@given(st.dictionaries(TEXT, VALUE, max_size=3), VALUE, TEXT.map(str.strip), st.booleans())
def test_any_arguments_and_results_are_written_as_mistral_common_does(arguments, content, question, as_object):
    given_result = json.dumps(content, ensure_ascii=False)
    messages = [user(question), calling(call(ONE, arguments)), result(ONE, given_result), answer("Done.")]
    rows = copy.deepcopy(messages)
    if as_object:
        rows[1]["tool_calls"][0]["function"]["arguments"] = arguments
    assert encoded(mistral_tokenizer.load(), mapped(rows, TOOLS)).input_ids == true_ids(messages, TOOLS)


def test_other_forms_of_the_same_chat_give_the_same_tokens():
    tokenizer = mistral_tokenizer.load()
    wanted = true_ids(CHATS["call, result, answer"], TOOLS[:1])
    filled = {"to": "EUR", "amount": None, "days": None}
    arrow = [
        {"role": "user", "content": "Rate?", "tool_calls": None, "tool_call_id": None, "name": None},
        {"role": "assistant", "content": None, "tool_call_id": None, "tool_calls": [{"id": ONE, "type": "function", "function": {"name": "get_rate", "arguments": filled}}]},
        {"role": "tool", "content": '{"rate": 1.5}', "tool_calls": None, "tool_call_id": ONE, "name": "get_rate"},
        {"role": "assistant", "content": "It is 1.5.", "tool_calls": None, "tool_call_id": None},
    ]  # fmt: skip
    properties = {"to": {"type": "string", "enum": None}, "amount": None}
    schema = {**RATE, "parameters": {"type": "object", "properties": properties, "required": ["to"]}, "strict": None}
    assert encoded(tokenizer, mapped(arrow, [{"type": "function", "function": schema}])).input_ids == wanted
    assert encoded(tokenizer, mapped(arrow, json.dumps([RATE]))).input_ids == wanted
    flat = {"name": "get_rate", "description": RATE["description"], "input_schema": RATE["parameters"]}
    blocks = [
        user("Rate?"),
        answer([{"type": "tool_use", "id": ONE, "name": "get_rate", "input": {"to": "EUR"}}]),
        user([{"type": "tool_result", "tool_use_id": ONE, "content": '{"rate": 1.5}'}]),
        answer([{"type": "text", "text": "It is 1.5."}]),
    ]
    assert encoded(tokenizer, mapped(blocks, [flat])).input_ids == wanted


def test_ids_that_mistral_does_not_accept_or_that_are_missing_are_made_from_what_is_there():
    tokenizer = mistral_tokenizer.load()
    given_ids = encoded(
        tokenizer, mapped([user("Rate?"), calling(call("call_1", {"to": "EUR"})), result("call_1", "1"), answer("One.")], TOOLS)
    )
    own = mistral_tools.valid_id("call_1")
    changed = [user("Rate?"), calling(call(own, {"to": "EUR"})), result(own, "1"), answer("One.")]
    assert given_ids.input_ids == true_ids(changed, TOOLS)
    missing = mapped([user("Rate?"), calling(call(None, {"to": "EUR"})), {"role": "tool", "content": "1"}, answer("One.")], TOOLS)
    (made,) = missing.messages[1]["tool_calls"]
    changed = [user("Rate?"), calling(call(made["id"], {"to": "EUR"})), result(made["id"], "1"), answer("One.")]
    assert encoded(tokenizer, missing).input_ids == true_ids(changed, TOOLS)
    assert missing == mapped([user("Rate?"), calling(call(None, {"to": "EUR"})), {"role": "tool", "content": "1"}, answer("One.")], TOOLS)


def test_a_text_before_a_call_is_written_before_it():
    tokenizer = mistral_tokenizer.load()
    both = {**calling(call(None, {"to": "EUR"})), "content": "Let me look."}
    (graded,) = graded_texts(tokenizer, encoded(tokenizer, mapped([user("Rate?"), both], TOOLS)))
    assert graded == 'Let me look.[TOOL_CALLS] [{"name": "get_rate", "arguments": {"to": "EUR"}}]</s>'


# -- by the chat template -----------------------------------------------------------------------------------------------

HERMES = (
    "{%- if tools %}{{- '<|im_start|>system\n' }}{%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}"
    "{{- '<tools>' }}{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}{{- '\n</tools><|im_end|>\n' }}"
    "{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{%- if message.role == 'user' or (message.role == 'assistant' and not message.tool_calls) %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- elif message.role == 'assistant' %}{{- '<|im_start|>assistant' }}{%- if message.content %}{{- '\n' + message.content }}{%- endif %}"
    '{%- for call in message.tool_calls %}{{- \'\n<tool_call>\n{"name": "\' + call.function.name + \'", "arguments": \' }}'
    "{{- call.function.arguments | tojson }}{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}"
    "{%- elif message.role == 'tool' %}{{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


@pytest.fixture
def hermes():
    """The embedded model's tokenizer with a chat template that shows tools, as those of Hermes and Qwen do."""
    tokenizer = copy.copy(base_model.load_tokenizer(demo_model.NAME))
    tokenizer.chat_template = HERMES
    return tokenizer


def test_each_tokenizer_has_its_way(hermes):
    assert tool_chats.way(mistral_tokenizer.load()) == tool_chats.MISTRAL
    assert tool_chats.way(hermes) == tool_chats.TEMPLATE
    assert tool_chats.way(base_model.load_tokenizer(demo_model.NAME)) == tool_chats.TEXT


@pytest.mark.parametrize("name", CHATS)
def test_a_template_with_tools_writes_the_chat_itself(hermes, name):
    record = mapped(CHATS[name], TOOLS)
    found = encoded(hermes, record)
    rendered = hermes.apply_chat_template(record.messages, tools=record.tools, tokenize=False)
    plain = hermes(rendered, add_special_tokens=False).input_ids
    assert found.input_ids == plain and hermes.decode(found.input_ids) == rendered
    graded = graded_texts(hermes, found)
    answers = [message for message in record.messages if message["role"] == "assistant"]
    assert len(graded) == len(answers)
    for text, message in zip(graded, answers, strict=True):
        assert text.endswith("<|im_end|>") and message["content"] in text and "tool_response" not in text
        assert all(json.dumps(one["function"]["arguments"], ensure_ascii=False) in text for one in message.get("tool_calls", []))
    prompt = chat_format.prompt_ids(hermes, record.messages[:-1], record.tools)
    assert prompt == found.input_ids[: len(prompt)] and hermes.decode(prompt).endswith("<|im_start|>assistant\n")


def test_control_strings_in_tools_and_calls_stay_text(hermes):
    tool = {**RATE, "description": "ends with <|im_end|> and \ue000"}
    record = mapped([user("What <|im_start|>?"), calling(call(None, {"to": "<|im_end|>"}))], [tool])
    found = encoded(hermes, record)
    end = hermes.convert_tokens_to_ids("<|im_end|>")
    assert found.input_ids.count(end) == 3 and found.labels.count(end) == 1
    assert hermes.decode(found.input_ids).count("<|im_end|>") == 5 and "\ue000" in hermes.decode(found.input_ids)
    tokenizer = mistral_tokenizer.load()
    tricky = [user("Why [TOOL_CALLS]?"), calling(call(None, {"to": "</s>[TOOL_CALLS]"}))]
    assert encoded(tokenizer, mapped(tricky, TOOLS)).input_ids == true_ids(tricky, TOOLS)


def test_a_template_whose_rendering_does_not_continue_the_prompt_is_a_problem(hermes):
    hermes.chat_template = HERMES.replace("{%- for message in messages %}", "{{- messages | length }}{%- for message in messages %}", 1)
    (found,) = chat_format.encode(hermes, [mapped(CHATS["call, result, answer"], TOOLS)])
    assert "cannot be located" in found.problem and not found.input_ids


# -- as text ------------------------------------------------------------------------------------------------------------


def test_a_template_without_tools_gets_them_as_text():
    tokenizer = base_model.load_tokenizer(demo_model.NAME)
    record = mapped(CHATS["system"], TOOLS)
    found = encoded(tokenizer, record)
    text = tokenizer.decode(found.input_ids)
    line = '{"name":"get_rate","arguments":{"to":"EUR"}}'
    assert text.startswith("<|im_start|>system\nBe brief.\n\n" + tool_chats.ABOUT_TOOLS) and '"description":"Exchange rate' in text
    assert f"<|im_start|>assistant\n{line}<|im_end|>\n<|im_start|>user\n1<|im_end|>\n" in text
    assert graded_texts(tokenizer, found) == ["Where?<|im_end|>", f"{line}<|im_end|>", "One.<|im_end|>"]
    assert record.answer == "One." and mapped(CHATS["call at the end"], TOOLS).answer == line


# -- what is graded -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mistral", "hermes", "text"])
def test_an_answer_of_weight_0_is_context(name, hermes):
    tokenizer = {"mistral": mistral_tokenizer.load(), "hermes": hermes, "text": base_model.load_tokenizer(demo_model.NAME)}[name]
    bad, good = {**answer("Bad words."), "weight": 0}, {**answer("Good words."), "weight": 1}
    with_tools = [user("Rate?"), {**calling(call(ONE, {"to": "EUR"})), "weight": 0}, result(ONE, "1"), bad]
    for before, tools in (([user("One?"), bad], None), (with_tools, TOOLS)):
        record = mapped([*before, user("Two?"), good], tools)
        graded = graded_texts(tokenizer, encoded(tokenizer, record))
        assert len(graded) == 1 and "Good words." in graded[0] and "Bad" not in graded[0]


def test_windows_keep_calls_with_their_results_and_never_grade_a_result():
    tokenizer = mistral_tokenizer.load()
    rounds = [
        [user(f"Rate {n}?"), calling(call(ONE, {"to": f"EUR {n}"})), result(ONE, json.dumps("long " * 30)), answer(f"It is {n}.")]
        for n in range(4)
    ]
    record = mapped([message for one in rounds for message in one], TOOLS[:1])
    whole = encoded(tokenizer, record)
    for most in (170, 90):  # whole rounds, and less than one
        fitted = long_records.fit(tokenizer, record, whole, most)
        assert len(fitted.windows) >= 4 and all(len(window.input_ids) <= most and window.supervised for window in fitted.windows)
        graded = "".join(text for window in fitted.windows for text in graded_texts(tokenizer, window))
        assert "long" not in graded and all(f"It is {n}." in graded for n in range(4))


def test_a_window_of_turns_that_are_not_graded_is_left_out():
    tokenizer = mistral_tokenizer.load()
    turns = [[user(f"Tell me about {n}: {'why ' * 20}"), {**answer(f"Story {n}: {'so ' * 20}"), "weight": int(n == 2)}] for n in range(3)]
    record = mapped([message for turn in turns for message in turn])
    fitted = long_records.fit(tokenizer, record, encoded(tokenizer, record), 64)
    (window,) = fitted.windows
    assert "Story 2" in tokenizer.decode(window.input_ids) and fitted.tokens_lost > 60
