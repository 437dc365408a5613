"""Metrics of answers: whether they end, repeat themselves, resemble the reference, and keep a format.

chrF is computed as sacrebleu 2 does; the tests compare their values.
"""

import ast
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

CHRF_ORDER, CHRF_BETA = 6, 2.0
REPEATED = 4  # words of a repeated n-gram
SHORT = 8  # words of the longest reference that is compared exactly
COPIED = 13  # words of an n-gram that counts as copied from a training answer. Source: Brown et al., 2020, appendix C
WHO = ("base", "adapter")


def chrf(answer: str, reference: str) -> float:
    """chrF2 in 0..100: F-score of character n-grams up to 6, without blanks, with recall weighted twice as much as precision.

    Source: Popović, chrF: character n-gram F-score for automatic MT evaluation, 2015; effective order as in sacrebleu.
    """
    scores = []
    one, two = "".join(answer.split()), "".join(reference.split())
    for order in range(1, CHRF_ORDER + 1):
        found, wanted = (Counter(text[i : i + order] for i in range(len(text) - order + 1)) for text in (one, two))
        if found and wanted:
            common = (found & wanted).total()
            scores.append((common / found.total(), common / wanted.total()))
    if not scores:
        return 0.0
    precision, recall = (sum(column) / len(scores) for column in zip(*scores, strict=True))
    weight = CHRF_BETA**2
    return 100 * (1 + weight) * precision * recall / (weight * precision + recall) if precision + recall else 0.0


def repetition(text: str) -> float:
    """The share of the word 4-grams that repeat an earlier one; 0 for a text with fewer than 4 words."""
    found = list(n_grams(text.split(), REPEATED))
    return 1 - len(set(found)) / len(found) if found else 0.0


def n_grams(words: Sequence[str], length: int) -> Iterable[tuple[str, ...]]:
    return zip(*(words[i:] for i in range(length)), strict=False)


def is_python(text: str) -> bool:
    return _parses(ast.parse, _code(text))


def is_json(text: str) -> bool:
    return _parses(json.loads, _code(text))


def _code(text: str) -> str:
    """The first fenced code block, or the complete text."""
    fenced = re.search(r"```\w*\n(.*?)```", text, re.S)
    return (fenced.group(1) if fenced else text).strip()


def _parses(parse: Callable[[str], Any], text: str) -> bool:
    try:
        parse(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False
    return bool(text)


FORMATS: Mapping[str, Callable[[str], bool]] = {"python": is_python, "json": is_json}


def answer_figures(sample: Mapping[str, Any], who: str, form: str | None) -> dict[str, Any]:
    """The figures of one answer; `exact` is None if the reference is long, `form` if the domain has no format."""
    answer, reference = sample[who], sample["reference"]
    short = len(reference.split()) <= SHORT
    return {"stopped": sample[f"{who}_stopped"], "repetition": repetition(answer), "chrf": chrf(answer, reference),
            "length_ratio": len(answer.split()) / max(1, len(reference.split())),
            "exact": answer.split() == reference.split() if short else None, "form": FORMATS[form](answer) if form else None}  # fmt: skip


def summary(samples: Sequence[Mapping[str, Any]], formats: Mapping[str, str]) -> dict[str, Any]:
    """For base and adapter: shares and means over the samples. formats: domain → python or json."""
    found: dict[str, Any] = {"answers": len(samples)}
    for who in WHO if samples else ():
        each = [answer_figures(sample, who, formats.get(sample["domain"])) for sample in samples]
        found[who] = {
            "stop_rate": share([one["stopped"] for one in each]),
            "repetition": float(np.mean([one["repetition"] for one in each])),
            "length_ratio": float(np.median([one["length_ratio"] for one in each])),
            "chrf": float(np.mean([one["chrf"] for one in each])),
            "exact_match": share([one["exact"] for one in each if one["exact"] is not None]),
            "form_valid": share([one["form"] for one in each if one["form"] is not None]),
        }
    return found


def share(flags: Sequence[bool]) -> dict[str, Any] | None:
    """count, of, and their share with the exact 95 % interval; None without flags. Source: Clopper and Pearson, 1934."""
    from scipy.stats import binomtest

    if not flags:
        return None
    count, of = sum(flags), len(flags)
    interval = binomtest(count, of).proportion_ci()
    return {"count": count, "of": of, "share": count / of, "low": float(interval.low), "high": float(interval.high)}
