"""Connected components of records that are linked in pairs, in a few flat arrays.

Works on positions and pairs; knows nothing of texts or splits.   Source: Shiloach & Vishkin 1982, hooking and pointer jumping
"""

from collections.abc import Iterable

import numpy as np

from mistral_lib.curation.equal_keys import taken

Edges = tuple[np.ndarray, np.ndarray]  # two equally long arrays of positions: u[k] is linked to v[k]


def components(count: int, links: Iterable[Edges]) -> np.ndarray:
    """For each of `count` positions the smallest position of its component, int32 (count,). links: each is needed once, so it may be an
    iterator that makes one after the other.

    scipy.sparse.csgraph would copy the edges three times as 64-bit floats; this needs a few int32 arrays of (count,).
    """
    label = np.arange(count, dtype=np.int32)
    for u, v in links:
        while True:
            a, b = taken(label, u), taken(label, v)
            apart = np.flatnonzero(a != b)
            if not len(apart):
                break
            a, b = a[apart], b[apart]
            # labels are roots here, so hooking the larger root below the smaller one keeps every earlier link
            np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
            label = _roots(label)
        del u, v  # before the next ones are made
    return label


def joined(label: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """What `components` returns with these links too, a new array. label: what it returned without them; few links take little time."""
    a, b = label[u], label[v]
    roots = np.unique(np.concatenate([a, b]))
    root = roots[components(len(roots), [(np.searchsorted(roots, a), np.searchsorted(roots, b))])]
    below = np.zeros(len(label), bool)  # roots that are none any more
    below[roots[root != roots]] = True
    changed = np.flatnonzero(taken(below, label))
    label = label.copy()
    label[changed] = root[np.searchsorted(roots, label[changed])]
    return label


def _roots(label: np.ndarray) -> np.ndarray:
    """The labels with every position pointing directly at the root of its tree."""
    while True:
        jumped = taken(label, label)
        if np.array_equal(jumped, label):
            return label
        label = jumped
