"""Votes on pairs of answers, given without knowing which model wrote which: stored at once, counted with their interval.

Knows no widgets: blind_vote.py is the page, and a CSV sheet serves those who vote elsewhere.
"""

import csv
import io
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_lib.run import files

CHOICES = ("left", "right", "tie")
COLUMNS = ("pair_id", "prompt", "left", "right", "choice")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt. Which stands on the left follows from the answers and the seed, and is told to nobody."""

    pair_id: str
    domain: str
    prompt: str
    base: str
    adapter: str
    adapter_left: bool

    @property
    def left(self) -> str:
        return self.adapter if self.adapter_left else self.base

    @property
    def right(self) -> str:
        return self.base if self.adapter_left else self.adapter

    def preferred(self, choice: str) -> str:
        """`base`, `adapter` or `tie`. Errors: ValueError for any other word than left, right or tie."""
        if choice not in CHOICES:
            raise ValueError(f"{choice!r} is no choice; expected one of {', '.join(CHOICES)}")
        return "tie" if choice == "tie" else "adapter" if (choice == "left") == self.adapter_left else "base"


def pairs(samples: Iterable[Mapping[str, Any]], seed: int = 42) -> list[Pair]:
    """The samples of evaluation/samples.jsonl whose answers differ, in an order that mixes domains and is always the same.

    A pair is known by its prompt and answers: votes stay valid when the same answers are generated again.
    """
    found = []
    for sample in samples:
        prompt = "\n\n".join(message["content"] for message in sample["prompt"])
        if sample["base"] != sample["adapter"]:
            pair_id = files.digest([prompt, sample["base"], sample["adapter"]])[:16]
            coin = int(files.digest([seed, pair_id])[:8], 16) % 2 == 0
            found.append(Pair(pair_id, sample["domain"], prompt, sample["base"], sample["adapter"], coin))
    return sorted(found, key=lambda pair: pair.pair_id)


class Ballot:
    """The votes on a list of pairs, in a file that only grows: of one voter's votes on a pair, the last counts."""

    def __init__(self, pairs: Sequence[Pair], path: Path):
        self.pairs, self.path = list(pairs), path

    def votes(self) -> list[dict[str, Any]]:
        """The votes that count, on the pairs that are there: pair_id, choice, preferred, voter, time (seconds since 1970)."""
        known = {pair.pair_id for pair in self.pairs}
        return list({(v["voter"], v["pair_id"]): v for v in files.read_json_lines(self.path) if v["pair_id"] in known}.values())

    def open(self, voter: str = "") -> list[Pair]:
        """The pairs that this voter has not judged yet."""
        judged = {vote["pair_id"] for vote in self.votes() if vote["voter"] == voter}
        return [pair for pair in self.pairs if pair.pair_id not in judged]

    def vote(self, pair: Pair, choice: str, voter: str = "") -> None:
        """Store one vote: it is on disk when this returns. Errors: ValueError for an unknown choice."""
        vote = {
            "pair_id": pair.pair_id,
            "choice": choice,
            "preferred": pair.preferred(choice),
            "voter": voter,
            "time": round(time.time(), 3),
        }
        files.append_json_line(self.path, vote)

    def sheet(self) -> str:
        """The pairs as a CSV sheet, for voters without a notebook: they write left, right or tie into `choice`."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([pair.pair_id, pair.prompt, pair.left, pair.right, ""] for pair in self.pairs)
        return text.getvalue()

    def take_sheet(self, text: str, voter: str) -> int:
        """Store the votes of a filled-in sheet, rows without a choice passed over; returns how many were new.

        Errors: ValueError that names every faulty row; then nothing is stored.
        """
        rows = list(csv.DictReader(io.StringIO(text)))
        if not rows or not {"pair_id", "choice"} <= set(rows[0]):
            raise ValueError(f"the sheet has the columns {list(rows[0]) if rows else []}; expected at least pair_id and choice")
        by_id = {pair.pair_id: pair for pair in self.pairs}
        given = [(n, (row["pair_id"] or "").strip(), (row["choice"] or "").strip().lower()) for n, row in enumerate(rows, 2)]
        given = [(n, pair_id, choice) for n, pair_id, choice in given if choice]
        faults = [f"row {n}: no pair {pair_id!r} in this evaluation" for n, pair_id, _ in given if pair_id not in by_id]
        faults += [f"row {n}: {choice!r} is not left, right or tie" for n, _, choice in given if choice not in CHOICES]
        if faults:
            raise ValueError("; ".join(faults[:10]) + (f"; and {len(faults) - 10} more faults" if len(faults) > 10 else ""))
        before = {vote["pair_id"]: vote["choice"] for vote in self.votes() if vote["voter"] == voter}
        new = {pair_id: choice for _, pair_id, choice in given if before.get(pair_id) != choice}
        for pair_id, choice in new.items():
            self.vote(by_id[pair_id], choice, voter)
        return len(new)


@dataclass(frozen=True)
class Preference:
    """What the votes say. share: of the decided votes, those for the adapter; low, high: its 95 % interval (None without votes)."""

    adapter: int
    base: int
    ties: int
    left: int  # how often the left answer was taken: far from half, voters look at the place and not at the answer
    share: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None  # of a coin that falls to both sides alike

    @property
    def verdict(self) -> str:
        """`adapter`, `base` or `not enough evidence`."""
        if self.low is None or self.low <= 0.5 <= self.high:
            return "not enough evidence"
        return "adapter" if self.low > 0.5 else "base"

    def __str__(self) -> str:
        if self.share is None:
            return f"no decided votes yet ({self.ties} ties)"
        decided = self.adapter + self.base
        words = {"adapter": "the adapter's answers are preferred", "base": "the base model's answers are preferred"}
        return (
            f"{words.get(self.verdict, 'not enough evidence of a preference')}: {self.adapter} of {decided} decided votes for the adapter "
            f"({self.share:.0%}, 95 % interval {self.low:.0%} to {self.high:.0%}; p = {self.p_value:.3f}), {self.ties} ties; "
            f"the left answer was taken {self.left} times"
        )


def preference(votes: Iterable[Mapping[str, Any]]) -> Preference:
    """Ties are set aside. Source: Wilson, JASA 22, 1927 (interval); exact two-sided binomial test (scipy.stats.binomtest)."""
    from scipy.stats import binomtest

    votes = list(votes)
    found, left = Counter(vote["preferred"] for vote in votes), sum(vote["choice"] == "left" for vote in votes)
    counts = {"adapter": found["adapter"], "base": found["base"], "ties": found["tie"], "left": left}
    decided = found["adapter"] + found["base"]
    if not decided:
        return Preference(**counts)
    test = binomtest(found["adapter"], decided)
    interval = test.proportion_ci(method="wilson")
    return Preference(**counts, share=found["adapter"] / decided, low=interval.low, high=interval.high, p_value=test.pvalue)
