"""Records as token ids, in the base model's own chat format, and which of those tokens are graded.

Graded (supervised) are the assistant's words and the end token that follows them; a plain document is graded as a whole.
Knows token ids and masks; knows nothing of files, models or notebooks.
"""

import html
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

from mistral_lib import chat_template, control_tokens
from mistral_lib.chat_template import NoEndToken, Part, TemplateProblem
from mistral_lib.records import Message, Record
from mistral_lib.template_reading import copies_contents

__all__ = ["IGNORED", "Encoded", "NoEndToken", "Piece", "TemplateProblem", "encode", "encode_batches", "pieces", "prompt_ids", "show_mask"]

IGNORED = -100  # the label that PyTorch's cross_entropy skips
AHEAD = 2  # batches that wait for the tokenizer while others are written and joined


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

    def truncated(self, max_tokens: int) -> "Encoded":
        return Encoded(self.input_ids[:max_tokens], self.labels[:max_tokens], self.problem)


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a rendered record: the template's words, or one message's."""

    text: str
    role: str | None  # None: the template's own


@dataclass(frozen=True, slots=True)
class Run:
    """Text between two control tokens, or one control token."""

    text: str = ""
    control: int = -1
    graded: bool = False  # from character `graded_from` on, and no token before it
    graded_from: int = 0
    at_start: bool = False


def pieces(tokenizer: Any, messages: Sequence[Message], for_answer: bool = False) -> list[Piece]:
    """The rendered chat, cut at the borders of the messages' contents. for_answer: end where the assistant starts to speak.

    Errors: TemplateProblem, NoEndToken.
    """
    layout, contents = _checked(tokenizer, messages, for_answer)
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
    written = _written(tokenizer, records)
    return _all_joined(tokenizer, written, _ids(tokenizer, _texts(written)))


def encode_batches(tokenizer: Any, batches: Iterable[Sequence[Record]]) -> Iterator[tuple[Sequence[Record], list[Encoded]]]:
    """Each batch with what `encode` makes of it. The tokenizer's threads work on one batch while Python writes and joins its neighbours."""
    waiting: deque[tuple[Sequence[Record], list[list[Run] | str], Future]] = deque()
    with ThreadPoolExecutor(1) as tokenising:
        for records in batches:
            written = _written(tokenizer, records)
            waiting.append((records, written, tokenising.submit(_ids, tokenizer, _texts(written))))
            if len(waiting) > AHEAD:
                yield _next_joined(tokenizer, waiting)
        while waiting:
            yield _next_joined(tokenizer, waiting)


def _next_joined(tokenizer: Any, waiting: deque) -> tuple[Sequence[Record], list[Encoded]]:
    records, written, ids = waiting.popleft()
    return records, _all_joined(tokenizer, written, ids.result())


def _written(tokenizer: Any, records: Sequence[Record]) -> list[list[Run] | str]:
    """Of each record its runs, or why it cannot be written."""
    written: list[list[Run] | str] = []
    for record in records:
        try:
            written.append(_runs(tokenizer, record.messages) if record.messages is not None else _document(tokenizer, record.text))
        except TemplateProblem as problem:
            written.append(str(problem))
    return written


def _texts(written: Iterable[list[Run] | str]) -> dict[tuple[str, bool], None]:
    """Each different text: the words that a template repeats in every record are tokenised once."""
    return {(run.text, run.at_start): None for runs in written if not isinstance(runs, str) for run in runs if run.control < 0}


def _all_joined(tokenizer: Any, written: list[list[Run] | str], ids: dict[tuple[str, bool], list[int]]) -> list[Encoded]:
    control = control_tokens.of(tokenizer)
    return [Encoded([], [], runs) if isinstance(runs, str) else _joined(control, runs, ids) for runs in written]


