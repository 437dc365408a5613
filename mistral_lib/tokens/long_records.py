"""Records longer than `max_tokens`: split into windows at paragraph or line ends, truncated, or rejected; the loss is counted.

Windows are cut from the token ids of the complete record, never from its text, so every token is the same as in the complete
record. Each window of a chat begins with the prompt, ungraded; only the last window has the end token.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, pairwise
from typing import Any, Generic, TypeVar

import numpy as np

from mistral_lib.corpus.records import Message, Record
from mistral_lib.tokens import chat_format
from mistral_lib.tokens.chat_format import IGNORED, Encoded

WAYS = ("split", "truncate", "reject")
SMALLEST = 16  # tokens: a smaller window has no room for a prompt and an answer
PARAGRAPH, LINE, WORD, ANYWHERE = 3, 2, 1, 0  # how good a place is for a cut

Tokens = tuple[np.ndarray, np.ndarray]  # token ids, int32 (tokens,), and whether each is graded, bool
Window = TypeVar("Window", Encoded, Tokens)


@dataclass(frozen=True, slots=True)
class Fitted(Generic[Window]):
    """A record in windows of at most `max_tokens`, in order; one window for a record that fits."""

    windows: list[Window]
    tokens_lost: int = 0  # tokens of the record that are in no window
    refusal: str = ""  # a reason code if no window is left


def fit(tokenizer: Any, record: Record, encoded: Encoded, max_tokens: int, way: str = "split") -> Fitted[Encoded]:
    """The record in windows of at most `max_tokens`. encoded: the record as chat_format.encode returns it.

    Errors: ValueError for an unknown way or windows without room.
    """
    found = cut(tokenizer, record, _tokens(encoded), encoded.refusal, max_tokens, way)
    windows = [Encoded(ids.tolist(), np.where(graded, ids, IGNORED).tolist()) for ids, graded in found.windows]
    return replace(found, windows=windows)


def cut(tokenizer: Any, record: Record, tokens: Tokens, refusal: str, max_tokens: int, way: str = "split") -> Fitted[Tokens]:
    """The same on arrays. refusal: why no model can learn from the record, "" if one can. Errors: as `fit`, and TemplateError."""
    if way not in WAYS:
        raise ValueError(f"long_records = {way!r}; expected one of {', '.join(WAYS)}")
    if refusal:
        return _refused(tokens, refusal)
    if len(tokens[0]) <= max_tokens:
        return Fitted([tokens])
    if way == "reject":
        return _refused(tokens, "longer_than_max_tokens")
    if way == "truncate":
        ids, graded = (part[:max_tokens] for part in tokens)
        if not graded.any():
            return _refused(tokens, "no_supervised_token_within_max_tokens")
        return Fitted([(ids, graded)], len(tokens[0]) - max_tokens)
    if max_tokens < SMALLEST:
        raise ValueError(f"max_tokens = {max_tokens}; expected at least {SMALLEST} to split long records")
    turns = _turns(record.messages or [])
    return _by_turns(tokenizer, record, turns, max_tokens) if len(turns) > 1 else _one_answer(tokenizer, tokens, max_tokens)


def _tokens(encoded: Encoded) -> Tokens:
    return np.array(encoded.input_ids, np.int32), np.array(encoded.labels, np.int32) != IGNORED


def _refused(tokens: Tokens, reason: str) -> Fitted[Tokens]:
    return Fitted([], len(tokens[0]), reason)


def _turns(messages: Sequence[Message]) -> list[list[Message]]:
    """The chat split before each question after an answer, without its system text: calls of tools stay with their results."""
    turns: list[list[Message]] = [[]]
    for message in messages:
        if message["role"] == "user" and turns[-1] and turns[-1][-1]["role"] != "user":
            turns.append([])
        if message["role"] != "system":
            turns[-1].append(message)
    return [turn for turn in turns if turn]


def _by_turns(tokenizer: Any, record: Record, turns: list[list[Message]], max_tokens: int) -> Fitted[Tokens]:
    """As many complete turns in a window as fit, written as a separate chat after the system text; a longer turn is split further."""
    system = [message for message in record.messages if message["role"] == "system"]
    lengths = [len(ids) for ids, _ in _encoded_chats(tokenizer, record, [system + turn for turn in turns])]
    chats = [[*system, *chain.from_iterable(turns[start:end])] for start, end in _groups(lengths, max_tokens)]
    windows: list[Tokens] = []
    lost = 0
    for one in _encoded_chats(tokenizer, record, chats):
        if not one[1].any():  # only turns that are not graded
            lost += len(one[0])
            continue
        fitted = Fitted([one]) if len(one[0]) <= max_tokens else _one_answer(tokenizer, one, max_tokens)
        windows += fitted.windows
        lost += fitted.tokens_lost
    return Fitted(windows, lost)


def _encoded_chats(tokenizer: Any, record: Record, chats: Sequence[list[Message]]) -> list[Tokens]:
    parts = [Record(record.domain, record.source, record.source_group, record.shape, messages=chat, tools=record.tools) for chat in chats]
    found = chat_format.encode(tokenizer, parts)
    problems = [one.problem for one in found if one.problem]
    if problems:
        raise chat_format.TemplateError(f"{record.source}: its turns cannot be written as separate chats: {problems[0]}")
    return list(map(_tokens, found))


def _groups(lengths: Sequence[int], max_tokens: int) -> list[tuple[int, int]]:
    """Ranges [start, end) of neighbors whose lengths add up to at most `max_tokens`; a longer one is alone."""
    borders, filled = [0], 0
    for number, length in enumerate(lengths):
        if filled and filled + length > max_tokens:
            borders.append(number)
            filled = 0
        filled += length
    return list(pairwise([*borders, len(lengths)]))


def _one_answer(tokenizer: Any, tokens: Tokens, max_tokens: int) -> Fitted[Tokens]:
    """Windows over a document or the one answer of a chat, each after the prompt, or after its end if it is longer than half a window."""
    ids, graded = tokens
    start, end = int(graded.argmax()), len(ids) - int(graded[::-1].argmax())  # after the end comes at most a line break of the template
    start_token = ids[: int(ids[0] == tokenizer.bos_token_id)]
    prompt = ids[:start]
    if len(prompt) > max_tokens // 2:
        prompt = np.concatenate([start_token, ids[start - max_tokens // 2 + len(start_token) : start]])
    lost = start - len(prompt)
    windows = []
    for first, last in _cuts(tokenizer, ids[start:end], max_tokens - len(prompt)):
        own = graded[start + first : start + last]
        # a document without a start token has no prompt to repeat: the token before the window precedes it
        context = ids[start + first - 1 : start + first] if start == 1 and not len(start_token) else prompt
        windows.append(_window(context, ids[start + first : start + last], own, ids[:0]))
    tail = ids[end:]
    if len(windows[-1][0]) + len(tail) <= max_tokens:
        windows[-1] = _window(context, ids[start + first : start + last], own, tail)
        tail = ids[:0]
    learnt = [window for window in windows if window[1].any()]  # a long result of a tool can fill a window
    lost += sum(len(window[0]) for window in windows if not window[1].any())
    return Fitted(learnt, lost + len(tail))


def _window(context: np.ndarray, words: np.ndarray, own: np.ndarray, tail: np.ndarray) -> Tokens:
    """own: bool (words,), which of the words are graded: not the results of tools between two answers."""
    graded = np.zeros(len(context) + len(words) + len(tail), bool)
    graded[len(context) : len(context) + len(words)] = own
    return np.concatenate([context, words, tail]), graded


def _cuts(tokenizer: Any, ids: np.ndarray, room: int) -> Iterator[tuple[int, int]]:
    """Ranges [start, end) of at most `room` tokens: each ends at the latest of the best places in its second half.

    The last one is never very short: the end token right after a prompt would teach the model to answer nothing.
    """
    places = _places(tokenizer, ids)
    start = 0
    while len(ids) - start > room:
        earliest, latest = start + room // 2, min(start + room, len(ids) - room // 4)
        second_half = places[earliest:latest]  # place i: a cut after token i
        best = len(second_half) - 1 - int(np.argmax(second_half[::-1]))
        cut = earliest + best + 1
        yield start, cut
        start = cut
    yield start, len(ids)


def _places(tokenizer: Any, ids: np.ndarray) -> np.ndarray:
    """(tokens,) how good a cut after each token is: PARAGRAPH, LINE, WORD or ANYWHERE."""
    breaks, blank, begins_word = (table[ids] for table in _vocabulary(tokenizer))
    # line breaks in the white space that ends with each token
    total = np.cumsum(breaks)
    before = np.where(blank, 0, total - breaks)
    seen = total - np.maximum.accumulate(before)
    follows_blank = np.append(blank[1:] & (breaks[1:] > 0), False)  # the white space continues: the cut comes later
    places = np.where(np.append(begins_word[1:], False), WORD, ANYWHERE)
    places = np.where(seen >= 1, LINE, places)
    places = np.where(seen >= 2, PARAGRAPH, places)
    return np.where(follows_blank, ANYWHERE, places)


@lru_cache(maxsize=4)
def _vocabulary(tokenizer: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each token: line breaks at its end, whether it is only white space, whether it begins a word."""
    texts = [_text(token or "") for token in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
    ends = [text[len(text.rstrip()) :].count("\n") for text in texts]
    blank = [bool(text) and text.isspace() for text in texts]
    return np.array(ends), np.array(blank), np.array([text[:1].isspace() for text in texts])


def _text(token: str) -> str:
    """A token's text as far as white space goes: byte-level vocabularies write Ġ and Ċ, SentencePiece ▁ and <0x0A>."""
    return token.replace("<0x0A>", "\n").replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n").replace("ĉ", "\t")
