"""A quick look at what a run would read: files, bytes, the shape of each first row at once; rows while one goes on."""

import time
from collections.abc import Iterator
from typing import Any

from mistral_lib.corpus import sources
from mistral_lib.corpus.records import Unmappable, record_of
from mistral_lib.run.settings import Settings

SHOWN = 8  # files of a kind that are named
LOOKED_AT = 200  # files of which the first row is read
NO_RECORD = "no record"
PATIENCE = 30.0  # seconds of counting, then the count is a lowest one
TELL = 0.5  # seconds between two counts that are told


def what_is_found(settings: Settings) -> tuple[list[sources.SourceFile], list[str]]:
    """The files of a run, none if something it needs is missing or cannot be read, and in words what is there."""
    by_first_row: dict[str, list[str]] = {}
    try:
        found = sources.resolve(settings)
        for file in found.files[:LOOKED_AT]:
            by_first_row.setdefault(first_row(file, settings), []).append(file.name)
    except sources.SourceError as error:
        return [], str(error).splitlines()
    lines = [f"{len(found.files):,} files, {mib(found.files):,.2f} MiB; how the first row of each would be understood:"]
    ordered = sorted(by_first_row.items(), key=lambda one: (not one[0].startswith(NO_RECORD), -len(one[1])))  # what needs a decision first
    lines += [f"{outcome}: {_named(names)}" for outcome, names in ordered]
    lines += [f"not looked at: {len(found.files) - LOOKED_AT:,} more files"] if len(found.files) > LOOKED_AT else []
    return found.files, lines + [str(absent) for absent in found.absent]


def mib(files: list[sources.SourceFile]) -> float:
    return sum(file.size for file in files) / 2**20


def _named(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def first_row(file: sources.SourceFile, settings: Settings) -> str:
    """How the first row of a file would be understood: its shape, or why it is no record. Errors: SourceError."""
    row = next(sources.rows_of(file, settings))
    try:
        return record_of(row, settings).shape
    except Unmappable as problem:
        return f"{NO_RECORD} ({problem}{_way_out(str(problem), row.value)})"


def _way_out(problem: str, value: Any) -> str:
    """What helps where the shape alone is not known: the parameter that says which key is what, ready to be completed."""
    if problem != "unknown_shape" or not isinstance(value, dict):
        return ""
    keys = ", ".join(map(str, value))
    return f', its keys: {keys}; say which is what in the parameters cell: columns = {{"prompt": "…", "answer": "…"}} or {{"text": "…"}}'


def counted(files: list[sources.SourceFile], settings: Settings) -> Iterator[str]:
    """The count of rows in words, again and again while it goes on; after PATIENCE seconds a lowest one."""
    started = told = time.monotonic()
    rows = problems = 0
    for number, file in enumerate(files):
        known = _counts.get(_version(file, settings))
        if known is None:
            here, odd = 0, 0
            for row in sources.rows_of(file, settings):
                here, odd = here + 1, odd + (row.problem is not None)
                now = time.monotonic()
                if now - told > TELL:
                    told = now
                    yield f"counting rows: {rows + here:,} in {number + 1:,} of {len(files):,} files …"
                if now - started > PATIENCE:
                    yield f"at least {rows + here:,} rows; notebook 01 counts them all"
                    return
            known = _counts[_version(file, settings)] = here, odd
        rows, problems = rows + known[0], problems + known[1]
    yield f"{rows:,} rows" + (f", {problems:,} of them cannot be read: notebook 01 says which and why" if problems else "")


_counts: dict[Any, tuple[int, int]] = {}  # of a file that has not changed since: rows, and those that cannot be read


def _version(file: sources.SourceFile, settings: Settings) -> tuple[Any, ...]:
    return file.place, file.version, settings.salvage, settings.pdf_characters
