"""The text of a PDF: a row a page, or rows of at most so many characters. A scan without text is reported as one problem, or read by OCR."""

from collections.abc import Iterator

import pypdfium2

from mistral_lib.formats import documents
from mistral_lib.formats.pdf_pages import SAMPLED, Page, page_of, picture, running_heads, without_heads
from mistral_lib.formats.rows import Row

BREAKS = ("\n\n", "\n", " ")  # the places to cut a page, best first


def pdf_rows(data: bytes, name: str, characters: int = 0, ocr: bool = False) -> Iterator[Row]:
    """The rows of a PDF, all of one document. characters: 0 for one row a page, otherwise the largest number of characters of a row.

    ocr: read pages without text as pictures. Errors: NoOcrError.
    """
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        yield Row(name, None, "pdf_encrypted" if "assword" in str(error) else "unreadable_pdf")
        return
    with document:
        pages = _pages(document, ocr)
        yield from _without_scans(_by_budget(pages, name, characters) if characters else _by_page(pages, name), name)


def _pages(document: pypdfium2.PdfDocument, ocr: bool) -> Iterator[tuple[Page, str]]:
    """Each page and what was changed in it."""
    first = [page_of(document, index) for index in range(min(SAMPLED, len(document)))]
    heads = running_heads(first)
    for index in range(len(document)):
        page = first[index] if index < len(first) else page_of(document, index)
        note = "unmapped_glyphs" if page.unmapped else ""
        if ocr and (page.text == "" or page.is_garbage):
            text = documents.recognized(picture(document, index), "image/png")
            page, note = Page(page.number, text), "read_by_ocr"
        elif page.text and heads and (text := without_heads(page.text, heads)) != page.text:
            page, note = Page(page.number, text, page.unmapped), note or "running_heads_left_out"
        yield page, note


def _row(name: str, place: str, text: str, note: str) -> Row:
    return Row(f"{name}#{place}", {"text": text, "document": name}, note=note)


def _problem(name: str, page: Page) -> Row | None:
    """Why a page is no row; None if it is one."""
    if page.text and not page.is_garbage:
        return None
    reason = "unreadable_pdf_page" if page.text is None else "pdf_text_unmapped" if page.text else "pdf_page_without_text"
    return Row(f"{name}#{page.number}", None, reason)


def _by_page(pages: Iterator[tuple[Page, str]], name: str) -> Iterator[Row]:
    for page, note in pages:
        yield _problem(name, page) or _row(name, str(page.number), page.text or "", note)


def _by_budget(pages: Iterator[tuple[Page, str]], name: str, most: int) -> Iterator[Row]:
    joined, first, last, changed = "", 0, 0, ""
    for page, note in pages:
        if problem := _problem(name, page):
            yield problem
            continue
        text = page.text or ""
        if joined and len(joined) + 2 + len(text) > most:
            yield from _cut(joined, name, (first, last), most, changed)
            joined, changed = "", ""
        joined, first, last = (f"{joined}\n\n{text}", first, page.number) if joined else (text, page.number, page.number)
        changed = changed or note
    if joined:
        yield from _cut(joined, name, (first, last), most, changed)


def _cut(text: str, name: str, pages: tuple[int, int], most: int, note: str) -> Iterator[Row]:
    first, last = pages
    if len(text) <= most:
        yield _row(name, str(first) if first == last else f"{first}-{last}", text, note)
        return
    for number, part in enumerate(_parts(text, most), 1):  # only a single page can be longer
        yield _row(name, f"{first}.{number}", part, note)


def _parts(text: str, most: int) -> Iterator[str]:
    """Parts of at most `most` characters, which end at the end of a paragraph, line or word if possible."""
    while len(text) > most:
        places = (text.rfind(mark, 1, most + 1) for mark in BREAKS)
        cut = next((place for place in places if place > most // 2), most)
        yield text[:cut].strip()
        text = text[cut:].strip()
    if text:
        yield text


def _without_scans(found: Iterator[Row], name: str) -> Iterator[Row]:
    """The rows; a single problem if no page has text."""
    first: list[Row] = []  # up to the first page with text
    for row in found:
        first.append(row)
        if row.problem != "pdf_page_without_text":
            yield from first
            yield from found
            return
    if first:
        yield Row(name, None, "pdf_without_text", f"{len(first)} pages", lines=len(first))
