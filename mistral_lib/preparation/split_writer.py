"""The windows of each split in their order, packed into blocks and written: what is trained on, and what is held out."""

import hashlib
from collections.abc import Iterator
from itertools import chain, islice, pairwise
from typing import Any

import numpy as np

from mistral_lib.run.allocator import release_free_memory
from mistral_lib.run.progress import bar
from mistral_lib.tokens import packed_dataset, packing


def write(prep: Any, number: int, name: str) -> int:
    stretches, together = _stretches(prep, number), packed_dataset.TRAIN_WINDOW if number == 0 else packed_dataset.FAIR_WINDOW
    packed = (block for part in stretches for block in packed_dataset.pack(prep.tokens.length, part, prep.settings.max_tokens, together))
    release_free_memory(0)  # what putting them in order took
    fingerprint = hashlib.sha256()
    for part in stretches:
        fingerprint.update(prep.rows.key[prep.tokens.record[part]])
    return packed_dataset.write(prep.folder / name, _blocks(prep, bar(packed, f"{name} blocks", unit="block")), fingerprint.hexdigest())


def _stretches(prep: Any, split: int) -> list[np.ndarray]:
    """The windows of a split in stretches that are packed one after the other."""
    if split != 0:
        return [_order(prep, split)]
    if prep.settings.order == "operatives_last":
        return [prep.train[prep.mixture.corpus], prep.train[prep.mixture.operatives]]
    return [prep.train[prep.mixture.windows]]


def _order(prep: Any, split: int) -> np.ndarray:
    """The windows of a held-out split: domains in turn, within a domain by hash, so that every stretch is a fair sample."""
    windows = np.flatnonzero(prep.split[prep.tokens.record] == split)
    domain, key = prep.rows.domain[prep.tokens.record[windows]], prep.rows.key[prep.tokens.record[windows]]
    by_domain = np.lexsort((windows, key, domain))
    starts = np.flatnonzero(np.diff(domain[by_domain], prepend=-1))
    turn = np.arange(len(windows)) - np.repeat(starts, np.diff(starts, append=len(windows)))
    return windows[by_domain[np.lexsort((domain[by_domain], turn))]]


def _blocks(prep: Any, packed: Iterator[list[int]]) -> Iterator[dict[str, Any]]:
    """packed: the windows of each block. The blocks in batches, with the records and domains that each holds."""
    while batch := list(islice(packed, packed_dataset.BATCH)):
        windows, counts = np.array(list(chain.from_iterable(batch))), np.array(list(map(len, batch)))
        members = prep.tokens.record[windows]
        ids = [f"{key:016x}" for key in prep.rows.key[members].tolist()]
        domains = [prep.rows.domains[domain] for domain in prep.rows.domain[members].tolist()]
        cuts = list(pairwise([0, *np.cumsum(counts).tolist()]))
        yield {
            **packing.blocks(
                *prep.tokens.read(windows), prep.tokens.length[windows], counts, prep.settings.max_tokens, prep.tokenizer.pad_token_id
            ),
            "record_ids": [ids[start:end] for start, end in cuts],
            "domains": [domains[start:end] for start, end in cuts],
        }
