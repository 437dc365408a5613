"""Plain text as a small PDF, by matplotlib: the embedded corpus needs it for its archive of guides."""

import io
import textwrap

from matplotlib import rc_context
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure

PAGE = (595, 842)  # A4, points
MARGIN, LEADING, SIZE = 56, 13, 10  # points
LINES = (PAGE[1] - 2 * MARGIN) // LEADING
WIDTH = 88  # characters of Courier at this size between the margins
NO_METADATA = {"CreationDate": None, "Creator": None, "Producer": None}  # the same bytes at any time, by any version


def document(text: str) -> bytes:
    """The bytes of a PDF that shows `text` (Latin-1; other characters become `?`), as many A4 pages as it takes."""
    printable = text.encode("latin-1", "replace").decode("latin-1")
    lines = [part for line in printable.split("\n") for part in (textwrap.wrap(line, WIDTH, drop_whitespace=False) or [""])]
    buffer = io.BytesIO()
    with rc_context({"pdf.use14corefonts": True}), PdfPages(buffer, metadata=NO_METADATA) as pdf:
        for start in range(0, len(lines), LINES):
            page = Figure(figsize=(PAGE[0] / 72, PAGE[1] / 72))
            for row, line in enumerate(lines[start : start + LINES]):
                if line.strip():
                    height = PAGE[1] - MARGIN - row * LEADING
                    page.text(MARGIN / PAGE[0], height / PAGE[1], line, family="Courier", weight="medium", size=SIZE, parse_math=False)
            pdf.savefig(page)
    return buffer.getvalue()
