"""The texts of a chat with tools, to be checked and redacted, and the chat with the changed texts.

Tools and tool calls are texts of JSON in which line breaks are real ones, so that a pattern of several lines finds a key in them.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from mistral_lib.shapes.cells import as_json
from mistral_lib.shapes.conversation import Message
from mistral_lib.shapes.tools import Call, Tool

ESCAPED = re.compile(r"\\(.)")
BARE_PLACEHOLDER = re.compile(r"([:\[,]\s*)(<[A-Z_]+>)(?=\s*[,\]}])")  # a number that was redacted


def has_tools(messages: Sequence[Message], tools: list[Tool] | None) -> bool:
    return bool(tools) or any("tool_calls" in message or message["role"] == "tool" for message in messages)


def texts(messages: Sequence[Message], tools: list[Tool] | None) -> list[str]:
    """The tools, then each message's text, if it has one, and its calls."""
    found = [_readable(tool) for tool in tools or []]
    for message in messages:
        found += [message["content"]] if message["content"].strip() else []
        found += [_readable(call["function"]) for call in message.get("tool_calls", [])]
    return found


def with_texts(messages: Sequence[Message], tools: list[Tool] | None, changed: Sequence[str]) -> tuple[list[Message], list[Tool] | None]:
    """Messages and tools with other texts, in the order of `texts`."""
    rest = iter(changed)
    new_tools = [_tool(tool, next(rest)) for tool in tools] if tools else tools
    return [_message(message, rest) for message in messages], new_tools


def _message(message: Message, rest: Iterator[str]) -> Message:
    new = {**message, "content": next(rest) if message["content"].strip() else ""}
    if "tool_calls" in message:
        new["tool_calls"] = [_call(call, next(rest)) for call in message["tool_calls"]]
    return new


def _tool(tool: Tool, text: str) -> Tool:
    found = _parsed(text)
    return (
        found
        if isinstance(found, dict) and "function" in found
        else {**tool, "function": {**_name(tool), "description": text, "parameters": {}}}
    )


def _call(call: Call, text: str) -> Call:
    """A call whose text is no JSON any more keeps it as the text of its arguments: it has been checked, what it was has not."""
    found = _parsed(text)
    is_call = isinstance(found, dict) and isinstance(found.get("name"), str) and "arguments" in found
    return {**call, "function": found if is_call else {**_name(call), "arguments": text}}


def _name(value: dict[str, Any]) -> dict[str, str]:
    return {"name": value["function"]["name"]}


def _readable(value: Any) -> str:
    text = as_json(value)
    return ESCAPED.sub(lambda found: "\n" if found[1] == "n" else found[0], text) if "\\n" in text else text


def _parsed(text: str) -> Any:
    for attempt in (text, BARE_PLACEHOLDER.sub(r'\1"\2"', text)):
        try:
            return orjson.loads(attempt) if "\n" not in attempt else json.loads(attempt, strict=False)
        except ValueError:
            continue
    return None
