"""A chat with tools as mistral-common writes it, for the versions v3, v7, v11 and v13 of its format.

                v3                        v7                        v11                       v13
tools           before the last user message                                                  before the first one
a call          JSON list with ids                                  name, id, arguments       name, arguments
a result        JSON with id and content  id [TOOL_CONTENT] content                           content
order           as given                                            that of the calls
system text     in the last user message  [SYSTEM_PROMPT] … [/SYSTEM_PROMPT] at the beginning

A text before calls is written before them, as v7 does it. Source: https://docs.mistral.ai/guides/tokenization/ , instruct.py in mistral-common
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mistral_lib.shapes.conversation import Message
from mistral_lib.shapes.tools import Tool, call_id
from mistral_lib.tokens import chat_template, control_tokens, mistral_versions
from mistral_lib.tokens.chat_template import TemplateError
from mistral_lib.tokens.segment import Segment

TOKENS = {
    "v3": {"[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"},
    "v7": {"[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"},
    "v11": {"[ARGS]", "[CALL_ID]"},
    "v13": {"[ARGS]"},
}
VALID_ID = re.compile(r"[a-zA-Z0-9]{9}")
SYSTEM = re.compile(r"\[SYSTEM_PROMPT\](.*?)\[/SYSTEM_PROMPT\]", re.DOTALL)


def can_write(tokenizer: Any) -> bool:
    """Whether the tokenizer has one of these formats, and all control tokens that it needs."""
    found = mistral_versions.version(tokenizer)
    if found not in TOKENS:
        return False
    needed = TOKENS["v3"] | (TOKENS["v7"] if found != "v3" else set()) | TOKENS[found]
    return (needed - {"[TOOL_CONTENT]"} if found == "v13" else needed) <= control_tokens.of(tokenizer).ids.keys()


@dataclass(frozen=True)
class Format:
    version: str
    ids: dict[str, int]  # of the control tokens
    blank: str  # before every text
    end: int

    def text(self, text: str, graded: bool = False) -> list[Segment]:
        return [Segment(self.blank + text, graded=graded)] if text else []

    def control(self, name: str, graded: bool = False) -> Segment:
        return Segment(control=self.ids[f"[{name}]"], graded=graded)

    def enclosed(self, name: str, text: str) -> list[Segment]:
        return [self.control(name), *self.text(text), self.control(f"/{name}")]


def segments(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Tool] | None) -> list[Segment]:
    """The segments of a chat, as mistral-common encodes it."""
    version = mistral_versions.version(tokenizer)
    form = Format(version, control_tokens.of(tokenizer).ids, mistral_versions.blank(tokenizer), tokenizer.eos_token_id)
    system, talk = (messages[0]["content"], messages[1:]) if messages[0]["role"] == "system" else (_own_system(tokenizer), messages)
    users = [number for number, message in enumerate(talk) if message["role"] == "user"] or [-1]
    found = [Segment(control=tokenizer.bos_token_id)]
    if system and version != "v3":
        found += form.enclosed("SYSTEM_PROMPT", system)
    for number, message in _ordered(version, talk):
        if message["role"] == "user":
            text = f"{system}\n\n{message['content']}" if version == "v3" and system and number == users[-1] else message["content"]
            here = number == users[0 if version == "v13" else -1]
            found += form.enclosed("AVAILABLE_TOOLS", _tools_text(tools)) if tools and here else []
            found += form.enclosed("INST", text)
        else:
            found += _result(form, message) if message["role"] == "tool" else _answer(form, message)
    return found


@lru_cache(maxsize=64)
def _own_system_of(tokenizer: Any, template: str) -> str:
    with suppress(TemplateError):
        found = SYSTEM.search(chat_template.render(tokenizer, [{"role": "user", "content": "x"}], True))
        return found[1].removeprefix(mistral_versions.blank(tokenizer)) if found else ""
    return ""


def _own_system(tokenizer: Any) -> str:
    """The system text that the chat template writes if a chat has none; "" if it writes none."""
    return _own_system_of(tokenizer, tokenizer.chat_template)


def _ordered(version: str, talk: Sequence[Message]) -> Iterator[tuple[int, Message]]:
    """Messages with their numbers. v11 and v13 put the results of one answer into the order of its calls."""
    places: dict[str, int] = {}
    waiting: list[tuple[int, Message]] = []
    for number, message in enumerate(talk):
        if message["role"] == "tool" and version in ("v11", "v13"):
            waiting.append((number, message))
            continue
        yield from sorted(waiting, key=lambda one: places.get(one[1]["tool_call_id"], len(places)))
        waiting = []
        places = {call["id"]: place for place, call in enumerate(message.get("tool_calls") or []) if "id" in call}
        yield number, message
    yield from sorted(waiting, key=lambda one: places.get(one[1]["tool_call_id"], len(places)))


def _answer(form: Format, message: Message) -> list[Segment]:
    graded, calls = message.get("graded", True), message.get("tool_calls") or []
    found = form.text(message["content"].rstrip(" "), graded)
    if calls and form.version in ("v3", "v7"):
        found += [form.control("TOOL_CALLS", graded), *form.text(_calls_text(calls), graded)]
    elif calls:
        found += [part for call in calls for part in _call(form, call, graded)]
    return [*found, Segment(control=form.end, graded=graded)]


def _call(form: Format, call: dict[str, Any], graded: bool) -> list[Segment]:
    name, arguments = call["function"]["name"], json.dumps(call["function"]["arguments"], ensure_ascii=False)
    with_id = form.version == "v11" and "id" in call
    number = [form.control("CALL_ID", graded), *form.text(valid_id(call["id"]), graded)] if with_id else []
    return [
        form.control("TOOL_CALLS", graded),
        *form.text(name, graded),
        *number,
        form.control("ARGS", graded),
        *form.text(arguments, graded),
    ]


def _result(form: Format, message: Message) -> list[Segment]:
    if form.version == "v3":
        return form.enclosed("TOOL_RESULTS", _result_text(message))
    content = form.text(message["content"])
    number = [] if form.version == "v13" else [*form.text(valid_id(message["tool_call_id"])), form.control("TOOL_CONTENT")]
    return [form.control("TOOL_RESULTS"), *number, *content, form.control("/TOOL_RESULTS")]


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
