"""Label domains: domains whose answers are a few labels or canned replies, as in classification.

The rule: an answer is a label of its domain if it says nothing of its own, that is, if it has fewer than `splits.LONG_ANSWER` words
and at least LEAST_ROWS rows, or at most LONGEST_LABEL words and more than `splits.COMMON` rows. A domain is a label domain if it has
2 to MOST_LABELS labels, each of them in ROWS_PER_LABEL rows on average, and if they are the answers of at least COVERED of its rows.
Answers are compared by `label_key`: case, a full stop at the end and the blanks of JSON do not matter, operators and emoji do.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from mistral_lib.curation.equal_keys import shared_keys
from mistral_lib.curation.similarity import GRAM, folded_words, symbols
from mistral_lib.curation.splits import COMMON, LONG_ANSWER
from mistral_lib.run.files import hash64

LEAST_ROWS = 3  # rows of a label; fewer are the tail of free answers
LONGEST_LABEL = 100  # words; a canned reply is longer than a class name
MOST_LABELS = 200
ROWS_PER_LABEL = 5  # on average
COVERED = 0.95  # of the rows of a domain: a few rows may have an answer of their own


def label_key(answer: str) -> str:
    """What two spellings of one label have in common: `Positive` and `positive.`, {"label":"a"} and {"label": "a"}."""
    plain = _without_layout(answer.strip()).casefold()
    words = folded_words(plain)
    if len(words) >= GRAM:
        return f"{' '.join(words)}\n{symbols(plain)}"
    return plain.rstrip(" .!。！") or plain


def _without_layout(answer: str) -> str:
    if answer[:1] not in ("{", "[", '"'):
        return answer
    try:
        value = orjson.loads(answer)
    except ValueError:
        return answer
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def label_hashes(answers: Sequence[str], answer: np.ndarray, words: np.ndarray) -> np.ndarray:
    """The hash of each answer's key, uint64 (n,); of one that is too long for a label, `answer`. answer, words: as `minhash.fold` returns
    them."""
    found = answer.astype(np.uint64)
    for place in np.flatnonzero(words <= LONGEST_LABEL).tolist():
        found[place] = hash64(label_key(answers[place]))
    return found


@dataclass(frozen=True, slots=True)
class LabelDomain:
    """A domain and its labels, the most frequent first."""

    domain: int
    first: np.ndarray  # int64 (labels,)  the first row with each label
    rows: np.ndarray  # int64 (labels,)  how many rows have it
    all_rows: int  # of the domain, those with another answer too

    @property
    def majority_share(self) -> float:
        """The accuracy of always answering the most frequent label."""
        return float(self.rows[0] / self.all_rows)

    def named(self, texts: Sequence[str]) -> dict[str, Any]:
        """`{labels: {text: rows}, majority_share}`. texts: of each label; equal ones, such as the begins of two long labels, count together."""
        labels: Counter[str] = Counter()
        for text, rows in zip(texts, self.rows.tolist(), strict=True):
            labels[text] += rows
        return {"labels": dict(labels), "majority_share": round(self.majority_share, 6)}


def find(domain: np.ndarray, answer: np.ndarray, words: np.ndarray, prompted: np.ndarray, kept: np.ndarray) -> list[LabelDomain]:
    """The label domains, ascending.

    domain: int32 (n,); answer: uint64 (n,), as `label_hashes` returns them; words: int (n,), of each answer; prompted: bool (n,), which
    rows are no plain documents; kept: bool (n,), which rows count.
    """
    rows_of_a_label = np.sort(shared_keys(answer)[0])  # an answer that occurs once is no label; ascending, as the sort below is stable
    rows_of_a_label = rows_of_a_label[(prompted & kept)[rows_of_a_label]]
    own_domain, own_answer = domain[rows_of_a_label], answer[rows_of_a_label]
    order = np.lexsort((own_answer, own_domain))  # of equal ones the first row comes first
    new = np.ones(len(order), bool)
    new[1:] = (np.diff(own_domain[order]) != 0) | (np.diff(own_answer[order]) != 0)
    starts = np.flatnonzero(new)
    first, rows = rows_of_a_label[order[starts]], np.diff(starts, append=len(order))
    own = words[first]
    label = (own < LONG_ANSWER) & (rows >= LEAST_ROWS) | (own <= LONGEST_LABEL) & (rows > COMMON)
    all_rows = np.bincount(domain[kept], minlength=1)
    return [
        found
        for number in np.unique(domain[first[label]]).tolist()
        if (found := _label_domain(number, *(values[label & (domain[first] == number)] for values in (first, rows)), int(all_rows[number])))
    ]


def _label_domain(domain: int, first: np.ndarray, rows: np.ndarray, all_rows: int) -> LabelDomain | None:
    if not 2 <= len(first) <= MOST_LABELS or rows.mean() < ROWS_PER_LABEL or rows.sum() < COVERED * all_rows:
        return None
    order = np.lexsort((first, -rows))
    return LabelDomain(domain, first[order], rows[order], all_rows)


def by_name(domains: Sequence[str], answers: Sequence[str | None], answer: np.ndarray, words: np.ndarray) -> dict[str, dict[str, Any]]:
    """`{label domain: {labels: {label: rows}, majority_share}}`, the most frequent label first. An entry per row in each.

    answers: the texts of short answers. answer: uint64, as `label_hashes` returns them. words: int, of the answers; -1 for a plain document.
    """
    names = sorted(set(domains))
    number = {name: place for place, name in enumerate(names)}
    found = find(np.array([number[name] for name in domains], np.int32), answer, words, words >= 0, np.ones(len(words), bool))
    return {names[one.domain]: one.named([answers[at] for at in one.first.tolist()]) for one in found}


def label_of(domain: np.ndarray, answer: np.ndarray, found: Sequence[LabelDomain]) -> np.ndarray:
    """For each row the first row with its label, int32 (n,); -1 for a row without a label. domain, answer: the columns given to `find`."""
    label = np.full(len(domain), -1, np.int32)
    for one in found:
        own = np.flatnonzero(domain == one.domain)
        first = one.first[np.argsort(answer[one.first])]
        at = first[np.minimum(np.searchsorted(answer[first], answer[own]), len(first) - 1)]
        label[own] = np.where(answer[at] == answer[own], at, -1)
    return label
