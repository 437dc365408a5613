"""What a base model's chat template writes around the messages, computed once for each order of roles.

The template is rendered with a mark in place of each content, and the rendering is split at the marks; rendering it for every
record would only repeat this. Three silent effects of templates are detected here: they drop a message (that of
Mistral-7B-Instruct-v0.3 drops the system text if an answer follows), they strip contents, they refuse roles.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mistral_lib.tokens import control_tokens, mistral_versions

MARK = "\ue000{}\ue001"  # private-use characters; contents are inserted after the marks are removed, so they may contain them
MARKED = re.compile("\ue000(\\d+)\ue001")
CONTEXT = "context"  # in place of the role of a message that is not graded
EDGE = "\n\u2003\n"  # white space that no template writes by itself: is it kept at the ends of a content?
EDITS = {(True, True): str, (False, True): str.lstrip, (True, False): str.rstrip, (False, False): str.strip}  # by (left, right) kept


class NoEndTokenError(ValueError):
    """The template writes no end token after an answer: a model trained with it would never learn to stop."""


class TemplateError(ValueError):
    """The template cannot express a chat; the message says why."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a rendered chat: template text, a control token, or (message >= 0) a message's content."""

    text: str = ""
    control: int = -1  # a token id
    message: int = -1
    graded: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    parts: tuple[Part, ...]
    edits: tuple[Callable[[str], str], ...]  # how the format changes the blanks at the ends of each message's content
    rendered: tuple[str | int, ...]  # the template's own rendering, which a real one is compared with


def layout(tokenizer: Any, roles: Sequence[str], for_answer: bool = False, ungraded: Sequence[int] = ()) -> Layout:
    """How a chat of these roles is written. for_answer: up to the start of the answer. ungraded: numbers of the assistant's messages
    that are only context. Errors: TemplateError, NoEndTokenError."""
    return _layout(tokenizer, tokenizer.chat_template, tuple(roles), for_answer, tuple(ungraded))


@lru_cache(maxsize=4096)
def _layout(tokenizer: Any, template: str, roles: tuple[str, ...], for_answer: bool, ungraded: tuple[int, ...]) -> Layout:
    complete = _marked(tokenizer, roles, for_answer)
    written, lead = complete, ""
    if not for_answer and len(roles) > 1:
        asked = _marked(tokenizer, roles[:-1], True)
        written, lead = _with_dropped(complete, asked), _lead(complete, asked)
    missing = [f"{role} message {number + 1}" for number, role in enumerate(roles) if written.count(number) != 1]
    if missing:
        raise TemplateError(f"the chat template drops or repeats {', '.join(missing)} of {'-'.join(roles)}")
    answers = () if for_answer else [CONTEXT if number in ungraded else role for number, role in enumerate(roles)]
    parts = _parts(control_tokens.of(tokenizer), written, answers, lead)
    return Layout(tuple(parts), _edits(tokenizer, roles, for_answer), tuple(complete))


def render(tokenizer: Any, messages: Sequence[dict[str, Any]], for_answer: bool, tools: Sequence[Any] | None = None) -> str:
    """The chat as text. Errors: TemplateError with the template's own message."""
    try:
        return tokenizer.apply_chat_template(list(messages), tools=tools, tokenize=False, add_generation_prompt=for_answer)
    except Exception as error:  # a template may fail in any way: its raise_exception, a missing key, a wrong type
        roles = "-".join(message["role"] for message in messages)
        raise TemplateError(f"the chat template refuses {roles}: {error}") from error


def _marked(tokenizer: Any, roles: Sequence[str], for_answer: bool, edge: str = "") -> list[str | int]:
    """Template texts and message numbers, alternating."""
    messages = [{"role": role, "content": edge + MARK.format(number) + edge} for number, role in enumerate(roles)]
    pieces = MARKED.split(render(tokenizer, messages, for_answer))
    return [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)]


def _last_mark(pieces: Sequence[str | int]) -> int:
    """The place of the last mark, -1 if there is none."""
    return max((place for place, piece in enumerate(pieces) if isinstance(piece, int)), default=-1)


def _with_dropped(complete: list[str | int], asked: list[str | int]) -> list[str | int]:
    """The prompt, then the answer, if the complete rendering lacks a message that the prompt contains; else the rendering."""
    last = _last_mark(asked)
    if last < 0 or set(asked[1::2]) <= set(complete[1::2]) or asked[last] not in complete:
        return complete
    return [*asked[: last + 1], *complete[complete.index(asked[last]) + 1 :]]


def _lead(complete: list[str | int], asked: list[str | int]) -> str:
    """White space before an answer that is not part of the prompt, so that the model has to write it: Mistral's space."""
    before = complete[_last_mark(complete) - 1]
    behind = asked[_last_mark(asked) + 1]
    extra = before.removeprefix(behind) if before.startswith(behind) else ""
    return extra if extra.isspace() else ""


def _parts(control: control_tokens.ControlTokens, written: Sequence[str | int], roles: Sequence[str], lead: str) -> list[Part]:
    """The layout's parts. Graded are the assistant's: lead, content, and everything up to the end token."""
    found: list[Part] = []
    ending = False  # an answer was just written, its end token follows
    for place, piece in enumerate(written):
        if isinstance(piece, int):
            ending = bool(roles) and roles[piece] == "assistant"
            found.append(Part(message=piece, graded=ending))
            continue
        follows = written[place + 1] if place + 1 < len(written) else None
        own = lead if follows is not None and roles and roles[follows] == "assistant" and piece.endswith(lead) else ""
        template = control.cut(piece[: len(piece) - len(own)])
        if ending:
            end = _end_of_answer(template)
            found += [_template_part(one, True) for one in template[:end]]
            template, ending = template[end:], False
        found += [_template_part(one, False) for one in template]
        found += [Part(text=own, graded=True)] if own else []
    return found


def _template_part(piece: int | str, graded: bool) -> Part:
    return Part(control=piece, graded=graded) if isinstance(piece, int) else Part(text=piece, graded=graded)


def _end_of_answer(template: Sequence[int | str]) -> int:
    """How many parts after an answer belong to it: white space, if any, and the end token. Errors: NoEndTokenError."""
    for place, piece in enumerate(template):
        if isinstance(piece, int):
            return place + 1
        if not piece.isspace():
            break
    raise NoEndTokenError("the chat template writes no end token after the assistant's answer; use a base model whose template does")


def _edits(tokenizer: Any, roles: Sequence[str], for_answer: bool) -> tuple[Callable[[str], str], ...]:
    """How blanks at the ends of each content change.

    For Mistral's format mistral-common is the reference: it removes trailing spaces of answers (from v2 on) and nothing else, while
    the template of v0.3 strips answers on both sides, and with that the indentation of code.
    """
    if found := mistral_versions.version(tokenizer):
        return tuple((lambda text: text.rstrip(" ")) if role == "assistant" and found != "v1" else str for role in roles)
    pieces = _marked(tokenizer, roles, for_answer, EDGE)
    edits: dict[int, Callable[[str], str]] = {}
    for place in range(1, len(pieces), 2):
        edits[pieces[place]] = EDITS[pieces[place - 1].endswith(EDGE), pieces[place + 1].startswith(EDGE)]
    return tuple(edits.get(number, str) for number in range(len(roles)))
