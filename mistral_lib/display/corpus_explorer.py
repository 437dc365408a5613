"""The corpus explorer: filter and search the rows of a corpus, see each as raw row, record and tokens, exclude records.

It opens at the first record. Secrets and personal data are removed from view, and the panels say so. Run headless it shows the number of rows and the first record as text. An exclusion is written at once to the run's
exclusion file (exclusions.py), which can also be edited by hand.
"""

import html
from collections.abc import Mapping
from typing import Any

import ipywidgets
import numpy as np
from ipywidgets import Dropdown, HBox, SelectionRangeSlider, Text

from mistral_lib.corpus import exclusions
from mistral_lib.corpus.records import Record, record_of
from mistral_lib.corpus.sources import SourceError
from mistral_lib.curation import checks
from mistral_lib.display import row_view
from mistral_lib.display.widget_base import BackgroundJob, PlainTextBox, button
from mistral_lib.formats.rows import Row
from mistral_lib.preparation.survey import corpus_index
from mistral_lib.preparation.survey.corpus_index import CHOICES, CorpusIndex, Entry

STEPS = (0, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)  # characters
HALF = {"layout": {"width": "48%"}, "continuous_update": False}
REMOVED = "secrets and personal data that the patterns find are removed from view"
PANEL = {"flex": "1 1 30%", "min_width": "16em", "height": "24em", "overflow": "auto", "border": "1px solid #888888", "padding": "0.4em"}


