"""Packed blocks as a dataset: on disk as preparation writes it, one batch in memory at a time, or in memory for an evaluation's own records.

Both are packed in the same order. The files are Arrow, as `datasets.load_from_disk` opens them.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mistral_lib.corpus.records import Record
from mistral_lib.run import files
from mistral_lib.tokens import packing
from mistral_lib.tokens.chat_format import IGNORED, Encoded

TRAIN_WINDOW = 32_768  # token windows packed together: enough for full blocks, bounded in memory
FAIR_WINDOW = 48  # the same for held-out splits: small, so that the first blocks are a fair sample of the split
BATCH = 256  # blocks written at once
RECORD_IDS = "record_ids.parquet"  # in a training's folder: the records that it read
NUMBERS, NAMES = ("input_ids", "labels", "position_ids"), ("record_ids", "domains")


def pack(lengths: np.ndarray, order: np.ndarray, max_tokens: int, together: int) -> Iterator[list[int]]:
    """The windows of each block. order: numbers of the windows, packed `together` at a time.

    Packing puts the longest windows first; within each such group, blocks are sorted again by their first window in `order`.
    """
    for start in range(0, len(order), together):
        part = order[start : start + together]
        yield from (part[members].tolist() for members in sorted(packing.bins(lengths[part].tolist(), max_tokens), key=min))


def first_blocks(dataset: Any, max_tokens: int) -> Any:
    """The leading blocks, up to `max_tokens` tokens (0 = all): by their order a fair sample of the split."""
    count = max_tokens // len(dataset[0]["input_ids"]) if max_tokens else len(dataset)
    return dataset.select(range(min(len(dataset), count)))


def write(folder: Path, batches: Iterable[dict[str, Any]], fingerprint: str) -> int:
    """Write the dataset; the same blocks give the same bytes. Returns the number of blocks.

    batches: input_ids, labels, position_ids, int32 (blocks, max_tokens), and the lists record_ids and domains of each block.
    """
    from datasets import DatasetInfo, Features, List, Value

    features = Features({**{name: List(Value("int32")) for name in NUMBERS}, **{name: List(Value("string")) for name in NAMES}})
    folder.mkdir(parents=True)
    count, schema = 0, features.arrow_schema
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for batch in batches:
            columns = [_lists(batch[field.name], field.type) for field in schema]
            writer.write_batch(pa.record_batch(columns, schema=schema))
            count += len(columns[0])
    DatasetInfo(features=features).write_to_directory(str(folder))
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": fingerprint[:16], "_format_columns": None,
             "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None}  # fmt: skip
    files.write_json(folder / "state.json", state)
    return count


def _lists(values: np.ndarray | list[list[str]], kind: pa.DataType) -> pa.Array:
    if not isinstance(values, np.ndarray):
        return pa.array(values, type=kind)
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()), type=kind)


def write_record_ids(path: Path, **splits: Any) -> None:
    """A Parquet table of the records in packed splits: record_id, split. Each record once a split."""
    rows = [(one, name) for name, blocks in splits.items() for one in sorted(set(chain.from_iterable(blocks["record_ids"])))]
    with files.atomic(path) as new:
        pq.write_table(pa.table({"record_id": [one for one, _ in rows], "split": [name for _, name in rows]}), new)


def read_record_ids(path: Path) -> set[str]:
    """The ids that `write_record_ids` wrote, of all splits."""
    return set(pq.read_table(path, columns=["record_id"])["record_id"].to_pylist())


def enough(windows: Sequence[tuple[Record, str, Encoded]], max_probe_tokens: int) -> bool:
    """Whether more windows could not change what `packed` returns: it packs them in groups of FAIR_WINDOW, in their order."""
    complete = len(windows) % FAIR_WINDOW == 0
    return bool(max_probe_tokens) and complete and sum(len(window.input_ids) for _, _, window in windows) >= max_probe_tokens


def packed(tokenizer: Any, windows: Sequence[tuple[Record, str, Encoded]], max_tokens: int, max_probe_tokens: int) -> Any:
    """Windows (record, record id, tokens) in blocks of max_tokens; the leading blocks, up to max_probe_tokens (0 = all)."""
    from datasets import Dataset

    lengths = np.array([len(window.input_ids) for _, _, window in windows])
    blocks = list(pack(lengths, np.arange(len(windows)), max_tokens, FAIR_WINDOW))
    order = list(chain.from_iterable(blocks))
    tokens, labels = (np.concatenate([getattr(windows[n][2], name) for n in order]) for name in ("input_ids", "labels"))
    counts = np.array(list(map(len, blocks)))
    columns = packing.blocks(tokens, labels != IGNORED, lengths[order], counts, max_tokens, tokenizer.pad_token_id)
    numbers = {name: values.tolist() for name, values in columns.items()}
    names = {"record_ids": [[windows[n][1] for n in block] for block in blocks],
             "domains": [[windows[n][0].domain for n in block] for block in blocks]}  # fmt: skip
    return first_blocks(Dataset.from_dict({**numbers, **names}), max_probe_tokens)
