"""Does the adapter still use its prompt? The worth of a prompt: how much less likely an answer is after another prompt.

An adapter trained on answers that belong to other prompts learns their style, and its test loss falls like that of a
good one. But the right prompt is then worth less to it than to the base model.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from mistral_lib.corpus.records import Record
from mistral_lib.evaluation import paired_difference
from mistral_lib.model.likelihood import RecordLoss
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import chat_format, packed_dataset

Losses = dict[str, list[RecordLoss]]
Row = Mapping[str, Any]  # of records.parquet


def blocks_with_other_prompts(tokenizer: Any, rows: Sequence[Row], settings: Settings) -> Any | None:
    """The answers of `rows`, each after the prompt of the next chat of its domain from another document; None if there is none.

    Only chats that fit into one window with either prompt, as many as are measured.
    """
    windows = []
    for row, partner in other_document_pairs(rows):
        if packed_dataset.enough(windows, settings.max_probe_tokens):
            break
        records = [_record(row, row), _record(row, partner)]
        own, other = chat_format.encode(tokenizer, records)
        fits = max(len(own.input_ids), len(other.input_ids)) <= settings.max_tokens
        if fits and not other.problem and own.supervised == other.supervised:
            windows.append((records[1], row["record_id"], other))
    return packed_dataset.packed(tokenizer, windows, settings.max_tokens, settings.max_probe_tokens) if windows else None


def other_document_pairs(rows: Iterable[Row]) -> list[tuple[Row, Row]]:
    """(chat, the next chat of its domain from another document, in cyclic order of record ids), sorted by id, so domains are mixed."""
    chats = sorted((row for row in rows if row["messages"]), key=lambda row: (row["domain"], row["record_id"]))
    pairs = [pair for _, same in groupby(chats, lambda row: row["domain"]) for pair in _cyclic_pairs(list(same))]
    return sorted(pairs, key=lambda pair: pair[0]["record_id"])


def _cyclic_pairs(chats: list[Row]) -> Iterator[tuple[Row, Row]]:
    """The pairs of one domain, none if it has a single document. Walks backwards twice through the cycle, so the cost is linear."""
    after = partner = None
    for place in reversed(range(2 * len(chats))):
        row = chats[place % len(chats)]
        if after is not None and after["source_group"] != row["source_group"]:
            partner = after  # the next chat of another document, for this chat and those of its document before it
        if place < len(chats) and partner is not None:
            yield row, partner
        after = row


def _record(row: Row, asked: Row) -> Record:
    """The answer of a row after the prompt, and with the tools, of the row that is asked."""
    messages = [*asked["messages"][:-1], row["messages"][-1]]
    return Record(row["domain"], row["source"], row["source_group"], row["shape"], messages=messages, tools=asked.get("tools"))


def prompt_worth(own: Losses, other: Losses, documents: dict[str, str], seed: int) -> dict[str, Any]:
    """The nats per supervised token that the right prompt saves: for base, for adapter, and the change with its 95 % interval.

    own, other: losses after the right and after another prompt; records that are not in both are left out.
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
