"""Records as token ids: many at once, as flat arrays and the offset of each record, instead of a list of numbers per record.

Threads tokenize some batches while Python renders and joins others.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from mistral_lib.corpus.records import Record
from mistral_lib.tokens import chat_segments, control_tokens
from mistral_lib.tokens.chat_template import TemplateError
from mistral_lib.tokens.segment import Segment

THREADS = 3  # batches in the tokenizer at once: its threads have work while one batch waits for Python's lock
AHEAD = 4  # batches in the tokenizer or waiting for it, while others are rendered and joined

Rendered = list[list[Segment] | str]  # for each record its segments, or why the template cannot express it


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    records: Sequence[Record]
    ids: np.ndarray  # int32 (tokens,), of all records one after the other
    graded: np.ndarray  # bool (tokens,)
    starts: np.ndarray  # int64 (records + 1,): the offset of each record's first token, and the total
    supervised: np.ndarray  # int64 (records,): graded tokens
    problems: dict[int, str] = field(default_factory=dict)  # by place, for records that cannot be encoded: they have no tokens

    def span(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of the records [first, last), and whether each is graded."""
        own = slice(self.starts[first], self.starts[last])
        return self.ids[own], self.graded[own]


def encode_batches(tokenizer: Any, batches: Iterable[Sequence[Record]]) -> Iterator[EncodedBatch]:
    """Each batch encoded, in order. Errors: NoEndTokenError."""
    waiting: deque[tuple[Sequence[Record], Rendered, Future]] = deque()
    with ThreadPoolExecutor(THREADS) as threads:
        for records in batches:
            rendered = _rendered(tokenizer, records)
            waiting.append((records, rendered, threads.submit(token_ids, tokenizer, _segments(rendered))))
            if len(waiting) > AHEAD:
                yield _next_joined(tokenizer, waiting)
        while waiting:
            yield _next_joined(tokenizer, waiting)


def _next_joined(tokenizer: Any, waiting: deque) -> EncodedBatch:
    records, rendered, tokenized = waiting.popleft()
    return _joined(tokenizer, records, rendered, *tokenized.result())


def encode_batch(tokenizer: Any, records: Sequence[Record]) -> EncodedBatch:
    """One batch encoded, without threads. Errors: NoEndTokenError."""
    rendered = _rendered(tokenizer, records)
    return _joined(tokenizer, records, rendered, *token_ids(tokenizer, _segments(rendered)))


def _rendered(tokenizer: Any, records: Sequence[Record]) -> Rendered:
    rendered: Rendered = []
    for record in records:
        try:
            rendered.append(
                chat_segments.segments(tokenizer, record.messages, tools=record.tools)
                if record.messages is not None
                else chat_segments.document(tokenizer, record.text)
            )
        except TemplateError as problem:
            rendered.append(str(problem))
    return rendered


def _segments(rendered: Rendered) -> list[Segment]:
    return [segment for segments in rendered if not isinstance(segments, str) for segment in segments]


def token_ids(tokenizer: Any, segments: Sequence[Segment]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of all segments one after the other, int32 (tokens,), and how many each has, int64 (segments,).

    Texts that occur several times, such as those of the template, are tokenized once.
    """
    control = control_tokens.of(tokenizer)
    ids_of: dict[tuple[str, bool], list[int]] = {}
    for at_start, plain in ((True, control.at_start), (False, control.after_control)):
        texts = list(dict.fromkeys(one.text for one in segments if one.control < 0 and one.at_start == at_start))
        ids_of |= zip(((text, at_start) for text in texts), control_tokens.ids_of(plain, texts), strict=True)
    ids = [[one.control] if one.control >= 0 else ids_of[one.text, one.at_start] for one in segments]
    counts = np.fromiter(map(len, ids), np.int64, len(ids))
    return np.fromiter(chain.from_iterable(ids), np.int32, counts.sum()), counts


def _joined(tokenizer: Any, records: Sequence[Record], rendered: Rendered, ids: np.ndarray, counts: np.ndarray) -> EncodedBatch:
    """ids, counts: what token_ids returned for the segments."""
    sizes = [0 if isinstance(one, str) else len(one) for one in rendered]  # segments of each record
    ends = np.concatenate([[0], np.cumsum(counts)])
    starts = ends[np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])]
    graded = _graded(control_tokens.of(tokenizer), _segments(rendered), ids, counts)
    graded[starts[:-1][np.diff(starts) > 0]] = False  # nothing precedes the first token of a record
    graded_before = np.concatenate([[0], np.cumsum(graded)])
    problems = {place: one for place, one in enumerate(rendered) if isinstance(one, str)}
    return EncodedBatch(records, ids, graded, starts, np.diff(graded_before[starts]), problems)


def _graded(control: control_tokens.ControlTokens, segments: Sequence[Segment], ids: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """bool (tokens,): whether each token is graded."""
    graded = np.repeat(np.fromiter((segment.graded for segment in segments), bool, len(segments)), counts)
    starts = np.cumsum(counts) - counts  # of each segment
    for place, segment in enumerate(segments):
        if segment.graded_from:
            start, own = starts[place], ids[starts[place] : starts[place] + counts[place]]
            graded[start : start + _header_tokens(control, segment, own)] = False
    return graded


def _header_tokens(control: control_tokens.ControlTokens, segment: Segment, own: np.ndarray) -> int:
    """How many tokens of a segment precede its graded text. own: the segment's token ids."""
    plain = control.at_start if segment.at_start else control.after_control
    header = control_tokens.header_ids(plain, segment.text[: segment.graded_from])
    if tuple(own[: len(header)]) == header:
        return len(header)  # the header's own tokens come first, so no token crosses the boundary
    return control_tokens.first_token_from(plain, segment.text, segment.graded_from)
