"""The training mixture: how much of each domain and of the operatives is trained on, counted in tokens.

Works on arrays, one number a window of tokens. The windows with the smallest hashes are chosen, so the choice is the same in every run
and adding data changes it as little as possible.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Mixture:
    windows: np.ndarray  # int32: those to train on, by their hashes; twice in it if the domain's weight is 2
    operative: np.ndarray  # bool: for each of them, whether it is from the operatives

    @property
    def corpus(self) -> np.ndarray:
        return self.windows[~self.operative]

    @property
    def operatives(self) -> np.ndarray:
        return self.windows[self.operative]


def choose(
    tokens: np.ndarray,
    hashes: np.ndarray,
    domain: np.ndarray,
    operative: np.ndarray,
    domains: Sequence[str],
    weights: Mapping[str, float],
    operatives_share: float,
) -> Mixture:
    """The windows to train on.

    tokens, hashes, domain (number in `domains`), operative (bool): each (windows,). weights: domain → how often its windows
    are taken, 1 if none is given: 0.5 takes half of them, 2 each twice. operatives_share: the largest share of all tokens.
    Errors: ValueError for a weight of a domain that the corpus does not have.
    """
    unknown = sorted(set(weights) - set(domains))
    if unknown:
        raise ValueError(f"domain_weights: {', '.join(unknown)} is no domain of this corpus; it has {', '.join(sorted(domains))}")
    taken = [
        _weighted(np.flatnonzero(domain == number).astype(np.int32), hashes, weights.get(name, 1.0)) for number, name in enumerate(domains)
    ]
    windows = np.concatenate([*taken, np.empty(0, np.int32)])
    windows = windows[np.argsort(hashes[windows], kind="stable")]
    last = operative[windows]
    if operatives_share < 1:
        most = tokens[windows[~last]].sum() * operatives_share / (1 - operatives_share)
        kept = ~last
        kept[last] = np.cumsum(tokens[windows[last]]) <= most
        windows, last = windows[kept], last[kept]
    return Mixture(windows, last)


def _weighted(members: np.ndarray, hashes: np.ndarray, weight: float) -> np.ndarray:
    """`weight` times the members: each as often as the integer part, and those with the smallest hashes once more."""
    whole, part = divmod(weight, 1.0)
    more = [members[np.argsort(hashes[members], kind="stable")[: round(part * len(members))]]] if part else []
    return np.concatenate([members[:0], *[members] * int(whole), *more])


def tokens_by_domain(windows: np.ndarray | slice, tokens: np.ndarray, domain: np.ndarray, domains: Sequence[str]) -> dict[str, int]:
    """Tokens of each domain in a mixture; domains without tokens are left out."""
    parts = len(tokens) // 2**16 + 1  # numpy counts in 64 bits: a little at a time
    both = zip(np.array_split(domain[windows], parts), np.array_split(tokens[windows], parts), strict=True)
    sums = sum((np.bincount(where, weights=many, minlength=len(domains)) for where, many in both), np.zeros(len(domains))).astype(int)
    return {name: int(n) for name, n in sorted(zip(domains, sums, strict=True)) if n}
