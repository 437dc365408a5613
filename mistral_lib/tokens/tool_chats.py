"""Chats with tools as segments, in one of three ways that depends on the base model.

mistral: control tokens and JSON as mistral-common writes them for the model's version of its format (`mistral_tools`). template: by the
base model's own chat template, if it shows tools, calls and results. text: for all other templates: tools as system text, a call as a
line of JSON, a result as a user's text.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any

from mistral_lib.shapes.cells import as_json
from mistral_lib.shapes.conversation import Message, words_of
from mistral_lib.shapes.tools import Tool
from mistral_lib.tokens import chat_template, mistral_tools
from mistral_lib.tokens.chat_template import TemplateError

MISTRAL, TEMPLATE, TEXT = "mistral", "template", "text"
ABOUT_TOOLS = "You can call these functions. A call is a line of JSON with the function's name and its arguments."


def way(tokenizer: Any) -> str:
    """How tools are written for a base model: MISTRAL, TEMPLATE or TEXT."""
    return _way(tokenizer, tokenizer.chat_template)


@lru_cache(maxsize=64)
def _way(tokenizer: Any, template: str) -> str:
    if mistral_tools.can_write(tokenizer):
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
