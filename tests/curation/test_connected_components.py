"""Links that are added later give the components of all links."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_lib.curation.connected_components import components, joined

PAIRS = st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=25)


@settings(max_examples=200, deadline=None)
@given(PAIRS, PAIRS)
def test_joined_components_are_those_of_all_links(first: list[tuple[int, int]], later: list[tuple[int, int]]) -> None:
    u, v, more_u, more_v = (np.array(one, np.int64) for pairs in (first, later) for one in (list(zip(*pairs, strict=True)) or [(), ()]))
    before = components(30, [(u, v)])
    unchanged = before.copy()
    after = joined(before, more_u, more_v)
    assert after.tolist() == components(30, [(np.concatenate([u, more_u]), np.concatenate([v, more_v]))]).tolist()
    assert after.dtype == np.int32 and (before == unchanged).all()
