"""One row of a file as it was read, and how it is to be read. Knows nothing of formats, files or records."""

from dataclasses import dataclass, field
from typing import Any

from mistral_lib.corpus.streams import LIMITS, Limits

LONGEST_TEXT = 20_000  # characters of a row that could not be understood that are kept to be shown


@dataclass(frozen=True, slots=True)
class Row:
    source: str  # file:line, file:line.part, archive!member:line, archive!member#page
    value: Any  # the parsed row; None where there is a problem
    problem: str | None = None  # why this row could not be read: a reason code
    note: str = ""  # salvaged, …: what was done to read it; beside a problem: which lines or rows, which kind of fault
    text: str = field(default="", compare=False, repr=False)  # beside a problem: how it begins, for eyes; it may hold a secret


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read."""

    salvage: bool = False  # take glued objects apart, instead of refusing their line
    pdf_characters: int = 0  # characters per record of a PDF: pages are joined up to it, or split; 0: one record a page
    limits: Limits = LIMITS
