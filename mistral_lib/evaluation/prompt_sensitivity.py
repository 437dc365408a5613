"""Does the adapter still listen to its prompt? What a prompt is worth: how much less likely an answer is behind another one.

An adapter trained on answers that belong to other prompts learns their style, and its test loss falls like that of a
good one. What gives it away is that the right prompt is then worth less to it than to the base model.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from mistral_lib.corpus.records import Record
from mistral_lib.evaluation import paired_difference
from mistral_lib.model.likelihood import RecordLoss
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import chat_format, packed_dataset

Losses = dict[str, list[RecordLoss]]
Row = dict[str, Any]


def swapped(tokenizer: Any, rows: Sequence[Row], settings: Settings) -> Any | None:
    """The chats of `rows`, each answer behind the prompt of the next chat of its domain from another document; None without any.

    Taken are those that fill one window before and after, as many as are measured.
    """
    windows = []
    for row, stranger in strangers(rows):
        if packed_dataset.enough(windows, settings.max_probe_tokens):
            break
        records = [_record(row, row["messages"]), _record(row, [*stranger["messages"][:-1], row["messages"][-1]])]
        own, other = chat_format.encode(tokenizer, records)
        fits = max(len(own.input_ids), len(other.input_ids)) <= settings.max_tokens
        if fits and not other.problem and own.supervised == other.supervised:
            windows.append((records[1], row["record_id"], other))
    return packed_dataset.packed(tokenizer, windows, settings.max_tokens, settings.max_probe_tokens) if windows else None


def strangers(rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """Each chat with the next one of its domain, by record id and round, that is from another document; by id, so domains are mixed."""
    chats = sorted((row for row in rows if row["messages"]), key=lambda row: (row["domain"], row["record_id"]))
    pairs = [pair for _, same in groupby(chats, lambda row: row["domain"]) for pair in _round(list(same))]
    return sorted(pairs, key=lambda pair: pair[0]["record_id"])


def _round(chats: list[Row]) -> Iterator[tuple[Row, Row]]:
    """The chats of one domain, each with the next of another document; none where there is one document only. Twice round, backwards."""
    after = stranger = None
    for place in reversed(range(2 * len(chats))):
        row = chats[place % len(chats)]
        if after is not None and after["source_group"] != row["source_group"]:
            stranger = after  # the next of another document than this one, and than all of this document before it
        if place < len(chats) and stranger is not None:
            yield row, stranger
        after = row


def _record(row: Row, messages: list[Any]) -> Record:
    return Record(row["domain"], row["source"], row["source_group"], row["shape"], messages=messages)


def worth(own: Losses, other: Losses, documents: dict[str, str], seed: int) -> dict[str, Any]:
    """What the right prompt saves, in nats per supervised token: for base, for adapter, and the change with its 95 % interval.

    own, other: losses behind the right and behind another prompt; records that are not in both are left out.
    """
    right = {who: {loss.record_id: loss for loss in own[who]} for who in own}
    base = [loss for loss in other["base"] if loss.record_id in right["base"]]
    saved = {
        who: np.array([loss.nats - right[who][loss.record_id].nats for loss in other[who] if loss.record_id in right[who]]) for who in own
    }
    tokens = [float(loss.tokens) for loss in base]
    change = paired_difference.by_document(base, documents, saved["adapter"] - saved["base"])
    found = paired_difference.ratio(change, paired_difference.by_document(base, documents, tokens), seed)
    return {"base": float(saved["base"].sum() / sum(tokens)), "adapter": float(saved["adapter"].sum() / sum(tokens)), "records": len(base),
            "difference": found.value, "low": found.low, "high": found.high}  # fmt: skip
