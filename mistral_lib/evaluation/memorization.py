"""Has the adapter learnt the kind of text, or the training texts themselves? Two views, on losses and on answers.

A model that learns in general gains as much on test records as on training records; one that memorises gains more on
the latter. And an answer that repeats a long stretch of a training answer may have been learnt by heart.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from mistral_lib.evaluation.answer_metrics import COPIED, n_grams, share

Facts = Mapping[str, Any]


def some_blocks(dataset: Any, max_tokens: int, seed: int) -> Any:
    """As many blocks as hold `max_tokens` tokens (0 = all), drawn at random, always the same ones for the same seed."""
    count = min(len(dataset), max_tokens // len(dataset[0]["input_ids"])) if max_tokens else len(dataset)
    return dataset.select(sorted(np.random.default_rng(seed).choice(len(dataset), count, replace=False).tolist()))


def gaps(train: Mapping[str, Facts], test: Mapping[str, Facts]) -> dict[str, dict[str, Any]]:
    """For each domain measured in both: what the adapter gained in training beyond what it gained in test, nats per token.

    `gap` = train difference - test difference: below zero the adapter knows the training records better than others of
    their kind. low, high: 95 % interval from both standard errors, which are independent; None where one is missing.
    """
    return {domain: gap(train[domain], test[domain]) for domain in test if domain in train}


def gap(train: Facts, test: Facts) -> dict[str, Any]:
    value = train["difference"] - test["difference"]
    errors = (train["standard_error"], test["standard_error"])
    reach = 1.96 * float(np.hypot(*errors)) if None not in errors else None
    return {"train": train["difference"], "test": test["difference"], "gap": value, "train_records": train["records"],
            "low": None if reach is None else value - reach, "high": None if reach is None else value + reach}  # fmt: skip


def documents(data: Path, split: str) -> dict[str, str]:
    """record_id → source document of a split's records."""
    import pyarrow.parquet as pq

    table = pq.read_table(data / "records.parquet", columns=["record_id", "source_group"], filters=[("split", "==", split)])
    return dict(zip(table["record_id"].to_pylist(), table["source_group"].to_pylist(), strict=True))


def copied(samples: Sequence[Facts], data: Path) -> dict[str, Any]:
    """The share of answers that hold 13 words in a row from a training answer: base, adapter, and the references for comparison."""
    texts = {(who, number): sample[who] for number, sample in enumerate(samples) for who in ("base", "adapter", "reference")}
    found = stand_in(texts, training_answers(data)) if texts else set()
    return {who: share([(who, number) in found for number in range(len(samples))]) for who in ("base", "adapter", "reference")}


def stand_in(texts: Mapping[Any, str], answers: Iterable[str]) -> set[Any]:
    """The keys of the texts of which a long stretch stands in any of the answers. Memory holds the texts' stretches only."""
    wanted: dict[tuple[str, ...], set[Any]] = {}
    for key, text in texts.items():
        for stretch in n_grams(words(text), COPIED):
            wanted.setdefault(stretch, set()).add(key)
    found: set[Any] = set()
    for answer in answers if wanted else ():
        for stretch in n_grams(words(answer), COPIED):
            found |= wanted.get(stretch, set())
    return found


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def training_answers(data: Path) -> Iterator[str]:
    """What the adapter was trained to write, one answer at a time: of a chat every turn of the assistant's, since all of them are graded."""
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(data / "records.parquet").iter_batches(1024, columns=["split", "messages", "text"]):
        for row in batch.to_pylist():
            if row["split"] != "train":
                continue
            if row["text"] is not None:
                yield row["text"]
            else:
                yield from (message["content"] for message in orjson.loads(row["messages"]) if message["role"] == "assistant")
