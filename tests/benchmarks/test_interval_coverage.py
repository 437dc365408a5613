"""How often do intervals contain the true value? The studentized bootstrap against scipy's BCa, on skewed losses. Figures are printed."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from mistral_lib.evaluation import paired_difference
from tests.evaluation.test_paired_difference import documents

TRIALS, TRUTH = 1000, -0.1


def bca(gain: np.ndarray, tokens: np.ndarray, seed: int) -> tuple[float, float]:
    found = bootstrap(
        (gain, tokens), lambda g, t, axis=-1: g.sum(axis) / t.sum(axis), paired=True, n_resamples=2000, method="BCa", rng=np.random.default_rng(seed)
    ).confidence_interval  # fmt: skip
    return found.low, found.high


@pytest.mark.parametrize("count", [6, 10, 20, 40, 80])
def test_coverage(count: int, capsys: pytest.CaptureFixture) -> None:
    hits = {"studentized": 0, "BCa": 0}
    for trial in range(TRIALS):
        gain, tokens = documents(np.random.default_rng([trial, count]), count, TRUTH)
        own = paired_difference.ratio(gain, tokens, trial)
        low, high = bca(gain, tokens, trial)
        hits["studentized"] += own.low <= TRUTH <= own.high
        hits["BCa"] += low <= TRUTH <= high
    with capsys.disabled():
        print(f"\n{count} documents: " + ", ".join(f"{name} {hit / TRIALS:.1%}" for name, hit in hits.items()))
    assert hits["studentized"] / TRIALS > 0.85
