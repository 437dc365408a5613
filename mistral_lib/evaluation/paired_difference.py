"""The difference of two models on the same records, with an interval, a test, and the smallest detectable difference.

The records of one source document are alike, so a document is one observation. Its weight is its share of the tokens, and one
document may hold a large part of them. Resampling documents fails then: draws without the heavy one seem precise and are far off.
So the weights stay as they are, and what is resampled are the documents' deviations from the common difference, scaled by a
standard deviation that falls with a document's length and is estimated from all of them. Each resample is divided by its own
standard error (bootstrap-t), because deviations are skewed. tests/benchmarks/test_interval_coverage.py prints how often intervals
contain the true value.
Source: Davison and Hinkley, Bootstrap Methods and their Application, 1997, sections 5.2 and 6.3 (weighted residuals).
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
AT_ONCE = 5_000_000  # resampled deviations in memory at a time


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
    design = Design(denominator)
    deviations = numerator / denominator - value
    if np.abs(deviations).max() <= 1e-9 * max(abs(value), 1e-12):  # all documents have exactly the same ratio
        return Estimate(value, value, value, 1.0 if value == 0.0 else 0.0, 0.0, documents)
    error = float(design.standard_error(deviations)) * float(np.sqrt(documents / (documents - 2)))  # two variances are estimated
    t = _resampled_t(design, deviations, seed)
    below, above = np.quantile(t, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    tail = min((t >= value / error).sum(), (t <= value / error).sum())
    p = min(1.0, 2 * (tail + 1) / (len(t) + 1))
    return Estimate(value, value - float(above) * error, value - float(below) * error, float(p), error, documents)


class Design:
    """The documents' lengths, which stay fixed: weights, and the variance of a document's ratio, between + within / length."""

    def __init__(self, lengths: np.ndarray):
        self.lengths, self.weights = lengths, lengths / lengths.sum()  # (documents,)
        self.concentration = float((self.weights**2).sum())  # 1 / effective number of documents
        self.leverage = 1 - 2 * self.weights + self.concentration  # variance of a deviation from the common ratio, if all are equal

    def variances(self, deviations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`between` and `within`, neither below 0, from two averages of the squared deviations: one counts documents, one counts tokens.

        deviations: (..., documents).
        """
        squares = deviations**2 / self.leverage
        by_document, by_token = squares.mean(-1), squares @ self.weights
        short, long = (1 / self.lengths).mean(), len(self.lengths) / self.lengths.sum()
        if short - long < 1e-9 * short:  # documents of one length: the two cannot be told apart
            return by_document, np.zeros_like(by_document)
        within = np.maximum((by_document - by_token) / (short - long), 0.0)
        between = np.where(within > 0, by_token - within * long, (by_document + by_token) / 2)
        return np.maximum(between, 0.0), np.where(between < 0, by_token / long, within)

    def standard_error(self, deviations: np.ndarray) -> np.ndarray:
        """Of the ratio of the sums: (...,)."""
        between, within = self.variances(deviations)
        return np.sqrt(between * self.concentration + within / self.lengths.sum())

    def scales(self, deviations: np.ndarray) -> np.ndarray:
        """The standard deviation of each document's ratio: (documents,)."""
        between, within = self.variances(deviations)
        return np.sqrt(between + within / self.lengths)


def _resampled_t(design: Design, deviations: np.ndarray, seed: int) -> np.ndarray:
    """(resamples,) the distance of each resample from the common ratio in its own standard errors."""
    rng, documents = np.random.default_rng(seed), len(deviations)
    scales = design.scales(deviations)
    residuals = deviations / (scales * np.sqrt(design.leverage))
    residuals -= residuals.mean()
    residuals /= np.sqrt((residuals**2).mean())
    found: list[np.ndarray] = []
    step = max(1, AT_ONCE // documents)
    for start in range(0, RESAMPLES, step):
        drawn = scales * residuals[rng.integers(0, documents, (min(step, RESAMPLES - start), documents))]
        moved = drawn @ design.weights
        errors = design.standard_error(drawn - moved[:, None])
        found.append(moved[errors > 0] / errors[errors > 0])
    return np.concatenate(found)


def better(gains: np.ndarray, lengths: np.ndarray, seed: int) -> dict[str, Any]:
    """Evidence that does not weigh documents by their length: on how many the adapter is better, with the sign test's p-value; and how
    much hangs on the longest document: its share of the tokens, and the difference without it."""
    longest = int(lengths.argmax())
    rest = ratio(np.delete(gains, longest), np.delete(lengths, longest), seed) if len(lengths) > 1 else None
    return {
        "documents_better": int((gains < 0).sum()),
        "sign_p": sign_test(gains),
        "effective_documents": float(lengths.sum() ** 2 / (lengths**2).sum()),
        "largest_share": float(lengths.max() / lengths.sum()),
        "without_largest": None if rest is None else {"difference": rest.value, "low": rest.low, "high": rest.high},
    }


def sign_test(gains: np.ndarray) -> float:
    """The exact two-sided p-value of as many documents above 0 as below it; those at 0 do not count. gains: (documents,)."""
    from scipy.stats import binomtest

    lower, higher = int((gains < 0).sum()), int((gains > 0).sum())
    return float(binomtest(lower, lower + higher).pvalue) if lower + higher else 1.0


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
    gains = by_document(base, documents, [two.nats - one.nats for one, two in zip(base, adapter, strict=True)])
    lengths = by_document(base, documents, [float(loss.tokens) for loss in base])
    found = ratio(gains, lengths, seed)
    return {"base": likelihood.mean(base), "adapter": likelihood.mean(adapter), "difference": found.value, "low": found.low,
            "high": found.high, "p": found.p, "standard_error": found.standard_error, "detectable": found.detectable, "records": len(base),
            "documents": found.documents, "supervised_tokens": sum(loss.tokens for loss in base), **better(gains, lengths, seed)}  # fmt: skip


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