def prompt_ids(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The token ids after which the assistant's answer begins. Errors: TemplateProblem."""
    runs = _runs(tokenizer, messages, for_answer=True)
    return _joined(control_tokens.of(tokenizer), runs, _ids(tokenizer, _texts([runs]))).input_ids


def _checked(tokenizer: Any, messages: Sequence[Message], for_answer: bool) -> tuple[chat_template.Layout, list[str]]:
    """The layout of a chat and its contents as the format writes them; a template that treats them otherwise is a problem."""
    layout = chat_template.layout(tokenizer, [message["role"] for message in messages], for_answer)
    contents = [edit(message["content"]) for edit, message in zip(layout.edits, messages, strict=True)]
    if copies_contents(tokenizer.chat_template):
        return layout, contents  # whatever the contents are, they stand where the marks stood when the layout was learnt
    shown = messages
    if chat_template.is_mistral(tokenizer):  # blanks at the ends follow mistral-common: only the words between are compared
        shown = [{**message, "content": message["content"].strip()} for message in messages]
    words = [message["content"] for message in shown] if shown is not messages else contents
    expected = "".join(words[piece] if isinstance(piece, int) else piece for piece in layout.rendered)
    if chat_template.render(tokenizer, shown, for_answer) != expected:
        raise TemplateProblem("the chat template changes this chat's contents, so its answers cannot be found again")
    return layout, contents


def _runs(tokenizer: Any, messages: Sequence[Message], for_answer: bool = False) -> list[Run]:
    layout, contents = _checked(tokenizer, messages, for_answer)
    found = []
    for step in _steps(layout, control_tokens.of(tokenizer)):
        run = step if isinstance(step, Run) else _text_run(step, contents)
        if run is not None:
            found.append(run)
    return found


@dataclass(frozen=True, slots=True)
class Stretch:
    """The parts between two control tokens."""

    parts: tuple[Part, ...]
    at_start: bool
    bare: bool  # the control token before it swallows blanks


@lru_cache(maxsize=4096)
def _steps(layout: chat_template.Layout, control: control_tokens.ControlTokens) -> tuple[Run | Stretch, ...]:
    """The runs of a layout: those that are the same in every chat as they are, the others to be filled in."""
    steps: list[Run | Stretch] = []
    for is_control, group in groupby(layout.parts, key=lambda part: part.control >= 0):
        parts = tuple(group)
        if is_control:
            steps += [Run(control=part.control, graded=part.graded) for part in parts]
            continue
        bare = bool(steps) and isinstance(steps[-1], Run) and steps[-1].control in control.drops_blanks_after
        stretch = Stretch(parts, at_start=not steps, bare=bare)
        same = all(part.message < 0 for part in parts)
        steps.append(_text_run(stretch, ()) or stretch if same else stretch)
    return tuple(steps)


def _text_run(stretch: Stretch, contents: Sequence[str]) -> Run | None:
    texts = [contents[part.message] if part.message >= 0 else part.text for part in stretch.parts]
    text = "".join(texts)
    if not text:
        return None
    first = next((number for number, part in enumerate(stretch.parts) if part.graded), None)
    graded_from = sum(map(len, texts[:first])) if first else 0
    if stretch.bare and text[0].isspace():
        before, text = len(text), text.lstrip()
        graded_from = max(0, graded_from - (before - len(text)))
    return Run(text, graded=first is not None, graded_from=graded_from, at_start=stretch.at_start)


def _document(tokenizer: Any, text: str) -> list[Run]:
    """Start token, if this tokenizer begins plain texts with one (Mistral's does, SmolLM2's does not), text, end token."""
    start = [Run(control=tokenizer.bos_token_id)] if _adds_start(tokenizer, tokenizer.bos_token_id) else []
    # mistral-common puts a blank before every text; fast tokenizers leave it out before one that begins with a blank
    words = Run(" " + text, graded=True) if chat_template.is_mistral(tokenizer) else Run(text, graded=True, at_start=True)
    return [*start, words, Run(control=tokenizer.eos_token_id, graded=True)]


@lru_cache(maxsize=8)
def _adds_start(tokenizer: Any, start: int | None) -> bool:
    return start is not None and tokenizer("").input_ids[:1] == [start]


def _ids(tokenizer: Any, texts: Iterable[tuple[str, bool]]) -> dict[tuple[str, bool], list[int]]:
    """Token ids of each (text, whether it stands at the start)."""
    control = control_tokens.of(tokenizer)
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
        ungraded = (_header_tokens(control, run, own) if run.graded_from else 0) if run.graded else len(own)
        ids += own
        labels += [IGNORED] * ungraded + own[ungraded:]
    if labels:
        labels[0] = IGNORED
    return Encoded(ids, labels)


def _header_tokens(control: control_tokens.ControlTokens, run: Run, own: list[int]) -> int:
    """How many tokens of a run stand before its graded words."""
    plain = control.at_start if run.at_start else control.behind
    header = control_tokens.header_ids(plain, run.text[: run.graded_from])
    if own[: len(header)] == list(header):
        return len(header)  # the header's own tokens stand first, so no token reaches across the border
    return control_tokens.first_token_from(plain, run.text, run.graded_from)


def show_mask(tokenizer: Any, encoded: Encoded, longest: int = 160) -> str:
    """HTML for human eyes: graded tokens on green, ignored ones grey, at most `longest` tokens."""
    spans = []
    for token, label in list(zip(encoded.input_ids, encoded.labels, strict=True))[:longest]:
        style = "background:#cdebc5;color:#113311" if label != IGNORED else "color:#888888"
        text = html.escape(tokenizer.decode([token])).replace("\n", "⏎<br>")
        spans.append(f'<span style="{style}">{text}</span>')
    more = len(encoded.input_ids) - longest
    tail = f"<i> … and {more} more tokens</i>" if more > 0 else ""
    return f'<div style="font-family:monospace;white-space:pre-wrap;line-height:1.5">{"".join(spans)}{tail}</div>'
