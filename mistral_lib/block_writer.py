"""Windows of tokens packed into blocks, as an Arrow dataset that `datasets.load_from_disk` opens; memory holds one batch of blocks."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from mistral_lib import files, packing

TRAIN_WINDOW = 32_768  # windows packed together: enough for full blocks, bounded in memory
FAIR_WINDOW = 48  # the same for held-out splits: small, so that the first blocks are a fair sample of the split
BATCH = 256  # blocks written at once
NUMBERS, NAMES = ("input_ids", "labels", "position_ids"), ("record_ids", "domains")


def pack(lengths: np.ndarray, order: np.ndarray, max_tokens: int, together: int) -> Iterator[list[int]]:
    """The windows of each block. order: numbers of the windows, packed `together` at a time; within each such stretch blocks
    stand in the order of their first-listed window, because packing itself puts the longest first."""
    for start in range(0, len(order), together):
        part = order[start : start + together]
        yield from (part[members].tolist() for members in sorted(packing.bins(lengths[part].tolist(), max_tokens), key=min))


def write(folder: Path, blocks: Iterable[dict[str, np.ndarray | list[str]]], fingerprint: str) -> int:
    """Write the dataset; the same blocks give the same bytes. Returns the number of blocks."""
    from datasets import DatasetInfo, Features, List, Value

    features = Features({**{name: List(Value("int32")) for name in NUMBERS}, **{name: List(Value("string")) for name in NAMES}})
    folder.mkdir(parents=True)
    count, waiting = 0, iter(blocks)
    with pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file, pa.ipc.new_stream(file, features.arrow_schema) as writer:
        while batch := list(islice(waiting, BATCH)):
            columns = [pa.array([row[field.name] for row in batch], type=field.type) for field in features.arrow_schema]
            writer.write_batch(pa.record_batch(columns, schema=features.arrow_schema))
            count += len(batch)
    DatasetInfo(features=features).write_to_directory(str(folder))
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_fingerprint": fingerprint[:16], "_format_columns": None,
             "_format_kwargs": {}, "_format_type": None, "_output_all_columns": False, "_split": None}  # fmt: skip
    files.write_json(folder / "state.json", state)
    return count
