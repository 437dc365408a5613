"""Records packed into blocks of equal length, without cross-talk.

Position ids restart at 0 with every record: transformers then keeps the records of a block from attending to each
other (attention_mask None, use_cache False). The first token of a record is never graded, since the token before it
in the block belongs to another record.
"""

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np

from mistral_lib.tokens.chat_format import IGNORED


def bins(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: the longest first, each into the fullest bin that has room for it, the earliest of equals.

    Free room is an integer up to `capacity`, so there is one heap of bins for each amount, and the bits of one
    integer mark the heaps that are not empty: n log n for millions of records. Errors: ValueError for a length above `capacity`.
    Source: D. S. Johnson, "Near-optimal bin packing algorithms", 1973 (at most 11/9 of the best number of bins).
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    if len(sizes) and sizes.max() > capacity:
        raise ValueError(f"record {int(sizes.argmax())} has {sizes.max()} tokens, more than a block of {capacity}")
    waiting: list[list[int]] = [[] for _ in range(capacity + 1)]  # waiting[free]: numbers of the bins with that much room
    some = 0  # bit `free` is set if waiting[free] is not empty
    filled: list[list[int]] = []
    order = np.argsort(-sizes, kind="stable")
    for number, length in zip(order.tolist(), sizes[order].tolist(), strict=True):
        roomy = some >> length
        if roomy:
            free = length + (roomy & -roomy).bit_length() - 1
            target = heappop(waiting[free])
            some ^= 0 if waiting[free] else 1 << free
        else:
            free, target = capacity, len(filled)
            filled.append([])
        filled[target].append(number)
        heappush(waiting[free - length], target)
        some |= 1 << (free - length)
    return filled


def fill_rate(tokens: int, blocks: int, capacity: int) -> float:
    """The share of the blocks' tokens that are records and not padding; 1.0 without blocks."""
    return tokens / (blocks * capacity) if blocks else 1.0


def blocks(
    tokens: np.ndarray, graded: np.ndarray, lengths: np.ndarray, windows: np.ndarray, max_tokens: int, pad_id: int
) -> dict[str, np.ndarray]:
    """input_ids, labels, position_ids, each int32 (blocks, max_tokens), of consecutive windows; the rest of a block is padding.

    tokens, graded: of all windows one after the other. lengths: tokens of each window. windows: their number in each block, in order.
    Errors: ValueError for a window without a token, or too many tokens.
    """
    start = np.cumsum(lengths) - lengths  # of each window, among all tokens
    own = np.repeat(np.arange(len(windows)), windows)  # the block of each window
    filled = np.bincount(own, weights=lengths, minlength=len(windows)).astype(np.int64)
    first = np.cumsum(filled) - filled  # of each block, among all tokens
    offset = start - first[own]  # of each window, in its block
    if len(wrong := np.flatnonzero((lengths < 1) | (offset + lengths > max_tokens))):
        seen = f"window {wrong[0]} has {lengths[wrong[0]]} tokens and its block has room for {max_tokens - offset[wrong[0]]}"
        raise ValueError(f"{seen}; expected at least one token, and room for all")
    position = np.arange(len(tokens)) - np.repeat(start, lengths)
    place = np.repeat(own * max_tokens + offset, lengths) + position
    free = np.arange(max_tokens) - filled[:, None]
    ids, labels = (np.full(len(windows) * max_tokens, fill, np.int32) for fill in (pad_id, IGNORED))
    positions = np.maximum(free, 0).astype(np.int32).ravel()  # padding is one more record, ungraded
    ids[place] = tokens
    supervised = graded & (position > 0)
    labels[place[supervised]] = tokens[supervised]
    positions[place] = position
    return {name: flat.reshape(-1, max_tokens) for name, flat in (("input_ids", ids), ("labels", labels), ("position_ids", positions))}
