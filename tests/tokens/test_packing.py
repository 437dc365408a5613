"""Packing: full blocks, nothing lost, and no record attends to its neighbor, on the real demo model."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_lib.corpus.records import Record
from mistral_lib.model import base_model, demo_model
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import chat_format, packing
from mistral_lib.tokens.chat_format import IGNORED, Encoded

# short ones: a float32 pass through NF4 weights takes seconds on a CPU
ANSWERS = ["It joins two tables.", "A tensor holds numbers in any number of dimensions.", "Use a context manager to close the file."]


@settings(max_examples=200)
@given(st.lists(st.integers(1, 64), max_size=60))
def test_every_record_is_in_one_bin_and_no_two_bins_fit_into_one(lengths):
    found = packing.bins(lengths, 64)
    assert sorted(number for members in found for number in members) == list(range(len(lengths)))
    filled = sorted(sum(lengths[number] for number in members) for members in found)
    assert all(amount <= 64 for amount in filled)
    assert len(filled) < 2 or filled[0] + filled[1] > 64


def test_best_fit_takes_the_fullest_bin_that_holds_the_record():
    assert packing.bins([6, 5, 4, 5], 10) == [[0, 2], [1, 3]]
    assert packing.bins([7, 6, 3, 4], 10) == [[0, 2], [1, 3]]


def test_many_records_fill_their_blocks_fast():
    lengths = [17 + (number * 7919) % 480 for number in range(200_000)]
    assert packing.fill_rate(sum(lengths), len(packing.bins(lengths, 512)), 512) > 0.99


def block(records: list[Encoded], max_tokens: int, pad_id: int) -> dict[str, list[int]]:
    """The records in one block, by the function that preparation calls."""
    ids, labels = (np.concatenate([getattr(one, name) for one in records]).astype(int) for name in ("input_ids", "labels"))
    lengths = np.array([len(one.input_ids) for one in records])
    columns = packing.blocks(ids, labels != IGNORED, lengths, np.array([len(records)]), max_tokens, pad_id)
    return {name: column[0].tolist() for name, column in columns.items()}


def test_the_first_token_of_each_record_is_ungraded_and_positions_restart():
    packed = block([Encoded([1, 2, 3], [1, 2, 3]), Encoded([4, 5], [IGNORED, 5])], 8, 0)
    assert packed["input_ids"] == [1, 2, 3, 4, 5, 0, 0, 0]
    assert packed["labels"] == [IGNORED, 2, 3, IGNORED, 5, IGNORED, IGNORED, IGNORED]
    assert packed["position_ids"] == [0, 1, 2, 0, 1, 0, 1, 2]


def test_records_too_long_or_empty_are_errors():
    with pytest.raises(ValueError, match="9 tokens, more than a block of 8"):
        packing.bins([9], 8)
    with pytest.raises(ValueError, match="window 0 has 9 tokens and its block has room for 8"):
        block([Encoded([1] * 9, [1] * 9)], 8, 0)
    with pytest.raises(ValueError, match="window 1 has 0 tokens"):
        block([Encoded([1], [1]), Encoded([], [], "refused")], 8, 0)


def plainly(lengths: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing as it is defined: the fullest bin with room, the earliest of equals."""
    found: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        free = [capacity - sum(lengths[member] for member in members) for members in found]
        roomy = [place for place in range(len(found)) if free[place] >= lengths[number]]
        if roomy:
            found[min(roomy, key=lambda place: free[place])].append(number)
        else:
            found.append([number])
    return found


@settings(max_examples=200)
@given(st.lists(st.integers(1, 20), max_size=40))
def test_bins_are_those_of_a_plain_best_fit(lengths):
    assert packing.bins(lengths, 20) == plainly(lengths, 20)


def test_a_record_may_fill_a_block_and_the_error_for_a_longer_one_names_it():
    assert packing.bins([8, 8], 8) == [[0], [1]] and packing.bins([], 8) == []
    with pytest.raises(ValueError, match="record 1 has 9 tokens, more than a block of 8"):
        packing.bins([8, 9], 8)
    assert (packing.fill_rate(12, 2, 8), packing.fill_rate(16, 2, 8), packing.fill_rate(0, 0, 8)) == (0.75, 1.0, 1.0)


def test_windows_follow_each_other_in_their_blocks():
    """Two blocks of six tokens: windows of 3 and 2 tokens, and a window of 6."""
    tokens, graded = np.arange(10, 21), np.array([1, 1, 0, 0, 1, 1, 1, 1, 0, 1, 1], bool)
    made = packing.blocks(tokens, graded, np.array([3, 2, 6]), np.array([2, 1]), 6, 99)
    assert made["input_ids"].tolist() == [[10, 11, 12, 13, 14, 99], [15, 16, 17, 18, 19, 20]]
    assert made["labels"].tolist() == [[IGNORED, 11, IGNORED, IGNORED, 14, IGNORED], [IGNORED, 16, 17, IGNORED, 19, 20]]
    assert made["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5]]
    assert {column.dtype for column in made.values()} == {np.dtype(np.int32)}
    with pytest.raises(
        ValueError, match="window 1 has 4 tokens and its block has room for 3; expected at least one token, and room for all"
    ):
        packing.blocks(tokens[:7], graded[:7], np.array([3, 4]), np.array([2]), 6, 99)
    with pytest.raises(ValueError, match="window 0 has 9 tokens and its block has room for 8"):
        packing.blocks(np.arange(19), np.ones(19, bool), np.array([9, 10]), np.array([2]), 8, 99)
    with pytest.raises(ValueError, match="window 1 has 0 tokens and its block has room for 3"):
        packing.blocks(tokens[:3], graded[:3], np.array([3, 0]), np.array([2]), 6, 99)


@pytest.fixture(scope="module", params=["none", "nf4"])
def model(request):
    return base_model.load_base(Settings(quantization=request.param, dtype="float32")).eval()


def logits(model, ids, **options):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids]), use_cache=False, **options).logits[0].float()  # (tokens, vocabulary)


def test_packed_logits_equal_separate_ones_only_with_restarting_positions_and_no_mask(model):
    tokenizer = base_model.load_tokenizer(demo_model.NAME)
    encoded = chat_format.encode(tokenizer, [Record("d", "s", "g", "text", text=answer) for answer in ANSWERS])
    encoded = sorted(encoded, key=lambda one: -len(one.input_ids))
    packed = block(encoded, 40, tokenizer.pad_token_id)
    separate = torch.cat([logits(model, one.input_ids) for one in encoded])
    count = len(separate)

    def difference(**options):
        return (logits(model, packed["input_ids"], **options)[:count] - separate).abs().max().item()

    positions = torch.tensor([packed["position_ids"]])
    assert difference(position_ids=positions) < 1e-3
    assert difference(position_ids=positions, attention_mask=torch.ones_like(positions)) > 0.1
    assert difference(position_ids=torch.arange(40)[None]) > 0.1
