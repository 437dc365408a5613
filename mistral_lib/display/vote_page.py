"""The page of the blind vote: a prompt, two answers without their models' names, and one key for each vote.

Every vote is on disk before the next pair is shown; a reopened page continues with the first pair that has no vote.
"""

import html
from functools import partial
from typing import Any

import ipywidgets

from mistral_lib.display import votes
from mistral_lib.display.widget_base import AUTO, PlainTextBox, button
from mistral_lib.run import Run, files

KEYS = {"1": "left", "l": "left", "2": "tie", "t": "tie", "3": "right", "r": "right"}
PLAIN = "(blind vote: two answers in random order, left, right or tie with one key; open this notebook in JupyterLab to vote)"
ANSWER = (
    '<div style="border:1px solid #999;border-radius:4px;padding:6px 10px;margin:0 6px 6px 0"><b>{}</b>'
    '<pre style="white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere;line-height:1.4;max-height:22em;overflow:auto;margin:4px 0 0">{}</pre></div>'
)


def ballot(run: Run) -> votes.Ballot:
    """The votes on a run's samples. They are in votes.jsonl of the run folder, which a new evaluation does not replace.

    Errors: RuntimeError if the evaluation is not complete.
    """
    run.require("evaluation", "evaluate first: notebook 04_evaluate_adapter")
    return votes.of_run(run, files.read_json_lines(run.folder / "evaluation" / "samples.jsonl"))


class VotePage(PlainTextBox):
    """One pair after the other; the result is shown when all have a vote, or on request."""

    def __init__(self, ballot: votes.Ballot, voter: str = ""):
        self.ballot, self.voter = ballot, voter
        self.pair: votes.Pair | None = None  # shown now; None when all have a vote
        self.last: votes.Pair | None = None  # shown before; “Back” shows it again
        self.place, self.prompt, self.result = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        half = {"width": "50%"}
        self.left, self.right = ipywidgets.HTML(layout=half), ipywidgets.HTML(layout=half)
        choices = {"left": "Left is better (1)", "tie": "Tie (2)", "right": "Right is better (3)"}
        self.buttons = {choice: button(text, partial(self.vote, choice), layout=AUTO) for choice, text in choices.items()}
        self.key = ipywidgets.Text(placeholder="click here, then press 1, 2 or 3", continuous_update=True, layout={"width": "19em"})
        self.key.observe(self._on_key, "value")
        self.back = button("Back", self._go_back, icon="undo", tooltip="vote on the last pair again", layout=AUTO)
        self.show_result = button("Show the result", self._show_result, layout=AUTO)
        self.sheet = ipywidgets.FileUpload(accept=".csv", description="Votes from a CSV sheet", layout=AUTO)
        self.sheet.observe(self._on_sheet, "value")
        row = ipywidgets.HBox([*self.buttons.values(), self.key, self.back], layout={"flex_flow": "row wrap"})
        answers, results = ipywidgets.HBox([self.left, self.right]), ipywidgets.HBox([self.show_result, self.sheet])
        super().__init__([self.place, self.prompt, answers, row, results, self.result], PLAIN)
        self._next()

    def vote(self, choice: str) -> None:
        """Store the vote on the shown pair, and show the next."""
        if self.pair is not None:
            self.ballot.vote(self.pair, choice, self.voter)
            self._next()

    def _next(self) -> None:
        self.last = self.pair
        self._show(next(iter(self.ballot.open_pairs(self.voter)), None))

    def _show(self, pair: votes.Pair | None) -> None:
        self.pair = pair
        for part in (*self.buttons.values(), self.key):
            part.disabled = pair is None
        self.back.disabled = self.last is None
        total = len(self.ballot.pairs)
        judged = f"<b>{total - len(self.ballot.open_pairs(self.voter))} of {total}</b> pairs have your vote"
        self.place.value = judged if total else "all pairs of answers are equal: nothing to vote on"
        self.prompt.value = ANSWER.format("prompt", html.escape(pair.prompt)) if pair else ""
        self.left.value = ANSWER.format("left", html.escape(pair.left)) if pair else ""
        self.right.value = ANSWER.format("right", html.escape(pair.right)) if pair else ""
        self.result.value = ""
        if total and pair is None:
            self._show_result()

    def _show_result(self) -> None:
        self.result.value = f"<b>All votes so far:</b> {html.escape(str(votes.preference(self.ballot.votes())))}"

    def _on_key(self, change: Any) -> None:
        typed = change["new"].strip().lower()[-1:]
        self.key.value = ""
        if typed in KEYS:
            self.vote(KEYS[typed])

    def _go_back(self) -> None:
        """Show the last pair again; a second vote on it replaces the first."""
        last, self.last = self.last, None
        self._show(last)

    def _on_sheet(self, change: Any) -> None:
        """Store the votes of the uploaded sheets; the voter is the name of the file."""
        for upload in change["new"]:
            try:
                new = self.ballot.take_sheet(bytes(upload["content"]).decode("utf-8-sig"), upload["name"])
            except (ValueError, UnicodeDecodeError) as error:
                self.result.value = f"{html.escape(upload['name'])}: {html.escape(str(error))}"
                return
            self._show_result()
            self.result.value = f"{html.escape(upload['name'])}: {new} new votes. {self.result.value}"
