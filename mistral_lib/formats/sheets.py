"""Rows of Excel and OpenDocument sheets: the first row with several cells is the header, each sheet is a table of its own."""

import io
from collections.abc import Iterator
from typing import Any, BinaryIO

from mistral_lib.formats.rows import Reading, Row
from mistral_lib.formats.streams import read_all
from mistral_lib.formats.tables import plain


def sheets(stream: BinaryIO, name: str, reading: Reading) -> Iterator[Row]:
    """The rows of all sheets. A source names the sheet by its number and the row as the program shows it: `book.xlsx:1:2`."""
    from python_calamine import CalamineError, CalamineWorkbook, PasswordError

    data = read_all(stream, reading.limits.in_memory_bytes)
    try:
        book = CalamineWorkbook.from_filelike(io.BytesIO(data))
    except PasswordError:
        yield Row(name, None, "sheet_encrypted")
        return
    except CalamineError:
        yield Row(name, None, "unreadable_sheet")
        return
    for number in range(1, len(book.sheet_names) + 1):
        source = f"{name}:{number}"
        try:
            cells = book.get_sheet_by_index(number - 1).to_python(skip_empty_area=False)
        except CalamineError:
            yield Row(source, None, "unreadable_sheet")
            continue
        yield from _table(cells, source)


def _table(rows: list[list[Any]], source: str) -> Iterator[Row]:
    filled = [(number, row) for number, row in enumerate(rows, 1) if any(cell not in ("", None) for cell in row)]
    if not filled:
        return
    several = [number for number, row in filled if sum(cell not in ("", None) for cell in row) > 1]
    header = several[0] if several else filled[0][0]
    names = [str(plain(cell)).strip() if cell not in ("", None) else "" for cell in rows[header - 1]]
    for number, row in filled:
        if number > header:
            value = {title or f"column_{column}": _cell(cell) for column, (title, cell) in enumerate(zip(names, row, strict=False), 1)
                     if title or cell not in ("", None)}  # fmt: skip
            yield Row(f"{source}:{number}", value)


def _cell(cell: Any) -> Any:
    """Whole numbers without a decimal point, as the program shows them."""
    return int(cell) if isinstance(cell, float) and cell.is_integer() else plain(cell)
