"""Blind votes on pairs of answers: each is stored at once; the share for the adapter has a confidence interval.

Knows no widgets: vote_page.py is the page. Voters without a notebook use a CSV sheet.
"""

import csv
import io
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mistral_lib.preparation.stage_inputs import VOTES
from mistral_lib.run import Run, files

CHOICES = ("left", "right", "tie")
COLUMNS = ("pair_id", "prompt", "left", "right", "choice")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one prompt. A hash of the answers and the seed decides which is on the left; voters do not see it."""

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
        """`base`, `adapter` or `tie`. Errors: ValueError if the choice is not left, right or tie."""
        if choice not in CHOICES:
            raise ValueError(f"{choice!r} is not a choice; expected one of {', '.join(CHOICES)}")
        return "tie" if choice == "tie" else "adapter" if (choice == "left") == self.adapter_left else "base"


def pairs(samples: Iterable[Mapping[str, Any]], seed: int = 42) -> list[Pair]:
    """The samples of evaluation/samples.jsonl whose answers differ, in a fixed order that mixes domains.

    A pair's id is a hash of its prompt and answers, so votes stay valid when the same answers are generated again.
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
    """The votes on a list of pairs, in an append-only file: of several votes by one voter on a pair, the last counts."""

    def __init__(self, pairs: Sequence[Pair], path: Path):
        self.pairs, self.path = list(pairs), path

    def votes(self) -> list[dict[str, Any]]:
        """The valid votes on these pairs: pair_id, choice, preferred, voter, time (seconds since 1970)."""
        ids = {pair.pair_id for pair in self.pairs}
        return list({(v["voter"], v["pair_id"]): v for v in files.read_json_lines(self.path) if v["pair_id"] in ids}.values())

    def open_pairs(self, voter: str = "") -> list[Pair]:
        """The pairs without a vote of this voter."""
        judged = {vote["pair_id"] for vote in self.votes() if vote["voter"] == voter}
        return [pair for pair in self.pairs if pair.pair_id not in judged]

    def vote(self, pair: Pair, choice: str, voter: str = "") -> None:
        """Store one vote; it is on disk when this returns. Errors: ValueError if the choice is not left, right or tie."""
        vote = {
            "pair_id": pair.pair_id,
            "choice": choice,
            "preferred": pair.preferred(choice),
            "voter": voter,
            "time": round(time.time(), 3),
        }
        files.append_json_line(self.path, vote)

    def sheet(self) -> str:
        """The pairs as a CSV sheet, in which voters write left, right or tie into `choice`."""
        rows = [(pair.pair_id, pair.prompt, pair.left, pair.right, "") for pair in self.pairs]
        return pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(index=False, lineterminator="\n")

    def take_sheet(self, text: str, voter: str) -> int:
        """Store the votes of a sheet and return how many were new. Rows without a choice are skipped.

        Errors: ValueError that names every wrong row; then nothing is stored.
        """
        rows = list(csv.DictReader(io.StringIO(text)))
        if not rows or not {"pair_id", "choice"} <= set(rows[0]):
            raise ValueError(f"the sheet has the columns {list(rows[0]) if rows else []}; expected at least pair_id and choice")
        by_id = {pair.pair_id: pair for pair in self.pairs}
        filled = [(n, (row["pair_id"] or "").strip(), (row["choice"] or "").strip().lower()) for n, row in enumerate(rows, 2)]
        filled = [(n, pair_id, choice) for n, pair_id, choice in filled if choice]
        errors = [f"row {n}: no pair {pair_id!r} in this evaluation" for n, pair_id, _ in filled if pair_id not in by_id]
        errors += [f"row {n}: {choice!r} is not left, right or tie" for n, _, choice in filled if choice not in CHOICES]
        if errors:
            raise ValueError("; ".join(errors[:10]) + (f"; and {len(errors) - 10} more errors" if len(errors) > 10 else ""))
        before = {vote["pair_id"]: vote["choice"] for vote in self.votes() if vote["voter"] == voter}
        new = {pair_id: choice for _, pair_id, choice in filled if before.get(pair_id) != choice}
        for pair_id, choice in new.items():
            self.vote(by_id[pair_id], choice, voter)
        return len(new)


def of_run(run: Run, samples: Iterable[Mapping[str, Any]]) -> Ballot:
    """The votes on the answers of a run. samples: as in evaluation/samples.jsonl."""
    return Ballot(pairs(samples, run.settings.seed), run.folder / VOTES)


@dataclass(frozen=True)
class Preference:
    """The result of the votes. share: of the decided votes, those for the adapter; low, high: its 95 % interval (None without votes)."""

    adapter: int
    base: int
    ties: int
    left: int  # how often the left answer was chosen: far from half, voters follow the position and not the answer
    share: float | None = None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None  # of the share being one half

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
        sentences = {"adapter": "the adapter's answers are preferred", "base": "the base model's answers are preferred"}
        return (
            f"{sentences.get(self.verdict, 'not enough evidence of a preference')}: {self.adapter} of {decided} decided votes for the adapter "
            f"({self.share:.0%}, 95 % interval {self.low:.0%} to {self.high:.0%}; p = {self.p_value:.3f}), {self.ties} ties; "
            f"the left answer was chosen {self.left} times"
        )


def preference(votes: Iterable[Mapping[str, Any]]) -> Preference:
    """Counts the votes; ties are left out of the share. Source: Wilson, JASA 22, 1927 (interval); exact two-sided binomial test (scipy.stats.binomtest)."""
    from scipy.stats import binomtest

    votes = list(votes)
    found, left = Counter(vote["preferred"] for vote in votes), sum(vote["choice"] == "left" for vote in votes)
    counts = {"adapter": found["adapter"], "base": found["base"], "ties": found["tie"], "left": left}
    decided = found["adapter"] + found["base"]
    if not decided:
        return Preference(**counts)
    test = binomtest(found["adapter"], decided)
    interval = test.proportion_ci(method="wilson")
    return Preference(
        **counts, share=found["adapter"] / decided, low=float(interval.low), high=float(interval.high), p_value=float(test.pvalue)
    )
