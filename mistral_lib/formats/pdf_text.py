"""The text of a PDF: a row a page, or rows of at most so many characters. A scan without text is reported as one problem."""

from collections.abc import Iterator

import pypdfium2

from mistral_lib.formats.rows import Row

BREAKS = ("\n\n", "\n", " ")  # the places to cut a page, best first


def pdf_rows(data: bytes, name: str, characters: int = 0) -> Iterator[Row]:
    """The rows of a PDF, all of one document. characters: 0 for one row a page, otherwise the largest number of characters of a row."""
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        yield Row(name, None, "pdf_encrypted" if "assword" in str(error) else "unreadable_pdf")
        return
    with document:
        pages = _pages(document)
        yield from _without_scans(_by_budget(pages, name, characters) if characters else _by_page(pages, name), name)


def _pages(document: pypdfium2.PdfDocument) -> Iterator[tuple[int, str | None]]:
    """(page number, text); the text is None for a page that cannot be read."""
    for index in range(len(document)):
        try:
            page = document[index]
            text = page.get_textpage().get_text_bounded().replace("\r\n", "\n").strip()
            page.close()
        except pypdfium2.PdfiumError:
            text = None
        yield index + 1, text


def _row(name: str, place: str, text: str) -> Row:
    return Row(f"{name}#{place}", {"text": text, "document": name})


def _blank(name: str, page: int, text: str | None) -> Row:
    return Row(f"{name}#{page}", None, "unreadable_pdf_page" if text is None else "pdf_page_without_text")


def _by_page(pages: Iterator[tuple[int, str | None]], name: str) -> Iterator[Row]:
    for page, text in pages:
        yield _row(name, str(page), text) if text else _blank(name, page, text)


def _by_budget(pages: Iterator[tuple[int, str | None]], name: str, most: int) -> Iterator[Row]:
    joined, first, last = "", 0, 0
    for page, text in pages:
        if not text:
            yield _blank(name, page, text)
            continue
        if joined and len(joined) + 2 + len(text) > most:
            yield from _cut(joined, name, first, last, most)
            joined = ""
        joined, first, last = (f"{joined}\n\n{text}", first, page) if joined else (text, page, page)
    if joined:
        yield from _cut(joined, name, first, last, most)


def _cut(text: str, name: str, first: int, last: int, most: int) -> Iterator[Row]:
    if len(text) <= most:
        yield _row(name, str(first) if first == last else f"{first}-{last}", text)
        return
    for number, part in enumerate(_parts(text, most), 1):  # only a single page can be longer
        yield _row(name, f"{first}.{number}", part)


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
        yield Row(name, None, "pdf_without_text", f"{len(first)} pages")
