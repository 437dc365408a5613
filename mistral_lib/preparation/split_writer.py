"""The windows of each split, ordered, packed into blocks and written as a dataset."""

import hashlib
from collections.abc import Iterator
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from mistral_lib.curation import splits
from mistral_lib.preparation.prepared import Prepared
from mistral_lib.run.allocator import release_free_memory
from mistral_lib.run.progress import bar
from mistral_lib.tokens import packed_dataset, packing


def write(prep: Prepared, folder: Path, split: int, pad_id: int) -> int:
    """Write the packed blocks of a split into its folder; the number of blocks. split: number in splits.SPLITS."""
    name = splits.SPLITS[split]
    groups, together = _groups(prep, split), packed_dataset.TRAIN_WINDOW if split == 0 else packed_dataset.FAIR_WINDOW
    packed = (block for part in groups for block in packed_dataset.pack(prep.tokens.length, part, prep.settings.max_tokens, together))
    release_free_memory(0)  # what putting them in order took
    fingerprint = hashlib.sha256()
    for part in groups:
        fingerprint.update(prep.rows.key[prep.tokens.record[part]])
    return packed_dataset.write(folder / name, _blocks(prep, bar(packed, f"{name} blocks", unit="block"), pad_id), fingerprint.hexdigest())


def _groups(prep: Prepared, split: int) -> list[np.ndarray]:
    """The windows of a split, in groups that are packed one after the other."""
    if split != 0:
        return [_order(prep, split)]
    if prep.settings.order == "operatives_last":
        return [prep.train[prep.mixture.corpus], prep.train[prep.mixture.operatives]]
    return [prep.train[prep.mixture.windows]]


def _order(prep: Prepared, split: int) -> np.ndarray:
    """The windows of a held-out split: domains in turn, within a domain by hash, so that any first part is a fair sample."""
    windows = np.flatnonzero(prep.windows_of(split))
    domain, key = prep.rows.domain[prep.tokens.record[windows]], prep.rows.key[prep.tokens.record[windows]]
    by_domain = np.lexsort((windows, key, domain))
    starts = np.flatnonzero(np.diff(domain[by_domain], prepend=-1))
    turn = np.arange(len(windows)) - np.repeat(starts, np.diff(starts, append=len(windows)))
    return windows[by_domain[np.lexsort((domain[by_domain], turn))]]


def _blocks(prep: Prepared, packed: Iterator[list[int]], pad_id: int) -> Iterator[dict[str, Any]]:
    """The blocks in batches, with the records and domains of each. packed: the windows of each block."""
    while batch := list(islice(packed, packed_dataset.BATCH)):
        windows, counts = np.array(list(chain.from_iterable(batch))), np.array(list(map(len, batch)))
        members = prep.tokens.record[windows]
        ids = [f"{key:016x}" for key in prep.rows.key[members].tolist()]
        domains = [prep.rows.domains[domain] for domain in prep.rows.domain[members].tolist()]
        cuts = list(pairwise([0, *np.cumsum(counts).tolist()]))
        yield {
            **packing.blocks(*prep.tokens.read(windows), prep.tokens.length[windows], counts, prep.settings.max_tokens, pad_id),
            "record_ids": [ids[start:end] for start, end in cuts],
            "domains": [domains[start:end] for start, end in cuts],
        }
