"""Records as segments in the base model's own chat format: control tokens and the text between them; not yet token ids.

What a chat template writes around the contents is computed once for each order of roles, and filled in for each record.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

from mistral_lib.shapes.conversation import Message
from mistral_lib.shapes.tool_texts import has_tools
from mistral_lib.shapes.tools import Tool
from mistral_lib.tokens import chat_template, control_tokens, mistral_tools, mistral_versions, tool_chats, tool_template
from mistral_lib.tokens.chat_template import Part, TemplateError
from mistral_lib.tokens.segment import Segment
from mistral_lib.tokens.template_analysis import copies_contents


def layout_and_contents(tokenizer: Any, messages: Sequence[Message], for_answer: bool) -> tuple[chat_template.Layout, list[str]]:
    """The layout of a chat, and its contents as the format writes them. Errors: TemplateError if the template changes them."""
    ungraded = [number for number, message in enumerate(messages) if not message.get("graded", True)]
    layout = chat_template.layout(tokenizer, [message["role"] for message in messages], for_answer, ungraded)
    contents = [edit(message["content"]) for edit, message in zip(layout.edits, messages, strict=True)]
    if copies_contents(tokenizer.chat_template):
        return layout, contents  # then they are always where the layout's marks were
    shown = messages
    if mistral_versions.version(tokenizer):  # blanks at the ends follow mistral-common: only the text between is compared
        shown = [{**message, "content": message["content"].strip()} for message in messages]
    words = [message["content"] for message in shown] if shown is not messages else contents
    expected = "".join(words[piece] if isinstance(piece, int) else piece for piece in layout.rendered)
    if chat_template.render(tokenizer, shown, for_answer) != expected:
        raise TemplateError("the chat template changes this chat's contents, so its answers cannot be located")
    return layout, contents


def segments(tokenizer: Any, messages: Sequence[Message], for_answer: bool = False, tools: Sequence[Tool] | None = None) -> list[Segment]:
    """The segments of a chat. for_answer: up to the start of the assistant's answer. Errors: TemplateError, NoEndTokenError."""
    if has_tools(messages, tools):
        way = tool_chats.way(tokenizer)
        if way == tool_chats.MISTRAL:
            return mistral_tools.segments(tokenizer, messages, tools)
        if way == tool_chats.TEMPLATE:
            return tool_template.segments(tokenizer, messages, tools, for_answer)
        messages = tool_chats.as_text(messages, tools)
    layout, contents = layout_and_contents(tokenizer, messages, for_answer)
    steps = _steps(layout, control_tokens.of(tokenizer))
    found = (step if isinstance(step, Segment) else _text_segment(step, contents) for step in steps)
    return [segment for segment in found if segment is not None]


@dataclass(frozen=True, slots=True)
class TextParts:
    """The parts of a layout between two control tokens."""

    parts: tuple[Part, ...]
    at_start: bool
    bare: bool  # the control token before it drops blanks
    ungraded: int  # number of parts before the first graded one; all of them if none is graded


@lru_cache(maxsize=4096)
def _steps(layout: chat_template.Layout, control: control_tokens.ControlTokens) -> tuple[Segment | TextParts, ...]:
    """The segments of a layout; those that depend on a chat's contents as TextParts, to be filled in."""
    steps: list[Segment | TextParts] = []
    for is_control, group in groupby(layout.parts, key=lambda part: part.control >= 0):
        parts = tuple(group)
        if is_control:
            steps += [Segment(control=part.control, graded=part.graded) for part in parts]
            continue
        bare = bool(steps) and isinstance(steps[-1], Segment) and steps[-1].control in control.drops_blanks_after
        ungraded = next((number for number, part in enumerate(parts) if part.graded), len(parts))
        text_parts = TextParts(parts, at_start=not steps, bare=bare, ungraded=ungraded)
        same = all(part.message < 0 for part in parts)
        steps.append(_text_segment(text_parts, ()) or text_parts if same else text_parts)
    return tuple(steps)


def _text_segment(text_parts: TextParts, contents: Sequence[str]) -> Segment | None:
    texts = [contents[part.message] if part.message >= 0 else part.text for part in text_parts.parts]
    text = "".join(texts)
    if not text:
        return None
    graded_from = sum(map(len, texts[: text_parts.ungraded]))
    if text_parts.bare and text[0].isspace():
        before, text = len(text), text.lstrip()
        graded_from = max(0, graded_from - (before - len(text)))
    graded = text_parts.ungraded < len(texts)
    return Segment(text, -1, graded, graded_from if graded else 0, text_parts.at_start)


def document(tokenizer: Any, text: str) -> list[Segment]:
    """The segments of a plain text: start token if this tokenizer uses one (Mistral's does, SmolLM2's does not), text, end token."""
    start = [Segment(control=tokenizer.bos_token_id)] if _adds_start(tokenizer, tokenizer.bos_token_id) else []
    # mistral-common puts a blank before every SentencePiece text; fast tokenizers leave it out before one that begins with a blank
    blank = mistral_versions.blank(tokenizer)
    words = Segment(blank + text, graded=True, at_start=not blank)
    return [*start, words, Segment(control=tokenizer.eos_token_id, graded=True)]


@lru_cache(maxsize=8)
def _adds_start(tokenizer: Any, start: int | None) -> bool:
    return start is not None and tokenizer("").input_ids[:1] == [start]
