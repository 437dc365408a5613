"""The recognized row shapes: the keys of each, and how a row becomes messages or a text.

To add a shape, add a line to SHAPES. For a shape that only one corpus has, use the parameter `columns` instead.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

from mistral_lib.corpus.messages import UnmappableError, as_json, first_of, regular, text_of, trimmed, turns

Content = dict[str, Any]  # messages or text, and repairs
Builder = Callable[[Mapping[str, Any]], Content]

COLUMNS = ("prompt", "answer", "system", "context", "text", "title", "content", "messages")  # what `columns` may name
MARKED_TURN = re.compile(r"\n\n(Human|Assistant): ?")  # a complete dialogue in one string, as in hh-rlhf


def shaped(value: Mapping[str, Any], columns: Mapping[str, str]) -> tuple[str, Content, set[str]]:
    """(name of the shape, content, the keys of the row that were used). Errors: UnmappableError."""
    named = {target: value[column] for target, column in columns.items() if value.get(column) is not None} if columns else {}
    if named:
        rest = {key: part for key, part in value.items() if key not in columns.values()}
        shape = _shape(named) or _shape({**rest, **named})  # the columns take precedence over the keys
        if shape is not None:
            _, build, used = shape
            return "columns", build({**rest, **named}), {columns.get(key, key) for key in used}
    shape = _shape(value)
    if shape is None:
        raise UnmappableError("unknown_shape" if value else "empty_row")
    name, build, used = shape
    return name, build(value), used


def _shape(value: Mapping[str, Any]) -> tuple[str, Builder, set[str]] | None:
    for name, keys, build, optional in SHAPES:
        if all(value.get(key) is not None for key in keys):
            return name, build, {*keys, *optional}
    return None


def _chat(given: list[tuple[str, str, str]], *more: str) -> Content:
    messages, repairs = regular(given)
    return {"messages": messages, "repairs": (*more, *repairs)}


def _document(text: Any) -> Content:
    text = trimmed(text_of(text))
    if not text:
        raise UnmappableError("empty_text")
    return {"text": text}


def _pair(question_key: str, answer_key: str, *parts: str) -> Builder:
    """A builder for a question and its answer, each a text or (as in TRL) a list of messages. parts: optional keys of the question."""

    def build(value: Mapping[str, Any]) -> Content:
        question, answer = _side("user", value[question_key]), _side("assistant", value[answer_key])
        extra = [_cell(value[key]) for key in parts if value.get(key) not in (None, "")]
        if extra:
            *before, (role, text, repair) = question
            question = [*before, (role, "\n\n".join(part for part in (text, *extra) if part), repair)]
        return _chat([_system(value), *_history(value), *question, *answer])

    return build


def _side(role: str, value: Any) -> list[tuple[str, str, str]]:
    if isinstance(value, list) and value and all(isinstance(part, dict) and "type" not in part for part in value):
        return turns(value)
    return [(role, text_of(value), "")]


def _system(value: Mapping[str, Any]) -> tuple[str, str, str]:
    return "system", "" if value.get("system") is None else text_of(value["system"]), ""


def _history(value: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Alpaca's earlier rounds: [[question, answer], …]."""
    history = value.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in history):
        raise UnmappableError("history_is_not_pairs")
    return [(role, text_of(text), "") for pair in history for role, text in zip(("user", "assistant"), pair, strict=True)]


def _preference(value: Mapping[str, Any]) -> Content:
    """The chosen answer; the rejected one is left out, with a repair code."""
    repair, chosen = "chosen_of_preference", value["chosen"]
    question = first_of(value, "prompt", "question", "instruction")
    if isinstance(chosen, list):
        answer = _side("assistant", chosen)
        asked = any(role == "user" for role, _, _ in answer)  # a complete conversation, or only the answer
        return _chat(answer if asked or question is None else [*_side("user", question), *answer], repair)
    if question is not None:
        return _chat([_system(value), *_side("user", question), *_side("assistant", chosen)], repair)
    _, *marked = MARKED_TURN.split("\n\n" + text_of(chosen).lstrip())
    if not marked:
        raise UnmappableError("preference_without_prompt")
    spoken = zip(marked[::2], marked[1::2], strict=True)
    return _chat([("user" if who == "Human" else "assistant", text, "") for who, text in spoken], repair)


def _titled(value: Mapping[str, Any]) -> Content:
    title = value.get("title")
    document = _document(value["content"])
    return {"text": f"{title.strip()}\n\n{document['text']}"} if isinstance(title, str) and title.strip() else document


def _table_row(value: Mapping[str, Any]) -> Content:
    """A row of a table under `data`: one of the other shapes if its columns fit, otherwise a line per cell."""
    cells = value["data"]
    if not isinstance(cells, dict):
        raise UnmappableError("data_is_not_an_object")
    inner = _shape(cells)
    if inner is not None and inner[0] != "data":
        return inner[1](cells)
    return _document("\n".join(f"{key}: {_cell(cell)}" for key, cell in cells.items() if cell not in (None, "")))


def _cell(cell: Any) -> str:
    return cell if isinstance(cell, str) else as_json(cell)


EXTRA = ("system", "history")
INPUTS = ("input", "context")  # Alpaca's and Dolly's names for what the instruction is about
# name, required keys, how it becomes a record, optional keys; the first shape that fits is taken
SHAPES: list[tuple[str, tuple[str, ...], Builder, tuple[str, ...]]] = [
    ("preference", ("chosen", "rejected"), _preference, ("prompt", "question", "instruction", "system")),
    ("messages", ("messages",), lambda value: _chat(turns(value["messages"])), ()),
    ("conversations", ("conversations",), lambda value: _chat(turns(value["conversations"])), ()),
    ("conversations", ("conversation",), lambda value: _chat(turns(value["conversation"])), ()),
    ("prompt_completion", ("prompt", "completion"), _pair("prompt", "completion"), EXTRA),
    ("prompt_completion", ("prompt", "response"), _pair("prompt", "response"), EXTRA),
    ("instruction", ("instruction", "output"), _pair("instruction", "output", *INPUTS), (*EXTRA, *INPUTS)),
    ("instruction", ("instruction", "response"), _pair("instruction", "response", *INPUTS), (*EXTRA, *INPUTS)),
    ("question_answer", ("question", "answer"), _pair("question", "answer", "context"), (*EXTRA, "context")),
    ("prompt_completion", ("prompt", "answer"), _pair("prompt", "answer", "context"), (*EXTRA, "context")),
    ("text", ("text",), lambda value: _document(value["text"]), ()),
    ("content", ("content",), _titled, ("title",)),
    ("data", ("data",), _table_row, ()),
]
