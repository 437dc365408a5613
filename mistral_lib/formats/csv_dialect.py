"""The dialect of a CSV or TSV file, found in its first lines: delimiter, quotes, and where its header is.

`sep=;`, title lines, comments and blank lines before the header are passed over. A file whose first line is no header gets the names
column_1, column_2, ….
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mistral_lib.formats.json_containers import RECORD_KEYS

DELIMITERS = ",;\t|^"
LONGEST_NAME = 64  # characters of a column's name
FEWEST, LONG_CELL = 5, 50  # rows that must have been read before an open quote of so many lines is a wrong one
STANDARD: dict[str, Any] = {}
# how quotes are written, the usual way first
QUOTING: tuple[dict[str, Any], ...] = (
    STANDARD, {"skipinitialspace": True}, {"escapechar": "\\", "doublequote": False}, {"quotechar": "'"}, {"quoting": csv.QUOTE_NONE},
)  # fmt: skip
SEPARATOR_LINE = re.compile(r"(?i)\s*\"?sep=(.)\"?\s*\Z")
NUMBER = re.compile(r"\s*[-+]?\d[\d.,:/ -]*\s*\Z")
NAME = re.compile(r"\s*\w+\s*\Z")
SENTENCE = re.compile(r"\S \S.*[.?!]\s*\Z")


@dataclass(frozen=True, slots=True)
class Dialect:
    delimiter: str
    quoting: dict[str, Any]
    columns: list[str]  # as the header has them
    names: list[str]  # without repetition
    fewest: int  # cells of the shortest row: columns without a name at the end may be missing
    before: int  # lines before the first row of data
    comments: bool  # lines that begin with # are comments

    @classmethod
    def of(cls, delimiter: str, quoting: dict[str, Any], header: list[str], before: int, comments: bool) -> "Dialect":
        columns = [name.strip() for name in header]
        unnamed = next((number for number, name in enumerate(reversed(columns)) if name), len(columns))
        return cls(delimiter, quoting, columns, _named(columns), len(columns) - unnamed, before, comments)

    def read(self, found: Iterable[str], **changes: Any) -> Any:
        return csv.reader(found, delimiter=self.delimiter, strict=True, **(changes or self.quoting))

    def fits(self, cells: list[str]) -> bool:
        """Whether a row has a cell for every column, and beyond them only empty ones. A cell with a tab and a line break in a table with
        tabs is several rows between two stray quotes."""
        if self.delimiter == "\t" and any("\t" in cell and "\n" in cell for cell in cells):
            return False
        return self.fewest <= len(cells) and not any(cells[len(self.columns) :])

    def named(self, cells: list[str]) -> dict[str, str]:
        return {name: cell for name, title, cell in zip(self.names, self.columns, cells, strict=False) if title or cell}


def find_dialect(sample: list[str], delimiters: str) -> Dialect | None:
    """Errors: none; None if no header can be read."""
    begin = next(number for number, line in enumerate(sample) if line.strip())
    if declared := SEPARATOR_LINE.match(sample[begin]):
        begin, delimiters = begin + 1, declared[1]
    elif len(delimiters) < len(DELIMITERS):
        delimiters += "".join(one for one in DELIMITERS if one not in delimiters)
    tried = [
        found
        for one in delimiters
        for quoting in QUOTING
        if applies(quoting, one, sample) and (found := _tried(sample, begin, one, quoting))
    ]
    if not tried:
        return None
    _, dialect = max(tried, key=lambda one: one[0])  # of equal ones the first
    return dialect


def _tried(sample: list[str], begin: int, delimiter: str, quoting: dict[str, Any]) -> tuple[tuple, Dialect] | None:
    """How well the first lines fit a dialect: (known names, several columns, with names, share of the rows that fit, …), and the dialect."""
    records = _sampled(sample[begin:], delimiter, quoting)
    filled = [cells for _, cells in records if cells and any(cells)]
    if not filled:
        return None
    width = _width(filled)
    most = max(_filled(cells) for cells in filled)
    header = next((number for number, (_, cells) in enumerate(records) if _may_be_header(cells, width, most)), None)
    if header is None:
        return None
    place, cells = records[header]
    if "quoting" in quoting and len(cells) < 2:
        return None
    if any(found is None for _, found in records[:header]):
        return None  # the header itself may have the wrong quotes
    comments = any((found or [""])[0].startswith("#") for _, found in records[:header])
    named = _is_header(cells) and not _is_repeated(cells, [found for _, found in records[header + 1 :] if found])
    if named:
        if len(cells) == 1 and _is_divided(cells[0]):
            return None  # several names with another delimiter
        names, before = cells, begin + place + 1
    else:
        names, before = [f"column_{number}" for number in range(1, len(cells) + 1)], begin + place
    dialect = Dialect.of(delimiter, quoting, names, before, comments)
    rows = [found for _, found in records[header + 1 :] if found is None or any(found)]
    good = sum(found is not None and dialect.fits(found) and _clean(found) for found in rows)
    share = good / len(rows) if rows else 0.5 + 0.5 * (len(cells) > 1)
    known = sum(name.casefold() in RECORD_KEYS for name in dialect.columns) > 1
    return (known, len(cells) > 1 and share >= 0.5, named, round(share, 2), not quoting.get("quoting"), len(cells) > 1), dialect


def _sampled(sample: list[str], delimiter: str, quoting: dict[str, Any]) -> list[tuple[int, list[str] | None]]:
    """(place of the last line, cells) of each row; the cells are None for a line with wrong quotes."""
    found: list[tuple[int, list[str] | None]] = []
    place = 0
    while place < len(sample):
        reader = csv.reader(sample[place:], delimiter=delimiter, strict=True, **quoting)
        try:
            cells = next(reader)
            taken = reader.line_num
        except StopIteration:
            break
        except csv.Error:
            if len(found) < FEWEST and reader.line_num == len(sample) - place > LONG_CELL:
                break  # a cell that is longer than the sample
            cells, taken = None, 1
        place += taken
        found.append((place - 1, cells))
    return found


def _width(filled: list[list[str]]) -> int:
    """The usual number of cells; a single column if the first line is its name."""
    first = [cell.strip() for cell in filled[0] if cell.strip()]
    known = [cell for cell in first if cell.casefold() in RECORD_KEYS]
    if len(known) == 1 == len(filled[0]) or len(known) > 1:
        return len(filled[0])
    later = Counter(len(cells) for cells in filled[1:] or filled)
    most = max(later.values())
    return max(width for width, count in later.items() if count == most)


def _filled(cells: list[str]) -> int:
    return sum(bool(cell.strip()) for cell in cells)


def _may_be_header(cells: list[str] | None, width: int, most: int) -> bool:
    """Whether a row may be the header. width: the usual number of cells. most: of filled cells, in a row."""
    if not cells or not any(cells) or (is_comment(cells[0]) or (cells[0].startswith("#") and len(cells) != width)):
        return False
    if _filled(cells) == 1 < most and not any(cell.strip().casefold() in RECORD_KEYS for cell in cells):
        return False  # a title
    filled = next((len(cells) - n for n, cell in enumerate(reversed(cells)) if cell.strip()), 0)
    return len(cells) == width or filled == width or (width > 1 and filled > 1)


def _is_header(cells: list[str]) -> bool:
    """Whether the cells are names of columns and not a row of data."""
    named = [cell.strip() for cell in cells if cell.strip()]
    if any(cell.casefold() in RECORD_KEYS for cell in named):
        return True
    if all(NUMBER.match(cell) for cell in named) or any(len(cell) > LONGEST_NAME for cell in named):
        return False
    sentences = sum(bool(SENTENCE.search(cell)) for cell in named)
    return sentences * 2 < len(named) or any(NAME.match(cell) for cell in named)


def _is_repeated(cells: list[str], rows: list[list[str]]) -> bool:
    """Whether a cell stands again in its column below: then it is no column's name, except in a header that is repeated."""
    if any(cell.strip().casefold() in RECORD_KEYS for cell in cells):
        return False
    return any(name.strip() and name.strip() == cell.strip() for row in rows for name, cell in zip(cells, row, strict=False))


