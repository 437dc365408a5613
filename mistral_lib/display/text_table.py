"""A table of texts: texts are left-aligned and wrap, numbers are right-aligned; run headless it is plain lines.

The table of a data frame truncates each text and aligns it right, which cannot be read beyond a few words.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

CELL = "vertical-align:top;max-width:30em;white-space:pre-line;word-break:normal;overflow-wrap:anywhere"


class TextTable:
    """Rows of the same columns; each value is a text or a number."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]):
        self.rows = rows

    def plain(self) -> str:
        """Each row under the value of its first column, a line for each of the others."""
        lines = []
        for row in self.rows:
            (_, first), *others = row.items()
            lines += [_one_line(first), *(f"  {name}: {_one_line(value)}" for name, value in others if value != "")]
        return "\n".join(lines) or "(none)"

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        heads = "".join(f'<th style="{_style(value)}">{html.escape(name)}</th>' for name, value in dict(*self.rows[:1]).items())
        rows = "".join(f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in self.rows)
        table = f'<table style="margin-left:0"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        return {"text/plain": self.plain(), "text/html": table if self.rows else "<i>none</i>"}


def _cell(value: Any) -> str:
    return f'<td style="{_style(value)}">{html.escape(_shown(value))}</td>'


def _style(value: Any) -> str:
    return f"text-align:{'left' if isinstance(value, str) else 'right'};{CELL}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _one_line(value: Any) -> str:
    return " ".join(_shown(value).split())
