"""A JSON value that holds several rows: SQuAD's articles with their questions, and an object of lists of equal length.

Only what cannot be one row is taken apart. The rows keep the order of the value, and the cells that belong to all of them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from mistral_lib.shapes.cells import plain
from mistral_lib.shapes.row_shapes import OTHER_PAIRS, PROMPTS
from mistral_lib.shapes.turns import is_turn_list

FEWEST = 2  # values of lists that are columns
QUESTION_COLUMNS = {*PROMPTS, *(question for question, _ in OTHER_PAIRS), "text", "sentence"}


def rows_in(value: Any) -> list[Any] | None:
    """The rows in a value; None if it is one row itself."""
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
    """The rows of an object whose keys are columns: every value is a list of the same length, and one column holds the questions."""
    lists = [part for part in value.values() if isinstance(part, list)]
    if len(lists) < FEWEST or len(lists) < len(value) or len({len(part) for part in lists}) != 1 or len(lists[0]) < FEWEST:
        return None
    question = next((part for key, part in value.items() if plain(str(key)) in QUESTION_COLUMNS), None)
    if question is None or is_turn_list(question) or not all(isinstance(text, str) for text in question):
        return None
    return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]


def is_chat(value: Any) -> bool:
    """Whether a list is one conversation: an array whose items are its turns, more than one of them."""
    return is_turn_list(value) and len(value) > 1