def is_comment(line: str) -> bool:
    return line.startswith(("# ", "//"))


def _is_divided(cell: str) -> bool:
    """Whether a cell is several names of columns."""
    return any(len(parts := cell.split(one)) > 1 and all(part.strip().casefold() in RECORD_KEYS for part in parts) for one in DELIMITERS)


def _clean(cells: list[str]) -> bool:
    """Whether no cell begins and ends with a quote that was not read as one."""
    return not any(len(cell) > 1 and cell[0] == cell[-1] and cell[0] in "\"'" for cell in (part.strip() for part in cells))


def applies(quoting: dict[str, Any], delimiter: str, sample: list[str]) -> bool:
    """Whether the signs of this way to write quotes are there at all."""
    if "escapechar" in quoting:
        return any('\\"' in line for line in sample)
    if "quoting" in quoting:  # a comma may be in a cell whose quote is not closed, a tab hardly ever
        return delimiter == "\t"
    return "quotechar" not in quoting or any(line.lstrip()[:1] == "'" for line in sample)


def _named(cells: list[str]) -> list[str]:
    """Column names without repetition: an empty one gets its column number, a repeated one its count."""
    seen: Counter = Counter()
    names = []
    for number, cell in enumerate(cells, 1):
        name = cell.strip() or f"column_{number}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return names