class CorpusExplorer(PlainTextBox):
    """`numbers` holds the rows that pass the filters, or a record and its near-duplicates; `place` is the one that is shown, from 1."""

    def __init__(self, index: CorpusIndex, tokenizer: Any):
        self.index, self.tokenizer, self.settings = index, tokenizer, index.settings
        self.checks = checks.Checks(self.settings)
        self.excluded_file = exclusions.place(self.settings)
        self.numbers, self.near_only, self.near_search = np.arange(len(index)), False, BackgroundJob[tuple[int, np.ndarray]]()
        self._build()
        super().__init__([self.filters, HBox([self.length, self.query]), self.moves, self.status, self.head, self.panels], self._plain())
        self._show()

    # -- the widgets -----------------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.choices = {name: Dropdown(options=self._options(name), description=name, layout={"width": "48%"}) for name in CHOICES}
        longest = int(self.index.characters.max(initial=0))
        steps = [*[(f"{step:,}", step) for step in STEPS if step < longest], (f"{longest:,}", longest)]
        self.length = SelectionRangeSlider(options=steps, index=(0, len(steps) - 1), description="characters", **HALF)
        self.query = Text(placeholder="text to search for, then Enter", description="search", **HALF)
        self.filters = HBox(list(self.choices.values()), layout={"flex_flow": "row wrap"})
        self.previous = button("previous", lambda: self.move(-1), icon="arrow-left")
        self.next = button("next", lambda: self.move(1), icon="arrow-right")
        first, most = self._first_record() + 1, max(1, len(self.numbers))
        self.place = ipywidgets.BoundedIntText(value=first, min=1, max=most, description="row", layout={"width": "12em"})
        self.exclude = button("exclude this record", self.toggle_exclusion, icon="ban", layout={"width": "14em"})
        self.near_duplicates = button("its near-duplicates", self.show_near_duplicates, icon="clone", layout={"width": "14em"})
        self.exclude_all = button("exclude all of these", self.exclude_these, icon="ban", layout={"width": "14em", "display": "none"})
        moves = [self.previous, self.place, self.next, self.exclude, self.near_duplicates, self.exclude_all]
        self.moves = HBox(moves, layout={"flex_flow": "row wrap"})
        self.status, self.head = ipywidgets.HTML(), ipywidgets.HTML()
        self.raw, self.record, self.tokens = (ipywidgets.HTML(layout=PANEL) for _ in range(3))
        self.panels = HBox([self.raw, self.record, self.tokens], layout={"flex_flow": "row wrap"})
        for control in (*self.choices.values(), self.length, self.query):
            control.observe(self._filter, "value")
        self.place.observe(self._show, "value")

    def _first_record(self) -> int:
        """The number of the first record; 0 if there is none."""
        return next(iter(self.index.select(problem="none").tolist()), 0)

    def _options(self, name: str) -> list[tuple[str, str]]:
        special = [("all rows", ""), ("records only", "none"), ("problems only", "any")]
        return [*(special if name == "problem" else [(f"every {name}", "")]), *((one, one) for one in self.index.choices(name))]

    # -- the actions -----------------------------------------------------------------------------------------------

    def move(self, steps: int) -> None:
        self.place.value = min(max(1, self.place.value + steps), self.place.max)

    def _filter(self, _: Any) -> None:
        """Show the rows that pass the filters and contain the query."""
        self.near_search.cancel()
        self.near_only, failure = False, None
        self.numbers = self.index.select(*self.length.value, **{name: control.value for name, control in self.choices.items()})
        if self.query.value:
            self.status.value = "searching …"
            try:
                self.numbers = self.index.search(self.numbers, row_view.contains(self.query.value))
            except (LookupError, SourceError) as error:
                self.numbers, failure = self.numbers[:0], error
        self._show_first()
        if failure:
            self._show_error(failure)

    def _show_first(self) -> None:
        self.place.value, self.place.max = 1, max(1, len(self.numbers))
        self._show()

    def show_near_duplicates(self) -> None:
        """Search the near-duplicates of the shown record in the background; then only these are shown, until a filter is changed."""
        entry = self._entry()
        if entry is None or not entry.record_id:
            return
        self.status.value = "searching near-duplicates …"
        self.near_search.start(corpus_index.near_copies(self.index, entry.number), self._show_near, self._show_error, pause=0)

    def _show_near(self, found: tuple[int, np.ndarray]) -> None:
        """found: (rows searched so far, numbers of the record and of its near-duplicates)."""
        searched, numbers = found
        if searched < len(self.index):
            self.status.value = f"searching near-duplicates: {len(numbers) - 1:,} in {searched:,} of {len(self.index):,} rows …"
            return
        if len(numbers) == 1:
            threshold = self.settings.near_duplicate_threshold
            self.status.value = (
                f"no near-duplicates of this record: no other has a prompt and an answer with a similarity of {threshold:g} or more"
            )
            return
        self.numbers, self.near_only = numbers, True
        self._show_first()

    def _show_error(self, error: Exception) -> None:
        self.status.value = html.escape(str(error))

    def exclude_these(self) -> None:
        """Add the record and its near-duplicates to the exclusion file."""
        found = [self.index.entry(number) for number in self.numbers.tolist()]
        exclusions.write(self.excluded_file, {**{one.record_id: one.source for one in found}, **self._excluded()})
        self._show()

    def toggle_exclusion(self) -> None:
        """Add the shown record to the exclusion file, or remove it, whether it is listed by its id or by its source."""
        entries, entry = self._excluded(), self._entry()
        if entry is None or not entry.record_id:
            return
        if named := named_in(entries, entry):
            entries = {name: note for name, note in entries.items() if name not in named}
        else:
            entries[entry.record_id] = entry.source
        exclusions.write(self.excluded_file, entries)
        self._show()

    def _excluded(self) -> dict[str, str]:
        return exclusions.read(self.excluded_file) if self.excluded_file.exists() else {}

    # -- the panels ------------------------------------------------------------------------------------------------

    def _entry(self) -> Entry | None:
        return self.index.entry(int(self.numbers[self.place.value - 1])) if len(self.numbers) else None

    def _show(self, _: Any = None) -> None:
        entry, excluded = self._entry(), self._excluded()
        what, back = f"{len(self.numbers):,} of {len(self.index):,} rows", ""
        if self.near_only:
            what, back = f"a record and its {len(self.numbers) - 1:,} near-duplicates", " (change a filter to see the other rows again)"
        self.status.value = f"{what}; {len(excluded):,} excluded by hand{back}"
        self.exclude_all.layout.display = "" if self.near_only and len(self.numbers) > 1 else "none"
        self.previous.disabled, self.next.disabled = self.place.value <= 1, self.place.value >= len(self.numbers)
        out = entry is not None and bool(named_in(excluded, entry))
        self.exclude.description = "include it again" if out else "exclude this record"
        row, problem = None, "no row passes the filters"
        try:
            row = self.index.row(entry.number) if entry else None
        except (LookupError, SourceError) as error:
            problem = str(error)
        # a row that cannot be shown is not excluded
        self.exclude.disabled = self.near_duplicates.disabled = row is None or not entry.record_id
        self.panels.layout.display = "none" if row is None else ""
        if row is None:
            self.head.value, self.raw.value, self.record.value, self.tokens.value = html.escape(problem), "", "", ""
            return
        self.head.value = f"<b>{html.escape(headline(entry))}</b>" + (" — <b>excluded</b>" if out else "")
        self.raw.value = f"<b>as a raw row</b> ({REMOVED})" + row_view.preformatted(row_view.raw_row(row, row_view.searched(self.settings)))
        self._show_record(row, entry)

    def _show_record(self, row: Row, entry: Entry) -> None:
        if entry.problem:
            self.record.value, self.tokens.value = f"<b>no record:</b> {html.escape(entry.problem)}", "<b>no tokens:</b> it is no record"
            return
        found, outcome = self._checked(row)
        remarks, in_view = row_view.remarks(outcome), row_view.redacted(found, row_view.searched(self.settings))
        remarks += "" if in_view == found else "; secrets and personal data that stay in it are removed from view"
        self.record.value = f"<b>as a record</b> ({html.escape(remarks)})" + row_view.preformatted(row_view.record(in_view))
        count, colored = row_view.tokens(self.tokenizer, in_view)
        self.tokens.value = f"<b>as tokens</b> ({html.escape(count)}: green)" + colored

    def _checked(self, row: Row) -> tuple[Record, checks.Outcome]:
        """The record as training would read it, or as it was mapped if the checks reject it; and what the checks do to it."""
        mapped = record_of(row, self.settings)
        outcome = self.checks.inspect(mapped.texts)
        return mapped if outcome.texts is None else mapped.with_texts(outcome.texts), outcome

    def _plain(self) -> str:
        first = self.index.entry(self._first_record()) if len(self.index) else None
        if first is None or first.problem:
            return f"{len(self.index):,} rows to explore; none of them is a record"
        found, _ = self._checked(self.index.row(first.number))
        record = row_view.record(row_view.redacted(found, row_view.searched(self.settings)), 300)
        return f"{len(self.index):,} rows to explore; the first record:\n{headline(first)}\n{record}"


def named_in(excluded: Mapping[str, str], entry: Entry) -> set[str]:
    """The names under which the exclusion file lists a row: its record's id, its source, both or none."""
    return {entry.record_id, entry.source} & excluded.keys()


def headline(entry: Entry) -> str:
    """`red.jsonl:7 · red · shape messages, 812 characters, record_id 3f…`, or the problem of a row that is no record."""
    facts = f"shape {entry.shape}, {entry.characters:,} characters, record_id {entry.record_id}"
    parts = (entry.source, entry.domain, facts if entry.record_id else f"problem: {entry.problem}")
    return " · ".join(filter(None, parts))
