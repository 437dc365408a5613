"""Did the adapter learn the kind of text, or memorize the training texts? Measured on losses and on answers.

A model that generalizes gains as much on test records as on training records; one that memorizes gains more on training
records. An answer that contains a long n-gram of a training answer may be memorized.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from mistral_lib.evaluation.answer_metrics import COPIED, n_grams, share
from mistral_lib.shapes.conversation import is_learned, words_of

Facts = Mapping[str, Any]


def sample_blocks(dataset: Any, max_tokens: int, seed: int) -> Any:
    """A random sample of blocks with `max_tokens` tokens in total (0 = all), the same for the same seed."""
    count = min(len(dataset), max_tokens // len(dataset[0]["input_ids"])) if max_tokens else len(dataset)
    return dataset.select(sorted(np.random.default_rng(seed).choice(len(dataset), count, replace=False).tolist()))


def gap(train: Facts, test: Facts) -> dict[str, Any]:
    """`gap` = train difference - test difference, nats per token; below zero: the adapter memorized training records.

    low, high: 95 % interval from both standard errors, which are independent; None if one is missing.
    """
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
    """The share of answers that contain 13 consecutive words of a training answer: base, adapter, and the references for comparison."""
    texts = {(who, number): sample[who] for number, sample in enumerate(samples) for who in ("base", "adapter", "reference")}
    found = with_copied_text(texts, training_answers(data)) if texts else set()
    return {who: share([(who, number) in found for number in range(len(samples))]) for who in ("base", "adapter", "reference")}


def with_copied_text(texts: Mapping[Any, str], answers: Iterable[str]) -> set[Any]:
    """The keys of the texts that share an n-gram of COPIED words with any of the answers. Only the n-grams of the texts are in memory."""
    wanted: dict[tuple[str, ...], set[Any]] = {}
    for key, text in texts.items():
        for n_gram in n_grams(words(text), COPIED):
            wanted.setdefault(n_gram, set()).add(key)
    found: set[Any] = set()
    for answer in answers if wanted else ():
        for n_gram in n_grams(words(answer), COPIED):
            found |= wanted.get(n_gram, set())
    return found


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def training_answers(data: Path) -> Iterator[str]:
    """The texts that the adapter was trained to write: documents, and the assistant messages of chats that are graded."""
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(data / "records.parquet").iter_batches(1024, columns=["split", "messages", "text"]):
        for row in batch.to_pylist():
            if row["split"] != "train":
                continue
            if row["text"] is not None:
                yield row["text"]
            else:
                yield from map(words_of, filter(is_learned, orjson.loads(row["messages"])))
