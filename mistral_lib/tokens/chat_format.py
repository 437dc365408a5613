"""Records as token ids, in the base model's own chat format, and which of those tokens are graded.

Graded (supervised) are the assistant's words and the end token that follows them; a plain document is graded as a whole.
Knows token ids and masks; knows nothing of files, models or notebooks.
"""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mistral_lib.corpus.records import Message, Record
from mistral_lib.tokens import chat_segments, control_tokens
from mistral_lib.tokens.chat_segments import Run
from mistral_lib.tokens.chat_template import NoEndToken, TemplateProblem

__all__ = ["IGNORED", "Encoded", "NoEndToken", "Piece", "TemplateProblem", "encode", "pieces", "prompt_ids", "show_mask"]

IGNORED = -100  # the label that PyTorch's cross_entropy skips


@dataclass(frozen=True, slots=True)
class Encoded:
    input_ids: list[int]
    labels: list[int]  # input_ids where graded, else IGNORED; not shifted
    problem: str = ""  # why this record cannot be written in the model's chat format

    @property
    def supervised(self) -> int:
        """Graded tokens; the first token of a record never is one, since nothing stands before it."""
        return len(self.labels) - self.labels.count(IGNORED)

    @property
    def refusal(self) -> str:
        """Why no model can learn from this record; "" if one can."""
        return self.problem or ("" if self.supervised else "no_supervised_token")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a rendered record: the template's words, or one message's."""

    text: str
    role: str | None  # None: the template's own


def pieces(tokenizer: Any, messages: Sequence[Message], for_answer: bool = False) -> list[Piece]:
    """The rendered chat, cut at the borders of the messages' contents. for_answer: end where the assistant starts to speak.

    Errors: TemplateProblem, NoEndToken.
    """
    layout, contents = chat_segments.checked(tokenizer, messages, for_answer)
    found: list[Piece] = []
    for part in layout.parts:
        own = part.message < 0
        text = (tokenizer.convert_ids_to_tokens(part.control) if part.control >= 0 else part.text) if own else contents[part.message]
        if own and found and found[-1].role is None:
            text = found.pop().text + text
        found.append(Piece(text, None if own else messages[part.message]["role"]))
    return [piece for piece in found if piece.text]


def encode(tokenizer: Any, records: Sequence[Record]) -> list[Encoded]:
    """Token ids and labels of each record, tokenised in one batch.

    Words that look like control tokens, `</s>` for one, stay mere text. A chat that the template cannot express comes
    back empty, with its problem. Errors: NoEndToken.
    """
    found = written(tokenizer, records)
    known = ids_of_texts(tokenizer, [runs for runs in found if not isinstance(runs, str)])
    control = control_tokens.of(tokenizer)
    return [Encoded([], [], runs) if isinstance(runs, str) else _joined(control, runs, known) for runs in found]


def written(tokenizer: Any, records: Sequence[Record]) -> list[list[Run] | str]:
    """Of each record its runs, or why it cannot be written."""
    found: list[list[Run] | str] = []
    for record in records:
        try:
            found.append(
                chat_segments.runs(tokenizer, record.messages)
                if record.messages is not None
                else chat_segments.document(tokenizer, record.text)
            )
        except TemplateProblem as problem:
            found.append(str(problem))
    return found


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The token ids after which the assistant's answer begins. Errors: TemplateProblem."""
    runs = chat_segments.runs(tokenizer, messages, for_answer=True)
    return _joined(control_tokens.of(tokenizer), runs, ids_of_texts(tokenizer, [runs])).input_ids


def ids_of_texts(tokenizer: Any, chats: Iterable[Sequence[Run]]) -> dict[tuple[str, bool], list[int]]:
    """Token ids of each different (text, whether it stands at the start): what a template repeats is tokenised once."""
    control = control_tokens.of(tokenizer)
    texts = {(run.text, run.at_start): None for runs in chats for run in runs if run.control < 0}
    found: dict[tuple[str, bool], list[int]] = {}
    for at_start, plain in ((True, control.at_start), (False, control.behind)):
        mine = [one for one in texts if one[1] == at_start]
        found |= zip(mine, control_tokens.ids_of(plain, [text for text, _ in mine]), strict=True)
    return found


def _joined(control: control_tokens.ControlTokens, runs: Sequence[Run], known: dict[tuple[str, bool], list[int]]) -> Encoded:
    ids: list[int] = []
    labels: list[int] = []
    for run in runs:
        own = [run.control] if run.control >= 0 else known[run.text, run.at_start]
        ungraded = (header_tokens(control, run, own) if run.graded_from else 0) if run.graded else len(own)
        ids += own
        labels += [IGNORED] * ungraded + own[ungraded:]
    if labels:
        labels[0] = IGNORED
    return Encoded(ids, labels)


def header_tokens(control: control_tokens.ControlTokens, run: Run, own: Sequence[int]) -> int:
    """How many tokens of a run stand before its graded words. own: the run's token ids, a list or an array."""
    plain = control.at_start if run.at_start else control.behind
    header = control_tokens.header_ids(plain, run.text[: run.graded_from])
    if tuple(own[: len(header)]) == header:
        return len(header)  # the header's own tokens stand first, so no token reaches across the border
    return control_tokens.first_token_from(plain, run.text, run.graded_from)


def show_mask(tokenizer: Any, encoded: Encoded, longest: int = 160) -> str:
    """HTML for human eyes: graded tokens on green, ignored ones grey, at most `longest` tokens."""
    spans = []
    for token, label in list(zip(encoded.input_ids, encoded.labels, strict=True))[:longest]:
        style = "background:#cdebc5;color:#113311;padding-bottom:2px" if label != IGNORED else "opacity:.65"  # of any theme's colour
        text = html.escape(tokenizer.decode([token])).replace("\n", "⏎<br>")
        spans.append(f'<span style="{style}">{text}</span>')
    more = len(encoded.input_ids) - longest
    tail = f"<i> … and {more} more tokens</i>" if more > 0 else ""
    return f'<div style="font-family:monospace;white-space:pre-wrap;line-height:1.5">{"".join(spans)}{tail}</div>'
