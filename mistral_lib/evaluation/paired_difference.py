"""The difference of two models on the same records, with an interval, a test, and the smallest detectable difference.

The records of one source document are alike, so the bootstrap resamples documents and not records. The interval is the
studentized bootstrap: on skewed losses it contains the true value more often than BCa, which is too narrow below some
hundred documents (tests/benchmarks/test_interval_coverage.py prints both).
Source: Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 12; Davison and Hinkley, 1997, section 5.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mistral_lib.model import likelihood
from mistral_lib.model.likelihood import RecordLoss

RESAMPLES = 4999
FEWEST = 5  # source documents that an interval needs
LEVEL = 0.95
ALPHA = 0.05  # p-values below it are beyond chance
POWER = 0.8  # probability of finding the smallest detectable difference
AT_ONCE = 5_000_000  # resampled document numbers in memory at a time


@dataclass(frozen=True, slots=True)
class Estimate:
    """A ratio of sums over documents. low, high: 95 % interval; p: two-sided, of the ratio being 0. None with fewer than FEWEST documents."""

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    standard_error: float | None = None
    documents: int = 0

    @property
    def detectable(self) -> float | None:
        """The smallest true value, up or down, that a test of this size finds in 80 of 100 cases (about 65 if losses are very
        skewed): the longer arm of the interval, plus the shift by chance that 20 of 100 cases exceed."""
        from scipy.stats import norm

        if self.standard_error is None:
            return None
        return max(self.high - self.value, self.value - self.low) + float(norm.ppf(POWER)) * self.standard_error


def ratio(numerator: np.ndarray, denominator: np.ndarray, seed: int) -> Estimate:
    """sum(numerator) / sum(denominator) with its uncertainty. Both: (documents,), the sums of each document."""
    documents, value = len(numerator), float(numerator.sum() / denominator.sum())
    if documents < FEWEST:
        return Estimate(value, documents=documents)
    error = float(_studentized(np.ones((1, documents)), numerator, denominator)[1][0]) * float(np.sqrt(documents / (documents - 1)))
    if error == 0.0:  # all documents have exactly the same ratio
        return Estimate(value, value, value, 1.0 if value == 0.0 else 0.0, 0.0, documents)
    plain = error / float(np.sqrt(documents / (documents - 1)))
    t = _resampled_t(numerator, denominator, value, seed)
    below, above = np.quantile(t, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    observed = value / plain
    tail = min((t >= observed).sum(), (t <= observed).sum())
    p = min(1.0, 2 * (tail + 1) / (len(t) + 1))
    return Estimate(value, value - float(above) * plain, value - float(below) * plain, float(p), error, documents)


def _resampled_t(numerator: np.ndarray, denominator: np.ndarray, value: float, seed: int) -> np.ndarray:
    """(resamples,) the distance of each resample from the value in its own standard errors; documents are sampled with replacement."""
    rng, documents = np.random.default_rng(seed), len(numerator)
    found: list[np.ndarray] = []
    step = max(1, AT_ONCE // documents)
    for start in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - start)
        chosen = rng.integers(0, documents, (rows, documents)) + np.arange(0, rows * documents, documents)[:, None]
        counts = np.bincount(chosen.ravel(), minlength=rows * documents).reshape(rows, documents).astype(float)
        values, errors = _studentized(counts, numerator, denominator)
        usable = errors > 0  # a resample of a single document has no error
        found.append((values[usable] - value) / errors[usable])
    return np.concatenate(found)


def _studentized(counts: np.ndarray, numerator: np.ndarray, denominator: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ratio and its linearized standard error for each row of counts (resamples, documents)."""
    total = counts @ denominator
    values = counts @ numerator / total
    squares = counts @ numerator**2 - 2 * values * (counts @ (numerator * denominator)) + values**2 * (counts @ denominator**2)
    scale = counts @ numerator**2 + values**2 * (counts @ denominator**2)
    squares = np.where(squares > 1e-12 * scale, squares, 0.0)  # rounding errors count as zero
    return values, np.sqrt(squares) / total


def by_document(losses: Sequence[RecordLoss], documents: Mapping[str, str] | None, values: Sequence[float]) -> np.ndarray:
    """(documents,) sums of the values of each document's records. documents: record_id → source document; None: each its own."""
    names = [documents.get(loss.record_id, loss.record_id) if documents else loss.record_id for loss in losses]
    return np.bincount(np.unique(names, return_inverse=True)[1], weights=values)


def compare(
    base: Sequence[RecordLoss], adapter: Sequence[RecordLoss], seed: int, documents: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Mean losses of both and their difference adapter - base, in nats per supervised token, with its interval.

    Errors: ValueError if the two are not the same records.
    """
    first, second = ([(loss.record_id, loss.tokens) for loss in losses] for losses in (base, adapter))
    if first != second:
        raise ValueError(
            f"{len(first)} and {len(second)} records, {len(set(first) & set(second))} of them the same: "
            "losses can be paired only on the same records, in the same order"
        )
    gain = by_document(base, documents, [two.nats - one.nats for one, two in zip(base, adapter, strict=True)])
    found = ratio(gain, by_document(base, documents, [float(loss.tokens) for loss in base]), seed)
    return {"base": likelihood.mean(base), "adapter": likelihood.mean(adapter), "difference": found.value, "low": found.low,
            "high": found.high, "p": found.p, "standard_error": found.standard_error, "detectable": found.detectable, "records": len(base),
            "documents": found.documents, "supervised_tokens": sum(loss.tokens for loss in base)}  # fmt: skip


def by_domain(
    base: Sequence[RecordLoss], adapter: Sequence[RecordLoss], seed: int, documents: Mapping[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """`compare` for each domain, with `holm_p`: p corrected for testing all of them."""
    ones, twos = likelihood.by_domain(base), likelihood.by_domain(adapter)
    found = {domain: compare(ones[domain], twos[domain], seed, documents) for domain in ones}
    corrected = holm({domain: facts["p"] for domain, facts in found.items() if facts["p"] is not None})
    return {domain: {**facts, "holm_p": corrected.get(domain)} for domain, facts in found.items()}


def holm(p_values: Mapping[Any, float]) -> dict[Any, float]:
    """p-values corrected so that the probability of one or more false findings among all of them stays at the level.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.
    """
    corrected, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        corrected[name] = largest
    return corrected


def is_beyond_chance(facts: Mapping[str, Any]) -> bool:
    """Whether a difference is significant at ALPHA, by the p-value corrected for many domains if there is one. False without a p-value."""
    p = facts.get("holm_p", facts.get("p"))
    return p is not None and p < ALPHA


def beyond_chance(by_name: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names of the differences that are beyond chance."""
    return [name for name, facts in by_name.items() if is_beyond_chance(facts)]
