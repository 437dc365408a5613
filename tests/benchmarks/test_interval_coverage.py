"""How often do intervals contain the true value, and how wide are they? Ours against resampling documents, on made-up data sets.

Lengths: alike, log-normal with sigma 1.5, or 40 documents of which one holds 40 % of the tokens. A document's difference is normal,
skewed, or noisier the shorter the document is. Figures are printed; `TRIALS=200` is quicker.
"""

import os

import numpy as np
import pytest

from mistral_lib.evaluation import paired_difference

TRIALS, TRUTH, RESAMPLES = int(os.environ.get("TRIALS", "1000")), -0.1, 1999
CASES = [
    *(("alike", kind, count) for kind in ("normal", "skewed") for count in (6, 10, 20, 40, 200)),
    *(("one heavy", kind, 40) for kind in ("normal", "skewed", "noisy")),
    *(("log-normal", kind, count) for kind in ("normal", "skewed", "noisy") for count in (6, 10, 20, 40, 200)),
]


def lengths(rng: np.random.Generator, shape: str, count: int) -> np.ndarray:
    """(documents,) supervised tokens."""
    if shape == "log-normal":
        return np.maximum(3.0, np.round(rng.lognormal(3.5, 1.5, count)))
    found = rng.integers(15, 46, count).astype(float)
    if shape == "one heavy":
        found[0] = found[1:].sum() * 0.4 / 0.6
    return found


def differences(rng: np.random.Generator, kind: str, tokens: np.ndarray) -> np.ndarray:
    """(documents,) nats per token, TRUTH in expectation."""
    count = len(tokens)
    if kind == "noisy":
        return TRUTH + rng.normal(0, 0.1, count) + rng.normal(0, 2, count) / np.sqrt(tokens)
    return TRUTH + 0.3 * (rng.normal(0, 1, count) if kind == "normal" else rng.exponential(1, count) - 1)


def resampled_documents(gain: np.ndarray, tokens: np.ndarray, rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """The intervals of the percentile bootstrap, and of the studentized bootstrap that we had before."""
    value, documents = gain.sum() / tokens.sum(), len(gain)
    counts = rng.multinomial(documents, np.full(documents, 1 / documents), size=RESAMPLES).astype(float)
    values = counts @ gain / (counts @ tokens)
    squares = counts @ gain**2 - 2 * values * (counts @ (gain * tokens)) + values**2 * (counts @ tokens**2)
    errors = np.sqrt(np.maximum(squares, 0.0)) / (counts @ tokens)
    own = float(np.sqrt(((gain - value * tokens) ** 2).sum()) / tokens.sum())
    usable = errors > 1e-6 * own
    below, above = np.quantile((values[usable] - value) / errors[usable], [0.025, 0.975])
    low, high = np.quantile(values, [0.025, 0.975])
    return {"percentile": (low, high), "studentized": (value - above * own, value - below * own)}


@pytest.mark.parametrize(("shape", "kind", "count"), CASES)
def test_coverage_and_width(shape: str, kind: str, count: int, capsys: pytest.CaptureFixture) -> None:
    found: dict[str, list[tuple[float, float]]] = {}
    for trial in range(TRIALS):
        rng = np.random.default_rng([trial, count])
        tokens = lengths(rng, shape, count)
        gain = differences(rng, kind, tokens) * tokens
        ours = paired_difference.ratio(gain, tokens, trial)
        for name, interval in {"ours": (ours.low, ours.high), **resampled_documents(gain, tokens, rng)}.items():
            found.setdefault(name, []).append(interval)
    hits = {name: np.mean([low <= TRUTH <= high for low, high in ones]) for name, ones in found.items()}
    widths = {name: np.mean([high - low for low, high in ones]) for name, ones in found.items()}
    with capsys.disabled():
        figures = ", ".join(f"{name} {hits[name]:6.1%} (width {widths[name]:.3f})" for name in found)
        print(f"\n{shape:10} {kind:7} {count:4} documents: {figures}", end="")
    by_chance = 3 * (0.05 * 0.95 / TRIALS) ** 0.5
    assert hits["ours"] > (0.92 if count >= 10 else 0.85) - by_chance
