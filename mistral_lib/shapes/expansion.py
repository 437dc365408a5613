"""A JSON value that holds several rows: an array on a line, SQuAD's articles with their questions, and an object of lists of equal length.

Only what cannot be one row is taken apart. The rows keep the order of the value, and the cells that belong to all of them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mistral_lib.shapes.cells import plain
from mistral_lib.shapes.chats import ANSWERS
from mistral_lib.shapes.row_shapes import OTHER_PAIRS, PROMPTS
from mistral_lib.shapes.turns import is_turn_list

FEWEST = 2  # values of lists that are columns
QUESTION_COLUMNS = {*PROMPTS, *(question for question, _ in OTHER_PAIRS), "text", "sentence"}


def rows_in(value: Any) -> list[Any] | None:
    """The rows in a value; None if it is one row itself."""
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return None if is_turn_list(value) else value
    if not isinstance(value, dict):
        return None
    if isinstance(value.get("paragraphs"), list):
        return list(_questions(value)) or None
    if isinstance(value.get("qas"), list) and "context" in value:
        return list(_questions({"paragraphs": [value]})) or None
    return _columns(value)


def _questions(article: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each question of an article in SQuAD's nested form."""
    for paragraph in article["paragraphs"]:
        if not isinstance(paragraph, dict):
            continue
        for question in paragraph.get("qas") or []:
            if isinstance(question, dict):
                named = {"title": article["title"]} if isinstance(article.get("title"), str) else {}
                yield {**named, "context": paragraph.get("context"), **question}


def _columns(value: Mapping[str, Any]) -> list[Any] | None:
    """The rows of an object whose keys are columns: its lists have the same length, and one of them holds the questions. What is no list
    belongs to all rows; then another list must hold the answers."""
    lists = {key: part for key, part in value.items() if isinstance(part, list)}
    if len(lists) < FEWEST or len({len(part) for part in lists.values()}) != 1 or len(next(iter(lists.values()))) < FEWEST:
        return None
    named = {plain(str(key)): part for key, part in lists.items()}
    shared = {key: part for key, part in value.items() if key not in lists}
    if any(isinstance(part, dict) for part in shared.values()) or (shared and named.keys().isdisjoint(ANSWERS)):
        return None
    question = next((part for key, part in named.items() if key in QUESTION_COLUMNS), None)
    if question is None or is_turn_list(question) or not all(isinstance(text, str) for text in question):
        return None
    return [{**shared, **dict(zip(lists, cells, strict=True))} for cells in zip(*lists.values(), strict=True)]


def is_chat(value: Any) -> bool:
    """Whether a list is one conversation: an array whose items are its turns, more than one of them."""
    return is_turn_list(value) and len(value) > 1
