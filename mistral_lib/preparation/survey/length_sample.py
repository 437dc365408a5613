"""Characters and tokens of the SIZE records whose sources have the smallest hashes: a sample that does not depend on their order.

Workers count the records that may be in it. A worker is told the largest hash that the sample has when a stretch is given out, and
lowers it by the hashes that it sees, so that few of many rows are counted.
"""

import heapq
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mistral_lib.corpus.records import Record
from mistral_lib.curation import label_domains, minhash
from mistral_lib.curation.redaction import redact
from mistral_lib.curation.splits import unit_hash

SIZE = 10_000
NAME = "lengths.parquet"
SHOWN = ("source", "domain", "shape", "characters", "tokens", "mistral_tokens")  # the columns of the artefact
SCHEMA = pa.schema([("hash", pa.float64()), *((name, pa.string()) for name in SHOWN[:3]), *((name, pa.int64()) for name in SHOWN[3:]),
                    ("label", pa.uint64()), ("words", pa.int32()), ("answer", pa.string())])  # fmt: skip
LONGEST = 500  # characters of a label that are shown
ALL = 1.0  # above every hash


class Tokenizers:
    """The base model's tokenizer and Mistral's v3, which is part of mistral-common: no download is needed."""

    def __init__(self, base: Any) -> None:
        self.base, self.mistral = base, None

    def counts(self, texts: list[str]) -> Iterator[int]:
        """Tokens by the base model's tokenizer, chat format not counted."""
        for start in range(0, len(texts), 512):
            batch = self.base(texts[start : start + 512], add_special_tokens=False, split_special_tokens=True)
            yield from map(len, batch.input_ids)

    def mistral_counts(self, texts: list[str]) -> list[int]:
        if self.mistral is None and texts:
            from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

            self.mistral = MistralTokenizer.v3().instruct_tokenizer.tokenizer
        return [len(self.mistral.encode(text, bos=False, eos=False)) for text in texts]


class Counted:
    """The worker's side, for one stretch. bound: the largest hash of a record that may be in the sample."""

    def __init__(self, tokenizers: Tokenizers, bound: float) -> None:
        self.tokenizers, self.bound = tokenizers, bound
        self.smallest: list[float] = []  # a heap of negative hashes
        self.offered: list[tuple[float, Record]] = []

    def offer(self, record: Record) -> None:
        hashed = unit_hash(record.source)
        if hashed > self.bound:
            return
        self.offered.append((hashed, record))
        heapq.heappush(self.smallest, -hashed)
        if len(self.smallest) > SIZE:
            heapq.heappop(self.smallest)
            self.bound = min(self.bound, -self.smallest[0])

    def taken(self) -> pa.Table:
        """What is counted of the records offered since the last call. Of an answer that may be a label the begin is kept, without secrets."""
        offered, self.offered = self.offered, []
        records = [record for _, record in offered]
        texts = ["\n".join(record.texts) for record in records]
        answers = [record.answer if record.messages else "" for record in records]
        short = (minhash.fold(answers)[1] <= label_domains.LONGEST_LABEL).tolist()
        answers = [redact(answer)[0] if few else answer for answer, few in zip(answers, short, strict=True)]
        folded, words, _ = minhash.fold(answers)
        kept = [answer[:LONGEST] if few else None for answer, few in zip(answers, short, strict=True)]
        words = np.where([bool(record.messages) for record in records], words, -1).astype(np.int32)
        columns = [
            [hashed for hashed, _ in offered], *([getattr(record, name) for record in records] for name in SHOWN[:3]),
            list(map(len, texts)), list(self.tokenizers.counts(texts)), self.tokenizers.mistral_counts(texts),
            label_domains.label_hashes(answers, folded, words), words, kept,
        ]  # fmt: skip
        return pa.table(columns, schema=SCHEMA)


class LengthSample:
    """The sample, of the parts added so far."""

    def __init__(self) -> None:
        self.drawn: list[tuple[float, str, int, dict[str, Any]]] = []  # a heap: minus the hash, source, a number, the row
        self.numbers = count()

    def bound(self) -> float:
        """The largest hash that may still be taken."""
        return ALL if len(self.drawn) < SIZE else -self.drawn[0][0]

    def add(self, counted: pa.Table) -> None:
        near = counted.filter(pa.compute.less_equal(counted["hash"], self.bound()))
        for row in near.to_pylist():
            one = (-row["hash"], row["source"], next(self.numbers), row)
            if len(self.drawn) < SIZE:
                heapq.heappush(self.drawn, one)
            elif one[:2] > self.drawn[0][:2]:
                heapq.heapreplace(self.drawn, one)

    def table(self) -> pa.Table:
        """In the order of the sources' names."""
        return pa.Table.from_pylist([row for *_, row in sorted(self.drawn, key=lambda one: one[1])], schema=SCHEMA)


def write(folder: Path, sample: pa.Table) -> None:
    pq.write_table(sample.select(SHOWN), folder / NAME)


def labels(sample: pa.Table) -> dict[str, dict[str, Any]]:
    """The label domains of the sample, as `label_domains.by_name` returns them."""
    columns = {name: sample[name].to_numpy() for name in ("label", "words")}
    return label_domains.by_name(sample["domain"].to_pylist(), sample["answer"].to_pylist(), columns["label"], columns["words"])
