"""Positions of equal keys: the same in pieces as without them, for any kind and spread of keys."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mistral_lib.curation import equal_keys


def dictionary(keys: np.ndarray) -> dict[int, list[int]]:
    """The positions of each key that occurs twice or more, smaller keys first."""
    found: dict[int, list[int]] = {}
    for at, key in enumerate(keys.tolist()):
        found.setdefault(key, []).append(at)
    return {key: found[key] for key in sorted(found) if len(found[key]) > 1}


@settings(max_examples=200, deadline=None)
@given(
    st.one_of(
        arrays(np.uint64, st.integers(0, 60), elements=st.integers(0, 2**64 - 1)),
        arrays(np.uint64, st.integers(0, 60), elements=st.sampled_from([0, 1, 2**63, 2**64 - 2, 2**64 - 1])),
        arrays(np.int32, st.integers(0, 60), elements=st.integers(0, 20)),
        arrays(np.int32, st.integers(0, 60), elements=st.sampled_from([0, 1, 2**31 - 2, 2**31 - 1])),
    )
)
def test_positions_of_equal_keys_are_those_found_with_a_dictionary(keys: np.ndarray) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equal_keys, "SMALLEST", 2)
        patch.setattr(equal_keys, "CHUNK", 3)
        expected = dictionary(keys)
        members, sizes = equal_keys.shared_keys(keys)
        assert members.tolist() == list(chain.from_iterable(expected.values())) and sizes.tolist() == [
            len(own) for own in expected.values()
        ]
        first = equal_keys.first_occurrence(keys)
        assert first.tolist() == [expected.get(key, [at])[0] for at, key in enumerate(keys.tolist())]
        assert members.dtype == first.dtype == np.int32
        order = np.argsort(keys, kind="stable").astype(np.int32)
        assert equal_keys.taken(keys, order).tolist() == keys[order].tolist()


def test_keys_all_equal_and_keys_of_a_real_size() -> None:
    assert not equal_keys.first_occurrence(np.full(300_000, 7, np.uint64)).any()
    keys = np.random.default_rng(0).integers(0, 2**64, 300_000, np.uint64)
    keys[200_000:] = keys[:100_000]
    assert equal_keys.first_occurrence(keys).tolist() == [*range(200_000), *range(100_000)]
