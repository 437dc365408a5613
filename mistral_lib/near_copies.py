"""The near-duplicates of one record, looked for among all rows of a corpus while a person waits.

The data stage finds those of all records at once (duplicates.py); both compare answers by their word 5-grams. Here the answers are
compared as they were mapped, there after cleaning and redaction, which can move a pair across the threshold.
"""

import time
from collections.abc import Iterator

import numpy as np

from mistral_lib.corpus.records import Unmappable, record_of
from mistral_lib.corpus.rows import Row
from mistral_lib.corpus_index import CorpusIndex
from mistral_lib.curation import minhash

TELL = 0.5  # seconds between two results


def near_copies(index: CorpusIndex, number: int) -> Iterator[tuple[int, np.ndarray]]:
    """(rows looked at, numbers found so far, the record's own among them), again and again until all were looked at.

    Found are records whose answer reaches near_duplicate_threshold with this one's. Answers of fewer than five words have none.
    Errors: LookupError, SourceError.
    """
    wanted = minhash.shingles(_answer(index, index.row(number)))
    least = index.settings.near_duplicate_threshold * len(wanted)
    found, told, looked_at = {number}, time.monotonic(), 0
    for place, row in index.each() if wanted else ():
        words = minhash.folded_words(_answer(index, row))
        enough = len(words) - minhash.GRAM + 1 >= least
        if enough and minhash.jaccard(wanted, minhash.grams(words)) >= index.settings.near_duplicate_threshold:
            found.add(place)
        looked_at = place + 1
        if time.monotonic() - told > TELL:
            told = time.monotonic()
            yield looked_at, np.array(sorted(found))
    yield len(index), np.array(sorted(found))


def _answer(index: CorpusIndex, row: Row) -> str:
    try:
        return record_of(row, index.settings).answer
    except Unmappable:
        return ""
