"""The working copies of the notebooks in workbook/, which git ignores: what a person's corpus leaves in their outputs stays there.

The book in notebooks/ changes by `make book` alone. A copy that a person changed, or only ran, is never overwritten. It has none of the
book's outputs: next to a person's own they would look like results of that person's run.
"""

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import nbformat

from mistral_lib.run import files, paths

NOTE = ".copied.json"  # in workbook/: for each copy, the SHA-256 with which it was made


def refresh(fresh: bool = False) -> list[str]:
    """Copy the notebooks to workbook/: missing ones, and those whose copy nobody changed. Returns what to tell the person, as lines.

    fresh: copies that differ from the book are moved to workbook/previous/ first, so all of them are copied again.
    """
    lines = _set_aside() if fresh else []
    copied, kept = _noted(), []
    for source in _book():
        copy, content = paths.workbook() / source.name, without_outputs(source)
        newest, there = hashlib.sha256(content).hexdigest(), _hash(copy)
        if there in ("", newest, copied.get(source.name)):
            if there != newest:
                files.write_bytes(copy, content)
            copied[source.name] = newest
        elif copied.get(source.name) != newest:
            kept.append(source.name)
    files.write_json(paths.workbook() / NOTE, copied)
    return lines + ([_kept(kept)] if kept else [])


def _book() -> list[Path]:
    return sorted(paths.notebooks().glob("[0-9][0-9]_*.ipynb"))


def without_outputs(source: Path) -> bytes:
    """The notebook as JSON, as if nothing in it had been run."""
    notebook = nbformat.read(source, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return nbformat.writes(notebook).encode() + b"\n"


def _hash(path: Path) -> str:
    return files.sha256(path) if path.is_file() else ""


def _noted() -> dict[str, str]:
    """The note; empty if there is none or it cannot be read. Then only a copy that is equal to the book counts as unchanged."""
    try:
        return dict(files.read_json(paths.workbook() / NOTE))
    except (OSError, ValueError, TypeError):
        return {}


def _set_aside() -> list[str]:
    """Move the copies that differ from the book to workbook/previous/<time>/."""
    book = {source.name: hashlib.sha256(without_outputs(source)).hexdigest() for source in _book()}
    changed = [name for name, newest in book.items() if _hash(paths.workbook() / name) not in ("", newest)]
    if not changed:
        return []
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    places = (paths.workbook() / "previous" / f"{stamp}{suffix}" for suffix in ["", *(f"-{n}" for n in range(1, 1000))])
    place = next(place for place in places if not place.exists())
    place.mkdir(parents=True)
    for name in changed:
        os.replace(paths.workbook() / name, place / name)
    return [f"Your copies of {', '.join(changed)} are now in {paths.short(place)}/."]


def _kept(names: list[str]) -> str:
    return (
        f"Your copies of {', '.join(names)} in {paths.short(paths.workbook())}/ were kept, because you ran or changed them; the book has newer "
        f"versions. To move your copies to {paths.short(paths.workbook())}/previous/ and open the newer ones: python -m mistral_lib lab --fresh"
    )
