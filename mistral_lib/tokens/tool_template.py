"""A chat with tools as the base model's own chat template writes it, as segments.

The template is rendered for each chat: tools, calls and results have too many forms to compute it once. What is graded is found by
rendering the chat up to each answer and with it; a template for which these do not continue each other is refused.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mistral_lib.shapes.conversation import Message
from mistral_lib.shapes.tools import Tool
from mistral_lib.tokens import control_tokens
from mistral_lib.tokens.chat_template import MARK, MARKED, NoEndTokenError, TemplateError, render
from mistral_lib.tokens.segment import Segment

Span = tuple[int, int]  # characters of the rendered chat


def segments(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Tool] | None, for_answer: bool) -> list[Segment]:
    """The segments of a chat with tools. for_answer: up to the start of the answer. Errors: TemplateError, NoEndTokenError."""
    control = control_tokens.of(tokenizer)
    hidden: list[str] = []
    change = _hiding(control, hidden)
    shown = [_changed({key: part for key, part in message.items() if key != "graded"}, change) for message in messages]
    shown_tools = _changed(list(tools), change) if tools else None
    text = render(tokenizer, shown, for_answer, shown_tools)
    _require_everything(text, shown)
    spans = [] if for_answer else list(_answers(tokenizer, control, messages, shown, shown_tools, text))
    return [_shown_again(one, hidden) for one in _pieces(control, text, spans)]


def _hiding(control: control_tokens.ControlTokens, hidden: list[str]) -> Callable[[str], str]:
    """Replaces what looks like a control token by a mark, and notes it: only the template writes control tokens."""
    names = sorted(control.ids, key=lambda name: -len(name))
    pattern = re.compile("|".join(map(re.escape, [*names, *MARK.format("|").split("|")])))

    def mark(found: re.Match[str]) -> str:
        hidden.append(found[0])
        return MARK.format(len(hidden) - 1)

    return lambda text: pattern.sub(mark, text)


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    """A value with every text in it changed; keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key) if isinstance(key, str) else key: _changed(part, change) for key, part in value.items()}
    return [_changed(part, change) for part in value] if isinstance(value, list) else value


def _require_everything(text: str, shown: Sequence[Message]) -> None:
    """Errors: TemplateError if a content or the name of a call is not in the rendered chat."""
    for number, message in enumerate(shown, 1):
        names = [call["function"]["name"] for call in message.get("tool_calls", [])]
        parts = [message["content"].strip()] if message["role"] != "tool" else []
        if not all(part in text for part in (*parts, *names)):
            raise TemplateError(f"the chat template drops {message['role']} message {number} of a chat with tools")


def _answers(
    tokenizer: Any, control: control_tokens.ControlTokens, messages: Sequence[Message], shown: Sequence[Message], tools: Any, text: str
) -> Iterator[Span]:
    """Where each graded answer with its end token is in the rendered chat. Errors: TemplateError, NoEndTokenError."""
    for number, message in enumerate(messages):
        if message["role"] != "assistant" or not message.get("graded", True):
            continue
        before = render(tokenizer, shown[:number], True, tools)
        written = render(tokenizer, shown[: number + 1], False, tools)
        ends = [found.end() for found in control.pattern.finditer(written) if found.end() > len(before)]
        if not written.startswith(before):
            raise TemplateError("the chat template changes this chat's contents, so its answers cannot be located")
        if not ends:
            raise NoEndTokenError(
                "the chat template writes no end token after the assistant's answer; use a base model whose template does"
            )
        end = ends[-1] - len(written[: ends[-1]]) + len(written[: ends[-1]].rstrip())
        if not text.startswith(written[:end]):
            raise TemplateError("the chat template changes this chat's contents, so its answers cannot be located")
        yield len(before), end


def _pieces(control: control_tokens.ControlTokens, text: str, spans: Sequence[Span]) -> Iterator[Segment]:
    place = 0
    for found in [*control.pattern.finditer(text), None]:
        start = len(text) if found is None else found.start()
        if start > place:
            graded, first = _graded(place, start, spans)
            yield Segment(text[place:start], -1, graded, first, at_start=place == 0)
        if found is not None:
            yield Segment(control=control.ids[found[0].strip()], graded=_graded(found.start(), found.end(), spans)[0])
            place = found.end()


def _graded(start: int, end: int, spans: Sequence[Span]) -> tuple[bool, int]:
    """Whether a piece of the text is graded, and from which of its characters on."""
    for first, last in spans:
        if first < end and start < last:
            return True, max(0, first - start)
    return False, 0


def _shown_again(segment: Segment, hidden: Sequence[str]) -> Segment:
    """The segment with the texts that were hidden from the template."""
    if segment.control >= 0 or not MARKED.search(segment.text):
        return segment
    head, rest = (MARKED.sub(lambda found: hidden[int(found[1])], part)
                  for part in (segment.text[: segment.graded_from], segment.text[segment.graded_from :]))  # fmt: skip
    return segment._replace(text=head + rest, graded_from=len(head))
