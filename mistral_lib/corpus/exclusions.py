"""Records that a person excluded: a text file of record ids or sources, which the data stage leaves out.

A line is a record id (16 hexadecimal digits, as in the ledger) or a source (`file.jsonl:12`), and optionally a note after two blanks
and a `#`. An id excludes every copy of that text, a source only one row. The corpus explorer writes the file, or any editor.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_lib.run import files, paths

REASON = "excluded_by_hand"
NAME = "excluded.txt"
HEADER = "# Left out of the data stage: a record id (every copy of that text) or a source (one row) a line."


class ExclusionError(ValueError):
    """An exclusion file that was named and cannot be used."""


@dataclass(frozen=True, slots=True)
class Exclusions:
    entries: frozenset[str] = frozenset()  # record ids and sources

    def entry(self, *forms: Any) -> str:
        """The entry that names a record, "" for none. forms: the record as it was read and after the checks; None is skipped."""
        if not self.entries:
            return ""
        names = (name for record in forms if record is not None for name in (record.source, record.record_id))
        return next((name for name in names if name in self.entries), "")

    def unmatched(self, report: Mapping[str, Any]) -> list[str]:
        """Entries that excluded nothing: misspelled, or the corpus has changed since. report: data/report.json."""
        return sorted(self.entries - set(report["excluded"]))


def place(settings: Any) -> Path:
    """The exclusion file of a run: the one that its parameters name, or excluded.txt in its folder."""
    if settings.exclude_file:
        return paths.home() / Path(settings.exclude_file).expanduser()
    return paths.runs() / settings.run_name / NAME


def load(settings: Any) -> Exclusions:
    """The exclusions of a run; empty if no file is named and none was written. Errors: ExclusionError."""
    path = place(settings)
    if settings.exclude_file and not path.exists():
        raise ExclusionError(
            f"exclude_file = {settings.exclude_file!r}: no such file (relative paths start at the workbook's folder); "
            "correct the path, or leave it empty to use what notebook 01 wrote into the run folder"
        )
    return Exclusions(frozenset(read(path) if path.exists() else ()))


def read(path: Path) -> dict[str, str]:
    """`{entry: note}` in the order of the file. Errors: ExclusionError if the file is not text."""
    return {entry: note for entry, note in map(_parsed, _lines(path)) if entry}


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ExclusionError(
            f"{paths.short(path)}: cannot be read as text ({type(error).__name__}); expected a record id or a source a line"
        ) from None


def _parsed(line: str) -> tuple[str, str]:
    """Entry and note of a line; both empty for a comment or a blank line."""
    entry, _, note = ("" if line.lstrip().startswith("#") else line).partition("  #")
    return entry.strip(), note.strip()


def write(path: Path, entries: Mapping[str, str]) -> None:
    """Write these entries, atomically: comments and lines of entries that remain are kept, others are removed, new ones come last.

    Errors: ExclusionError if the file is not text.
    """
    there = _lines(path) if path.exists() else [HEADER]
    kept = [line for line in there if not (entry := _parsed(line)[0]) or entry in entries]
    present = {_parsed(line)[0] for line in kept}
    new = [f"{entry}  # {note}" if note else entry for entry, note in entries.items() if entry not in present]
    files.write_text(path, "\n".join([*kept, *new]) + "\n")


def inputs(settings: Any) -> dict[str, str]:
    """What the data stage depends on: a hash of the entries, not of notes or order; empty if nothing is excluded."""
    entries = load(settings).entries
    return {"exclusions": files.digest(sorted(entries))} if entries else {}
