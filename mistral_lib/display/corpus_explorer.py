"""The corpus explorer: filter and search the rows of a corpus, see each beside its record and its tokens, exclude records.

Headless it is the plain description of what could be explored, with the first record. What is excluded is written to the
run's exclusion file at once (exclusions.py), and can be written there by hand as well.
"""

import html
from collections.abc import Mapping
from typing import Any

import ipywidgets
import numpy as np
from ipywidgets import Button, Dropdown, HBox, SelectionRangeSlider, Text

from mistral_lib.corpus import exclusions
from mistral_lib.corpus.records import Record, record_of
from mistral_lib.corpus.sources import Row, SourceError
from mistral_lib.curation import checks
from mistral_lib.display import row_view
from mistral_lib.display.widget_base import LatestJob, PlainTextBox
from mistral_lib.preparation import corpus_index
from mistral_lib.preparation.corpus_index import CHOICES, CorpusIndex, Entry

STEPS = (0, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)  # characters
PANEL = {"flex": "1 1 30%", "min_width": "16em", "height": "24em", "overflow": "auto", "border": "1px solid #888888", "padding": "0.4em"}


class CorpusExplorer(PlainTextBox):
    """`numbers` holds the rows that the filters leave, or a record with its near-duplicates, `place` which of them is shown, from 1."""

    def __init__(self, index: CorpusIndex, tokenizer: Any):
        self.index, self.tokenizer, self.settings = index, tokenizer, index.settings
        self.checks = checks.Checks(self.settings)
        self.excluded_file = exclusions.place(self.settings)
        self.numbers, self.together, self.looking = np.arange(len(index)), False, LatestJob[tuple[int, np.ndarray]]()
        self._build()
        super().__init__([self.filters, HBox([self.length, self.query]), self.moves, self.status, self.head, self.panels], self._plain())
        self._show()

    # -- what it is made of ----------------------------------------------------------------------------------------

    def _build(self) -> None:
        self.choices = {name: Dropdown(options=self._options(name), description=name, layout={"width": "48%"}) for name in CHOICES}
        longest = int(self.index.characters.max(initial=0))
        steps = [*[(f"{step:,}", step) for step in STEPS if step < longest], (f"{longest:,}", longest)]
        self.length = SelectionRangeSlider(
            options=steps, index=(0, len(steps) - 1), description="characters", continuous_update=False, layout={"width": "48%"}
        )
        self.query = Text(
            placeholder="text to search for, then Enter", description="search", continuous_update=False, layout={"width": "48%"}
        )
        self.filters = HBox(list(self.choices.values()), layout={"flex_flow": "row wrap"})
        self.previous, self.next = Button(description="previous", icon="arrow-left"), Button(description="next", icon="arrow-right")
        self.place = ipywidgets.BoundedIntText(value=1, min=1, max=max(1, len(self.numbers)), description="row", layout={"width": "12em"})
        self.exclude = Button(description="exclude this record", icon="ban", layout={"width": "14em"})
        self.alike = Button(description="its near-duplicates", icon="clone", layout={"width": "14em"})
        self.exclude_all = Button(description="exclude all of these", icon="ban", layout={"width": "14em", "display": "none"})
        moves = [self.previous, self.place, self.next, self.exclude, self.alike, self.exclude_all]
        self.moves = HBox(moves, layout={"flex_flow": "row wrap"})
        self.status, self.head = ipywidgets.HTML(), ipywidgets.HTML()
        self.raw, self.record, self.tokens = (ipywidgets.HTML(layout=PANEL) for _ in range(3))
        self.panels = HBox([self.raw, self.record, self.tokens], layout={"flex_flow": "row wrap"})
        self._connect()

    def _options(self, name: str) -> list[tuple[str, str]]:
        special = [("all rows", ""), ("records only", "none"), ("problems only", "any")]
        return [*(special if name == "problem" else [(f"every {name}", "")]), *((one, one) for one in self.index.choices(name))]

    def _connect(self) -> None:
        for control in (*self.choices.values(), self.length, self.query):
            control.observe(self._filter, "value")
        self.place.observe(self._show, "value")
        self.previous.on_click(lambda _: self.move(-1))
        self.next.on_click(lambda _: self.move(1))
        self.exclude.on_click(lambda _: self.toggle_exclusion())
        self.alike.on_click(lambda _: self.show_alike())
        self.exclude_all.on_click(lambda _: self.exclude_these())

    # -- what can be done ------------------------------------------------------------------------------------------

    def move(self, steps: int) -> None:
        self.place.value = min(max(1, self.place.value + steps), self.place.max)

    def _filter(self, _: Any = None) -> None:
        shortest, longest = self.length.value
        self.looking.cancel()
        self.together = False
        self.numbers = self.index.select(shortest, longest, **{name: control.value for name, control in self.choices.items()})
        if self.query.value:
            self._search()
        else:
            self._from_the_first()

    def _search(self) -> None:
        """Of the rows that the filters leave those in which the query stands."""
        self.status.value, asked, self.numbers = "searching …", self.numbers, self.numbers[:0]
        try:
            self.numbers = self.index.search(asked, row_view.finder(self.query.value))
        except (LookupError, SourceError) as error:
            self._from_the_first()
            self._show_fault(error)
        else:
            self._from_the_first()

    def _from_the_first(self) -> None:
        self.place.value, self.place.max = 1, max(1, len(self.numbers))
        self._show()

    def show_alike(self) -> None:
        """Look for the near-duplicates of the shown record, beside the page; then step through these alone, until a filter is changed."""
        entry = self._entry()
        if entry is None or not entry.record_id:
            return
        self.status.value = "looking for near-duplicates …"
        self.looking.start(corpus_index.near_copies(self.index, entry.number), self._show_found, self._show_fault, pause=0)

    def _show_found(self, found: tuple[int, np.ndarray]) -> None:
        looked_at, numbers = found
        if looked_at < len(self.index):
            self.status.value = f"looking for near-duplicates: {len(numbers) - 1:,} in {looked_at:,} of {len(self.index):,} rows …"
            return
        if len(numbers) == 1:
            self.status.value = (
                f"no near-duplicates of this record: no answer reaches {self.settings.near_duplicate_threshold:g} with its own"
            )
            return
        self.numbers, self.together = numbers, True
        self._from_the_first()

    def _show_fault(self, error: Exception) -> None:
        self.status.value = html.escape(str(error))

    def exclude_these(self) -> None:
        """Write the record and its near-duplicates into the exclusion file."""
        found = [self.index.entry(number) for number in self.numbers.tolist()]
        exclusions.write(self.excluded_file, {**{one.record_id: one.source for one in found}, **self._excluded()})
        self._show()

    def toggle_exclusion(self) -> None:
        """Write the shown record into the exclusion file, or take it out of it, by whichever name it stands there."""
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

    # -- what is shown ---------------------------------------------------------------------------------------------

    def _entry(self) -> Entry | None:
        return self.index.entry(int(self.numbers[self.place.value - 1])) if len(self.numbers) else None

    def _show(self, _: Any = None) -> None:
        entry, excluded = self._entry(), self._excluded()
        what = (
            f"a record and its {len(self.numbers) - 1:,} near-duplicates"
            if self.together
            else f"{len(self.numbers):,} of {len(self.index):,} rows"
        )
        back = " (change a filter to see the others again)" if self.together else ""
        self.status.value = f"{what}; {len(excluded):,} excluded by hand{back}"
        self.exclude_all.layout.display = "" if self.together and len(self.numbers) > 1 else "none"
        self.previous.disabled, self.next.disabled = self.place.value <= 1, self.place.value >= len(self.numbers)
        self.exclude.disabled = self.alike.disabled = entry is None or not entry.record_id
        out = entry is not None and bool(named_in(excluded, entry))
        self.exclude.description = "take it in again" if out else "exclude this record"
        if entry is None:
            self.head.value, self.raw.value, self.record.value, self.tokens.value = "no row is left: loosen a filter", "", "", ""
            return
        try:
            row = self.index.row(entry.number)
        except (LookupError, SourceError) as error:
            self.head.value, self.raw.value, self.record.value, self.tokens.value = html.escape(str(error)), "", "", ""
            self.exclude.disabled = self.alike.disabled = True  # nobody excludes what cannot be seen
            return
        self.head.value = f"<b>{html.escape(headline(entry))}</b>" + (" — <b>excluded</b>" if out else "")
        self.raw.value = "<b>as it stands in its file</b>" + row_view.preformatted(row_view.raw_row(row))
        self._show_record(row, entry)

    def _show_record(self, row: Row, entry: Entry) -> None:
        if entry.problem:
            self.record.value, self.tokens.value = f"<b>no record:</b> {html.escape(entry.problem)}", ""
            return
        found, outcome = self._checked(row)
        self.record.value = f"<b>as a record</b> ({html.escape(row_view.remarks(outcome))})" + row_view.preformatted(row_view.record(found))
        count, coloured = row_view.tokens(self.tokenizer, found)
        self.tokens.value = f"<b>as tokens</b> ({html.escape(count)}: green)" + coloured

    def _checked(self, row: Row) -> tuple[Record, checks.Outcome]:
        """The record as training would see it; one that the checks reject, as it was mapped."""
        mapped = record_of(row, self.settings)
        outcome = self.checks.inspect(mapped.texts)
        return mapped if outcome.texts is None else mapped.with_texts(outcome.texts), outcome

    def _plain(self) -> str:
        records = self.index.select(problem="none")
        if not len(records):
            return f"{len(self.index):,} rows to explore, none of them a record"
        first = self.index.entry(int(records[0]))
        found, _ = self._checked(self.index.row(first.number))
        return f"{len(self.index):,} rows to explore; the first record:\n{headline(first)}\n{row_view.record(found, 300)}"


def named_in(excluded: Mapping[str, str], entry: Entry) -> set[str]:
    """The names by which a row stands in the exclusion file: its record's id, its source, both or none."""
    return {entry.record_id, entry.source} & excluded.keys()


def headline(entry: Entry) -> str:
    came = (
        f"came as {entry.shape}, {entry.characters:,} characters, record_id {entry.record_id}"
        if entry.record_id
        else f"problem: {entry.problem}"
    )
    return " · ".join(part for part in (entry.source, entry.domain, came) if part)
