"""Plain text as a small PDF, through pypdfium2: what the embedded corpus needs for its archive of guides.

Source: PDFium's public headers fpdf_edit.h and fpdf_save.h, as pypdfium2.raw wraps them.
"""

import ctypes
import io
import re
import textwrap

import pypdfium2
import pypdfium2.raw as pdfium

PAGE = (595, 842)  # A4, points
MARGIN, LEADING, SIZE = 56, 13, 10  # points
LINES = (PAGE[1] - 2 * MARGIN) // LEADING
WIDTH = 88  # characters of Courier at this size between the margins


def document(text: str) -> bytes:
    """The bytes of a PDF that shows `text` (Latin-1; other characters become `?`), as many A4 pages as it takes."""
    pdf = pypdfium2.PdfDocument.new()
    font = pdfium.FPDFText_LoadStandardFont(pdf, b"Courier")
    lines = [part for line in text.split("\n") for part in (textwrap.wrap(line, WIDTH, drop_whitespace=False) or [""])]
    for start in range(0, len(lines), LINES):
        page = pdf.new_page(*PAGE)
        for row, line in enumerate(lines[start : start + LINES]):
            _write(pdf, page, font, line, MARGIN, PAGE[1] - MARGIN - row * LEADING)
        page.gen_content()
    pdfium.FPDFFont_Close(font)
    buffer = io.BytesIO()
    pdf.save(buffer)
    return _timeless(buffer.getvalue())


def _timeless(data: bytes) -> bytes:
    """The same PDF for the same text: PDFium's time stamp and random identifier overwritten, length kept."""
    data = re.sub(rb"\(D:\d{14}", b"(D:20260101000000", data)
    return re.sub(rb"<[0-9A-F]{32}>", b"<" + b"0" * 32 + b">", data)


def _write(pdf: pypdfium2.PdfDocument, page: pypdfium2.PdfPage, font: object, line: str, x: float, y: float) -> None:
    if not line.strip():
        return
    item = pdfium.FPDFPageObj_CreateTextObj(pdf, font, SIZE)
    encoded = line.encode("latin-1", "replace").decode("latin-1").encode("utf-16-le") + b"\x00\x00"
    pdfium.FPDFText_SetText(item, ctypes.cast(ctypes.create_string_buffer(encoded), ctypes.POINTER(ctypes.c_ushort)))
    pdfium.FPDFPageObj_Transform(item, 1, 0, 0, 1, x, y)
    pdfium.FPDFPage_InsertObject(page, item)
