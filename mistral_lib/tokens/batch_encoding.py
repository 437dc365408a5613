"""Many records as token ids at once: flat arrays instead of a list of numbers for each record.

Record by record it is what chat_format.encode makes of them. Threads tokenise batches while Python writes and joins their neighbours.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np

from mistral_lib.corpus.records import Record
from mistral_lib.tokens import chat_format, control_tokens
from mistral_lib.tokens.chat_segments import Run

AT_ONCE = 3  # batches in the tokenizer: its threads have work while one batch waits for Python's lock
AHEAD = 4  # batches that are in the tokenizer or wait for it while others are written and joined

Written = list[list[Run] | str]  # of each record its runs, or why it cannot be written


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    records: Sequence[Record]
    ids: np.ndarray  # int32 (tokens,), of all records one after the other
    graded: np.ndarray  # bool (tokens,)
    starts: np.ndarray  # int64 (records + 1,): where each record's tokens begin, and where the last one's end
    supervised: np.ndarray  # int64 (records,): graded tokens
    problems: dict[int, str] = field(default_factory=dict)  # of the records that cannot be written, which have no token

    def stretch(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Token ids of the records [first, last), and whether each is graded."""
        own = slice(self.starts[first], self.starts[last])
        return self.ids[own], self.graded[own]


def encode_batches(tokenizer: Any, batches: Iterable[Sequence[Record]]) -> Iterator[EncodedBatch]:
    """Each batch encoded, in order. Errors: NoEndToken."""
    waiting: deque[tuple[Sequence[Record], Written, Future]] = deque()
    with ThreadPoolExecutor(AT_ONCE) as tokenising:
        for records in batches:
            written = chat_format.written(tokenizer, records)
            waiting.append((records, written, tokenising.submit(_tokenised, tokenizer, _runs(written))))
            if len(waiting) > AHEAD:
                yield _next_joined(tokenizer, waiting)
        while waiting:
            yield _next_joined(tokenizer, waiting)


def _next_joined(tokenizer: Any, waiting: deque) -> EncodedBatch:
    records, written, tokenised = waiting.popleft()
    return _joined(control_tokens.of(tokenizer), records, written, *tokenised.result())


def _runs(written: Written) -> list[Run]:
    return [run for runs in written if not isinstance(runs, str) for run in runs]


def _tokenised(tokenizer: Any, runs: Sequence[Run]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids of all runs one after the other, and how many each has."""
    known = chat_format.ids_of_texts(tokenizer, [runs])
    ids = [[run.control] if run.control >= 0 else known[run.text, run.at_start] for run in runs]
    counts = np.fromiter(map(len, ids), np.int64, len(ids))
    return np.fromiter(chain.from_iterable(ids), np.int32, counts.sum()), counts


def _joined(
    control: control_tokens.ControlTokens, records: Sequence[Record], written: Written, ids: np.ndarray, counts: np.ndarray
) -> EncodedBatch:
    runs = _runs(written)
    graded = np.repeat(np.fromiter((run.graded for run in runs), bool, len(runs)), counts)
    begins = np.cumsum(counts) - counts  # of each run
    for place, run in enumerate(runs):
        if run.graded_from:
            own = slice(begins[place], begins[place] + counts[place])
            graded[begins[place] : begins[place] + chat_format.header_tokens(control, run, ids[own])] = False
    sizes = [0 if isinstance(one, str) else len(one) for one in written]  # runs of each record
    tokens = np.concatenate([[0], np.cumsum(counts)])
    starts = tokens[np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])]
    graded[starts[:-1][np.diff(starts) > 0]] = False  # nothing stands before the first token of a record
    seen = np.concatenate([[0], np.cumsum(graded)])
    problems = {place: one for place, one in enumerate(written) if isinstance(one, str)}
    return EncodedBatch(records, ids, graded, starts, np.diff(seen[starts]), problems)
