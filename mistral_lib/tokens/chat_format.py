"""Records as token ids and labels, in the base model's own chat format.

Graded (supervised) are the assistant's words and the end token that follows them; a plain document is graded completely.
Knows token ids and masks; knows nothing of files, models or notebooks.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from mistral_lib.corpus.records import Message, Record
from mistral_lib.shapes.tools import Tool
from mistral_lib.tokens import chat_segments
from mistral_lib.tokens.batch_encoding import encode_batch, token_ids
from mistral_lib.tokens.chat_template import NoEndTokenError, TemplateError

__all__ = ["IGNORED", "Encoded", "NoEndTokenError", "Piece", "TemplateError", "encode", "pieces", "prompt_ids", "show_mask"]

IGNORED = -100  # the label that PyTorch's cross_entropy skips


@dataclass(frozen=True, slots=True)
class Encoded:
    input_ids: list[int]
    labels: list[int]  # the ids of graded tokens, IGNORED for all others; not shifted
    problem: str = ""  # why this record cannot be encoded in the model's chat format

    @property
    def supervised(self) -> int:
        """Number of graded tokens; the first token of a record is never graded, since nothing precedes it."""
        return len(self.labels) - self.labels.count(IGNORED)

    @property
    def refusal(self) -> str:
        """Why no model can learn from this record; "" if one can."""
        return self.problem or ("" if self.supervised else "no_supervised_token")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rendered record: text of the template, or of one message."""

    text: str
    role: str | None  # None: the template's own


def pieces(tokenizer: Any, messages: Sequence[Message], for_answer: bool = False) -> list[Piece]:
    """The rendered chat without tools, split at the ends of its contents. for_answer: end before the answer. Errors: TemplateError,
    NoEndTokenError."""
    layout, contents = chat_segments.layout_and_contents(tokenizer, messages, for_answer)
    found: list[Piece] = []
    for part in layout.parts:
        own = part.message < 0
        text = (tokenizer.convert_ids_to_tokens(part.control) if part.control >= 0 else part.text) if own else contents[part.message]
        if own and found and found[-1].role is None:
            text = found.pop().text + text
        found.append(Piece(text, None if own else messages[part.message]["role"]))
    return [piece for piece in found if piece.text]


def encode(tokenizer: Any, records: Sequence[Record]) -> list[Encoded]:
    """Token ids and labels of each record, tokenized in one batch.

    Text that looks like a control token, `</s>` for one, is encoded as text. A chat that the template cannot express comes
    back empty, with its problem. Errors: NoEndTokenError.
    """
    batch = encode_batch(tokenizer, records)
    labels = np.where(batch.graded, batch.ids, IGNORED)
    return [
        Encoded(batch.ids[start:end].tolist(), labels[start:end].tolist(), batch.problems.get(place, ""))
        for place, (start, end) in enumerate(pairwise(batch.starts.tolist()))
    ]


def prompt_ids(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Tool] | None = None) -> list[int]:
    """The token ids after which the assistant's answer begins. Errors: TemplateError."""
    return token_ids(tokenizer, chat_segments.segments(tokenizer, messages, for_answer=True, tools=tools))[0].tolist()


def show_mask(tokenizer: Any, encoded: Encoded, longest: int = 160) -> str:
    """HTML for human eyes: graded tokens on green, ignored ones grey, at most `longest` tokens."""
    spans = []
    for token, label in list(zip(encoded.input_ids, encoded.labels, strict=True))[:longest]:
        style = "background:#cdebc5;color:#113311;padding-bottom:2px" if label != IGNORED else "opacity:.65"  # of any theme's color
        text = html.escape(tokenizer.decode([token])).replace("\n", "⏎<br>")
        spans.append(f'<span style="{style}">{text}</span>')
    more = len(encoded.input_ids) - longest
    tail = f"<i> … and {more} more tokens</i>" if more > 0 else ""
    return f'<div style="font-family:monospace;white-space:pre-wrap;line-height:1.5">{"".join(spans)}{tail}</div>'
