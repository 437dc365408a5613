"""Checks before the first step: the data have something to learn, and the batch that needs the most memory fits.

All blocks are equally long; logits are made only for labels, so the blocks with the most supervised tokens need the most memory.
"""

import gc
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mistral_lib.model import likelihood
from mistral_lib.run import hardware, paths
from mistral_lib.tokens.chat_format import IGNORED

ROWS = 256  # blocks in memory at a time


class NothingToLearnError(ValueError):
    """Data from which a training would learn nothing; the message says what was seen and what to do."""


def loaded(place: Path, split: str) -> Any:
    """A packed split. Errors: NothingToLearnError if it has no block."""
    from datasets import load_from_disk

    try:
        blocks = load_from_disk(place)
    except IndexError:  # datasets saves an empty one without a file, and cannot read that back
        blocks = ()
    if not len(blocks):
        raise NothingToLearnError(
            f"the {split} split holds no block, expected at least one: see {paths.short(place.parent / 'report.json')} for the fate of "
            "the rows, and prepare the data again (notebook 02)"
        )
    return blocks


def refuse_useless(blocks: Any, split: str) -> np.ndarray:
    """The supervised tokens of each block: (blocks,). Errors: NothingToLearnError if the split has no label at all."""
    batches = blocks.select_columns(["labels"]).with_format("numpy").iter(ROWS)
    counts = np.concatenate([(batch["labels"] != IGNORED).sum(axis=1) for batch in batches])
    if not counts.any():
        raise NothingToLearnError(
            f"all labels of the {split} split are masked: none of its {len(blocks)} blocks has a supervised token, so every loss would be 0/0. "
            "The chat format found no answer: correct objective, columns or the chat template, and prepare the data again (notebook 02)"
        )
    return counts


def tried(trainer: Any, model: Any, blocks: Any, counts: np.ndarray, micro_batch_size: int) -> dict[str, Any]:
    """One forward and backward pass over the fullest batch, with room for the optimizer's moments; it trains nothing.

    Errors: those of PyTorch or Python if memory does not suffice.
    """
    fullest = np.argsort(-counts, kind="stable")[:micro_batch_size].tolist()
    rows = blocks.select(fullest)
    batch = {name: torch.tensor(rows[name]) for name in likelihood.COLUMNS}
    batch = {name: values.repeat(-(-micro_batch_size // len(rows)), 1)[:micro_batch_size] for name, values in batch.items()}
    if trainer.args.activation_checkpointing:
        model.activation_checkpointing_enable(every_n_layers=trainer.args.activation_checkpointing_kwargs["every_n_layers"])
    began = time.perf_counter()
    moments = [torch.zeros_like(p, dtype=torch.float32) for p in model.parameters() if p.requires_grad for _ in range(2)]
    try:
        trainer.training_step(model, batch, torch.tensor(int(counts[fullest].sum()), device=trainer.args.device))
    finally:
        model.zero_grad(set_to_none=True)
        del moments
        gc.collect()
    return {
        "supervised_tokens": int(counts[fullest].sum()),
        "micro_batch_size": micro_batch_size,
        "peak_memory_mib": hardware.peak_memory_mib(),
        "seconds": round(time.perf_counter() - began, 3),
    }
