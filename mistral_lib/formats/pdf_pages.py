"""The text of one page of a PDF, in reading order: rotated pages upright, columns one after another, words divided at line ends whole,
filled form fields after the text. Lines that stand at the top or bottom of most pages are found, to be left out."""

import ctypes
import io
import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pypdfium2
from pypdfium2 import raw

HYPHEN = "\ufffe"  # pdfium's sign for a hyphen at the end of a line, and for a glyph without a letter
UNKNOWN = "\ufffd"
SAMPLED = 50  # pages in which running heads are searched
REPEATS = 3  # pages that have a line before it can be a running head
NARROW = 0.6  # of the page's width: a line of a column
LINES_OF_A_COLUMN, CHARACTERS_OF_A_LINE, GAP = 4, 14, 8  # fewest; the gap between columns in points
FIELD_LENGTH = 20_000  # bytes of a form field
DOTS_PER_INCH = 300  # of a page that OCR reads


@dataclass(frozen=True, slots=True)
class Page:
    number: int
    text: str | None  # None for a page that cannot be read
    unmapped: int = 0  # glyphs of which the file does not say the letter

    @property
    def is_garbage(self) -> bool:
        return self.unmapped > 0.1 * max(1, len(self.text or ""))


def page_of(document: pypdfium2.PdfDocument, index: int) -> Page:
    try:
        page = document[index]
        if page.get_rotation():  # pdfium takes lines of a rotated page for columns
            page.set_rotation(0)
            page.close()
            page = document[index]
        text, unmapped = _text(page)
        fields = _fields(page)
        page.close()
    except pypdfium2.PdfiumError:
        return Page(index + 1, None)
    return Page(index + 1, "\n".join(part for part in (text, *fields) if part).strip(), unmapped)


def _text(page: Any) -> tuple[str, int]:
    textpage = page.get_textpage()
    rects = [textpage.get_rect(number) for number in range(textpage.count_rects())]
    width, height = page.get_size()
    inside = [rect for rect in rects if rect[2] > 0 and rect[0] < width and rect[3] > 0 and rect[1] < height]
    if order := _columns(textpage, inside, width):
        text = "\n".join(textpage.get_text_bounded(*rect).replace("\x02", HYPHEN).strip() for rect in order)
        text = text.replace(HYPHEN + "\n", "")
    elif len(inside) < len(rects):
        text = textpage.get_text_bounded().replace("\x02", "")
    else:
        text = textpage.get_text_range()
    text, unmapped = _without_hyphens(textpage, text.replace("\r\n", "\n"))
    return text.strip(), unmapped


def _without_hyphens(textpage: Any, text: str) -> tuple[str, int]:
    """Words that were divided at the end of a line are whole; glyphs without a letter are marked and counted."""
    if HYPHEN not in text:
        return text, text.count(UNKNOWN)
    count = textpage.count_chars()
    unmapped = sum(raw.FPDFText_GetUnicode(textpage, index) == 0 for index in range(count))
    if not unmapped:
        return text.replace(HYPHEN, ""), 0
    signs = (index for index in range(count) if raw.FPDFText_GetUnicode(textpage, index) in (0, 0xFFFE, 2))
    marks = [UNKNOWN if raw.FPDFText_GetUnicode(textpage, index) == 0 else "" for index in signs]
    parts = text.split(HYPHEN)
    marks += [UNKNOWN] * (len(parts) - 1 - len(marks))
    return "".join(part + mark for part, mark in zip(parts, [*marks[: len(parts) - 1], ""], strict=True)), unmapped


