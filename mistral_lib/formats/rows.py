"""One row of a file as it was read, and the options of reading. Knows nothing of formats, files or records."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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
    # lines or items that the file has for it: 0 for the second object of a line; with a problem, all that are lost with it
    lines: int = field(default=1, compare=False)
    encoding: str = field(default="", compare=False)  # of its file, if it is not UTF-8
    left_out: Mapping[str, int] = field(default_factory=dict, compare=False)  # what was passed over since the row before, by kind

    @property
    def records(self) -> int:
        """For how many rows it stands: more than one only if there is a problem."""
        return max(1, self.lines)

    def after(self, left_out: Mapping[str, int]) -> "Row":
        """The row, with more that was passed over."""
        if not left_out:
            return self
        both = {kind: left_out.get(kind, 0) + self.left_out.get(kind, 0) for kind in {**left_out, **self.left_out}}
        return replace(self, left_out=both)


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read."""

    salvage: bool = False  # separate glued objects instead of refusing their line
    pdf_characters: int = 0  # characters per record of a PDF: pages are joined up to it, or split; 0: one record a page
    limits: Limits = LIMITS
    ocr: bool = False  # read the text in scanned pages and pictures
