"""A quick preview of what a run would read: at once the files, bytes and first rows; the count of all rows in the background."""

import html
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mistral_lib.corpus import sources
from mistral_lib.corpus.records import UnmappableError, record_of, record_or_reason
from mistral_lib.run import files
from mistral_lib.run.settings import Settings

SHOWN = 8  # files of an outcome that are named at once; the others are folded below them
MOST_READ = 200  # files whose first row is read
NO_RECORD = "no record"
LONGEST_COUNT = 30.0  # seconds after which counting stops
REPORT_EVERY = 0.5  # seconds between two reported counts


@dataclass(frozen=True)
class Line:
    """A line of the preview, and the names of the files that it is about."""

    text: str
    names: Sequence[str] = ()

    def plain(self) -> str:
        return f"{self.text}: {', '.join(self.names)}" if self.names else self.text

    def html(self) -> str:
        """The line; of many files, those beyond the first ones are folded: a click shows them."""
        text, folded = html.escape(Line(self.text, self.names[:SHOWN]).plain()), self.names[SHOWN:]
        if not folded:
            return text
        rest = html.escape(", ".join(folded))
        return f"{text} <details><summary>and {len(folded):,} more</summary>{rest}</details>"


def preview(settings: Settings) -> tuple[list[sources.SourceFile], list[Line]]:
    """The files of a run, and lines that describe them. No files if a source is missing or cannot be read; the lines then say which."""
    by_first_row: dict[str, list[str]] = {}
    try:
        found = sources.resolve(settings)
        for file in found.files[:MOST_READ]:
            by_first_row.setdefault(first_row(file, settings), []).append(file.name)
    except sources.SourceError as error:
        return [], [Line(line) for line in str(error).splitlines()]
    size, unread = files.size_text(sum(file.size for file in found.files)), found.files[MOST_READ:]
    lines = [Line(f"{len(found.files):,} files, {size}; how the first row of each is read:")]
    ordered = sorted(by_first_row.items(), key=lambda one: (not one[0].startswith(NO_RECORD), -len(one[1])))  # first what needs a decision
    lines += [Line(outcome, names) for outcome, names in ordered]
    lines += [Line(f"{len(unread):,} files whose first row is not read here", [file.name for file in unread])] if unread else []
    passed = ", ".join(f"{count:,} {kind}" for kind, count in sorted(found.left_out.items()))
    lines += [Line(f"left out: {passed}")] if passed else []
    return found.files, lines + [Line(line) for line in found.absent]


def first_row(file: sources.SourceFile, settings: Settings) -> str:
    """The shape of the first row of a file, or why it is no record. Errors: SourceError."""
    row = next(sources.rows_of(file, settings))
    try:
        return record_of(row, settings).shape
    except UnmappableError as problem:
        return f"{NO_RECORD} ({problem}{_hint(str(problem), row.value)})"


def _hint(problem: str, value: Any) -> str:
    """For a row of unknown shape: its keys, and the parameter that assigns them, ready to be completed."""
    if problem != "unknown_shape" or not isinstance(value, dict):
        return ""
    keys = ", ".join(map(str, value))
    return f', its keys: {keys}; assign them in the parameters cell: columns = {{"prompt": "…", "answer": "…"}} or {{"text": "…"}}'


def count_rows(found: list[sources.SourceFile], settings: Settings) -> Iterator[str]:
    """The number of rows as text, reported while it is counted; after LONGEST_COUNT seconds a lower bound."""
    started = reported = time.monotonic()
    rows = no_record = 0
    reading = repr({name: value for name, value in settings.stage("corpus").items() if not name.endswith("_paths")})
    for number, file in enumerate(found):
        version = file.place, file.version, reading
        if version not in _counts:
            here, without = 0, 0
            for row in sources.rows_of(file, settings):
                here, without = here + 1, without + (record_or_reason(row, settings)[0] is None)
                now = time.monotonic()
                if now - reported > REPORT_EVERY:
                    reported = now
                    yield f"counting rows: {rows + here:,} in {number + 1:,} of {len(found):,} files …"
                if now - started > LONGEST_COUNT:
                    yield f"at least {rows + here:,} rows; notebook 01 counts them all"
                    return
            _counts[version] = here, without
        rows, no_record = rows + _counts[version][0], no_record + _counts[version][1]
    yield f"{rows:,} rows" + (f", {no_record:,} of them are no record: notebook 01 lists them with the reason" if no_record else "")


_counts: dict[Any, tuple[int, int]] = {}  # by file version and settings: (rows, rows that are no record)