def _columns(textpage: Any, rects: list[tuple], width: float) -> list[tuple] | None:
    """The lines of two columns that the file has row by row, in reading order; None for any other page."""
    narrow = sorted((rect for rect in rects if rect[2] - rect[0] < NARROW * width), key=lambda rect: rect[0])
    if len(narrow) < 2 * LINES_OF_A_COLUMN or any(rect[3] - rect[1] > rect[2] - rect[0] for rect in narrow):
        return None
    end, gutter = narrow[0][2], 0.0
    for left, _, right, _ in narrow:
        if left - end > GAP and not gutter:
            gutter = (left + end) / 2
        end = max(end, right)
    side = [rect[0] > gutter for rect in rects if rect in narrow]
    if not gutter or min(sum(side), len(side) - sum(side)) < LINES_OF_A_COLUMN:
        return None
    changes = sum(one != two for one, two in pairwise(side))
    crossing = [rect for rect in rects if rect[0] < gutter < rect[2]]
    characters = sum(len(textpage.get_text_bounded(*rect)) for rect in narrow)
    if changes < len(side) / 2 or characters < CHARACTERS_OF_A_LINE * len(narrow):
        return None  # in order already, or a table
    return _in_bands(rects, crossing, gutter)


def _in_bands(rects: list[tuple], crossing: list[tuple], gutter: float) -> list[tuple]:
    """Between lines of the full width, the left column and then the right one."""
    order: list[tuple] = []
    rest = [rect for rect in rects if rect not in crossing]
    for line in [*sorted(crossing, key=lambda rect: -rect[1]), None]:
        above = [rect for rect in rest if line is None or rect[1] > line[1]]
        rest = [rect for rect in rest if rect not in above]
        order += sorted((rect for rect in above if rect[0] < gutter), key=lambda rect: -rect[1])
        order += sorted((rect for rect in above if rect[0] > gutter), key=lambda rect: -rect[1])
        order += [line] if line else []
    return order


def _fields(page: Any) -> list[str]:
    """`name: value` of each filled form field."""
    found = []
    for number in range(raw.FPDFPage_GetAnnotCount(page)):
        annotation = raw.FPDFPage_GetAnnot(page, number)
        if annotation and raw.FPDFAnnot_GetSubtype(annotation) == raw.FPDF_ANNOT_WIDGET:
            name, value = _value(annotation, b"T"), _value(annotation, b"V")
            found += [f"{name}: {value}" if name else value] if value and value != "Off" else []
        raw.FPDFPage_CloseAnnot(annotation)
    return found


def _value(annotation: Any, key: bytes) -> str:
    buffer = ctypes.create_string_buffer(FIELD_LENGTH)
    size = raw.FPDFAnnot_GetStringValue(annotation, key, ctypes.cast(buffer, ctypes.POINTER(raw.FPDF_WCHAR)), FIELD_LENGTH)
    return buffer.raw[: min(size, FIELD_LENGTH)].decode("utf-16-le", "replace").rstrip("\0").strip()


def picture(document: pypdfium2.PdfDocument, index: int) -> bytes:
    """A page as a PNG picture."""
    sink = io.BytesIO()
    document[index].render(scale=DOTS_PER_INCH / 72).to_pil().save(sink, "PNG")
    return sink.getvalue()


def running_heads(pages: list[Page]) -> set[str]:
    """The first and last lines that most of these pages have, numbers aside, and that are not like the lines between them."""
    seen, between = Counter(), set()
    for page in pages:
        lines = [_without_numbers(line) for line in (page.text or "").split("\n") if line.strip()]
        seen.update({*lines[:1], *lines[-1:]} if len(lines) > 2 else ())
        between.update(lines[1:-1])
    return {line for line, count in seen.items() if count >= max(REPEATS, len(pages) / 2) and line not in between}


def without_heads(text: str, heads: set[str]) -> str:
    lines = text.split("\n")
    while len(lines) > 1 and _without_numbers(lines[0]) in heads:
        del lines[0]
    while len(lines) > 1 and _without_numbers(lines[-1]) in heads:
        del lines[-1]
    return "\n".join(lines).strip()


def _without_numbers(line: str) -> str:
    return re.sub(r"\d+", "#", line.strip())
