"""A row with a plain text, perhaps with a title, or with the cells of a table."""

from collections.abc import Callable
from typing import Any

from mistral_lib.shapes.cells import Cells, Content, NoFitError, UnmappableError, is_empty, trimmed
from mistral_lib.shapes.chats import lone_turn
from mistral_lib.shapes.contents import text_of, value_text
from mistral_lib.shapes.grading import require_weight


def document(text: Any, title: Any = None) -> Content:
    """Errors: UnmappableError."""
    text = trimmed(text_of(text))
    if not text:
        raise UnmappableError("empty_text")
    return {"text": f"{title.strip()}\n\n{text}" if isinstance(title, str) and title.strip() else text}


def titled(key: str) -> Callable[[Cells], Content]:
    """A builder for a text with an optional title. Errors: UnmappableError for one turn of a conversation, which is no document."""

    def build(cells: Cells) -> Content:
        if lone_turn(cells):
            raise UnmappableError("single_turn_of_a_conversation")
        require_weight(cells)
        return document(cells.take(key), cells.optional("title"))

    return build


def single_turn(cells: Cells) -> Content:
    """Errors: UnmappableError always: a turn whose conversation is not known is no record."""
    raise UnmappableError("single_turn_of_a_conversation" if lone_turn(cells) else "unknown_shape")


def table_row(cells: Cells) -> Content:
    """A row of a table under `data`, whose columns are no other shape: a line per cell. A text under `data` alone is a document."""
    given = cells.take("data")
    if isinstance(given, str) and len(cells.values) == 1:
        return document(given)
    if not isinstance(given, dict):
        raise NoFitError
    return document("\n".join(f"{key}: {value_text(cell)}" for key, cell in given.items() if not is_empty(cell)))
