"""The sections of a corpus of one or two texts: a row each, because a book that is one record could not be in training and held out."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from mistral_lib.corpus.document_keys import PDF_KEY
from mistral_lib.formats.rows import Row

FEWEST_ROWS = 3  # readable rows: a corpus of fewer is divided into sections
SECTIONS = 20  # sections that the texts should have at least, if these are not too short for it
SHORTEST, LONGEST = 400, 2000  # characters of a section
BREAK = re.compile(r"\n[ \t]*\n\s*|\n(?=#{1,6} )")  # an empty line, or the line before a heading
FALLBACKS = (re.compile(r"\n"), re.compile(r"(?<=[.!?。！？])\s*"), re.compile(r"\s+"))  # for a paragraph longer than a section


def characters(texts: Iterable[str]) -> int:
    """Characters of a section for these texts."""
    return min(max(sum(map(len, texts)) // SECTIONS, SHORTEST), LONGEST)


def divided(rows: Iterable[Row], most: int) -> Iterator[Row]:
    """The sections of each row, `book.txt` → `book.txt#1`, …, all of one document; other rows as they are. most: characters of one."""
    for row in rows:
        texts = {key: text for key, text in row.value.items() if isinstance(text, str)} if isinstance(row.value, dict) else {}
        key = max(texts, key=lambda name: len(texts[name]), default=None)
        parts = list(sections(texts[key], most)) if key is not None else []
        if len(parts) < 2:
            yield row
            continue
        for number, part in enumerate(parts, 1):
            yield replace(row, source=f"{row.source}#{number}", value={PDF_KEY: row.source, **row.value, key: part})


def sections(text: str, most: int) -> Iterator[str]:
    """Consecutive parts of at most `most` characters, which end at the end of a paragraph, line, sentence or word if possible."""
    joined = ""
    for piece in _pieces(text, most, (BREAK, *FALLBACKS)):
        if joined.strip() and (len(joined) + len(piece) > most or (piece.startswith("#") and len(joined) > most // 2)):
            yield joined.strip()
            joined = ""
        joined += piece
    if joined.strip():
        yield joined.strip()


def _pieces(text: str, most: int, breaks: tuple[re.Pattern[str], ...]) -> Iterator[str]:
    """The text cut at every break, with what follows each break; a piece that is too long is cut at the next kind of break."""
    if not breaks:
        yield from (text[start : start + most] for start in range(0, len(text), most))
        return
    start = 0
    for end in [*(found.end() for found in breaks[0].finditer(text)), len(text)]:
        piece = text[start:end]
        yield from [piece] if len(piece) <= most else _pieces(piece, most, breaks[1:])
        start = end
