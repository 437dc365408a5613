"""One row of a file as it was read, and the options of reading. Knows nothing of formats, files or records."""

from dataclasses import dataclass, field
from typing import Any

from mistral_lib.formats.streams import LIMITS, Limits

LONGEST_TEXT = 20_000  # characters that are kept of a row with a problem, to show it


@dataclass(frozen=True, slots=True)
class Row:
    source: str  # file:line, file:line.part, archive!member:line, archive!member#page
    value: Any  # the parsed row; None if there is a problem
    problem: str | None = None  # a reason code if the row could not be read
    note: str = ""  # what was done to read it (salvaged, …); with a problem: the lines or rows, or the type of the error
    text: str = field(default="", compare=False, repr=False)  # with a problem: how the row begins, to show it; may contain a secret


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read."""

    salvage: bool = False  # separate glued objects instead of refusing their line
    pdf_characters: int = 0  # characters per record of a PDF: pages are joined up to it, or split; 0: one record a page
    limits: Limits = LIMITS
