"""Records that an evaluation makes up for itself, packed in memory as preparation packs the splits on disk."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mistral_lib import block_writer, packing
from mistral_lib.chat_format import IGNORED, Encoded
from mistral_lib.corpus.records import Record


def enough(windows: Sequence[tuple[Record, str, Encoded]], max_probe_tokens: int) -> bool:
    """Whether further windows would change nothing of what `packed` returns: it takes so many of them together, in their order."""
    whole = len(windows) % block_writer.FAIR_WINDOW == 0
    return bool(max_probe_tokens) and whole and sum(len(window.input_ids) for _, _, window in windows) >= max_probe_tokens


def packed(tokenizer: Any, windows: Sequence[tuple[Record, str, Encoded]], max_tokens: int, max_probe_tokens: int) -> Any:
    """Windows (record, record id, tokens) in blocks of max_tokens, the first of them that hold max_probe_tokens (0 = all)."""
    from datasets import Dataset

    lengths = np.array([len(window.input_ids) for _, _, window in windows])
    blocks = []
    for members in block_writer.pack(lengths, np.arange(len(windows)), max_tokens, block_writer.FAIR_WINDOW):
        parts = [(np.array(windows[n][2].input_ids), np.array(windows[n][2].labels) != IGNORED) for n in members]
        block = packing.block(parts, max_tokens, tokenizer.pad_token_id)
        names = {"record_ids": [windows[n][1] for n in members], "domains": [windows[n][0].domain for n in members]}
        blocks.append({**{name: column.tolist() for name, column in block.items()}, **names})
    return block_writer.first_blocks(Dataset.from_list(blocks), max_probe_tokens)
