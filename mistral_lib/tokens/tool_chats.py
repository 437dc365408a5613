"""Chats with tools as segments, in one of three ways that depends on the base model.

mistral: control tokens and JSON as mistral-common writes them for its v3. template: by the base model's own chat template, if it shows
tools, calls and results. text: for all other templates: tools as system text, a call as a line of JSON, a result as a user's text.
Source: https://docs.mistral.ai/guides/tokenization/ (v3)
"""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from mistral_lib.shapes.cells import as_json
from mistral_lib.shapes.conversation import Message, words_of
from mistral_lib.shapes.tools import Tool, call_id
from mistral_lib.tokens import chat_template, control_tokens
from mistral_lib.tokens.chat_template import TemplateError
from mistral_lib.tokens.segment import Segment

MISTRAL, TEMPLATE, TEXT = "mistral", "template", "text"
V3_TOKENS = {"[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"}
VALID_ID = re.compile(r"[a-zA-Z0-9]{9}")
ABOUT_TOOLS = "You can call these functions. A call is a line of JSON with the function's name and its arguments."


def way(tokenizer: Any) -> str:
    """How tools are written for a base model: MISTRAL, TEMPLATE or TEXT."""
    return _way(tokenizer, tokenizer.chat_template)


@lru_cache(maxsize=64)
def _way(tokenizer: Any, template: str) -> str:
    names = control_tokens.of(tokenizer).ids.keys()
    is_v3 = names >= V3_TOKENS and "[SYSTEM_PROMPT]" not in names and "▁the" in tokenizer.get_vocab()
    if chat_template.is_mistral(tokenizer) and is_v3:
        return MISTRAL
    return TEMPLATE if _shows_tools(tokenizer) else TEXT


def _shows_tools(tokenizer: Any) -> bool:
    """Whether the chat template writes every part of a chat with tools: name of a tool, name and argument of a call, result."""
    marks = [chat_template.MARK.format(number) for number in range(6)]
    call = {"id": "abcdefghi", "type": "function", "function": {"name": marks[1], "arguments": {"city": marks[2]}}}
    messages = [
        {"role": "user", "content": marks[3]}, {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": marks[4], "tool_call_id": "abcdefghi", "name": marks[1]}, {"role": "assistant", "content": marks[5]},
    ]  # fmt: skip
    tool = {"type": "function", "function": {"name": marks[0], "description": "", "parameters": {"type": "object", "properties": {}}}}
    with suppress(TemplateError):
        text = chat_template.render(tokenizer, messages, False, [tool])
        return all(mark in text for mark in marks)
    return False


# -- mistral ------------------------------------------------------------------------------------------------------------


def mistral_segments(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Tool] | None) -> list[Segment]:
    """As mistral-common encodes the same chat with its v3 tokenizer. A text before calls is written before them, as its v7 does."""
    ids = control_tokens.of(tokenizer).ids
    system, talk = (messages[0]["content"], messages[1:]) if messages[0]["role"] == "system" else ("", messages)
    last = max((number for number, message in enumerate(talk) if message["role"] == "user"), default=-1)
    found = [Segment(control=tokenizer.bos_token_id)]
    for number, message in enumerate(talk):
        if message["role"] == "user":
            is_last = number == last
            found += _enclosed(ids, "AVAILABLE_TOOLS", _tools_text(tools)) if is_last and tools else []
            found += _enclosed(ids, "INST", f"{system}\n\n{message['content']}" if is_last and system else message["content"])
        elif message["role"] == "tool":
            found += _enclosed(ids, "TOOL_RESULTS", _result_text(message))
        else:
            found += _answer(ids, message, tokenizer.eos_token_id)
    return found


def _enclosed(ids: dict[str, int], name: str, text: str) -> list[Segment]:
    words = [Segment(f" {text}")] if text else []
    return [Segment(control=ids[f"[{name}]"]), *words, Segment(control=ids[f"[/{name}]"])]


def _answer(ids: dict[str, int], message: Message, end: int) -> list[Segment]:
    graded, text, calls = message.get("graded", True), message["content"].rstrip(" "), message.get("tool_calls")
    found = [Segment(f" {text}", graded=graded)] if text else []
    if calls:
        found += [Segment(control=ids["[TOOL_CALLS]"], graded=graded), Segment(f" {_calls_text(calls)}", graded=graded)]
    return [*found, Segment(control=end, graded=graded)]


def _tools_text(tools: Sequence[Tool]) -> str:
    functions = [{key: tool["function"][key] for key in ("name", "description", "parameters")} for tool in tools]
    return json.dumps([{"type": "function", "function": function} for function in functions], ensure_ascii=False)


def _calls_text(calls: Sequence[dict[str, Any]]) -> str:
    written = []
    for call in calls:
        function = {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
        written.append({**function, "id": valid_id(call["id"])} if "id" in call else function)
    return json.dumps(written, ensure_ascii=False)


def _result_text(message: Message) -> str:
    content: Any = message["content"] or "{}"
    with suppress(ValueError):
        content = json.loads(content)
    return json.dumps({"content": content, "call_id": valid_id(message["tool_call_id"])}, ensure_ascii=False)


def valid_id(given: str) -> str:
    """An id of nine letters and digits, which Mistral's models expect: the given one, or one that depends only on it."""
    return given if VALID_ID.fullmatch(given) else call_id(given)


# -- text ---------------------------------------------------------------------------------------------------------------


def as_text(messages: Sequence[Message], tools: Sequence[Tool] | None) -> list[Message]:
    """The chat without tools: what they are is system text, calls and results are texts of the assistant and the user."""
    lines = [ABOUT_TOOLS, *(as_json(tool["function"]) for tool in tools or [])] if tools else []
    system = [message["content"] for message in messages if message["role"] == "system"]
    texts = [*system, *(["\n".join(lines)] if lines else [])]
    found: list[Message] = [{"role": "system", "content": "\n\n".join(texts)}] if texts else []
    for message in messages:
        role, text = "user" if message["role"] == "tool" else message["role"], words_of(message)
        if role == "system":
            continue
        if found and found[-1]["role"] == role and found[-1].get("graded", True) == message.get("graded", True):
            found[-1]["content"] = "\n\n".join(part for part in (found[-1]["content"], text) if part)
        else:
            found.append({"role": role, "content": text, **({} if message.get("graded", True) else {"graded": False})})
    return found
