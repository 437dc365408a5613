"""Which names a notebook's parameters cells assign, read from the source of the cells: typed by a person, or injected by papermill."""

import ast
from collections.abc import Iterable

INJECTED = "# Parameters"  # the first line of a cell that papermill injects


def injected(cells: Iterable[str]) -> set[str]:
    """The names that papermill injected."""
    return {name for source in cells if source.startswith(INJECTED) for name in _names(source)}


def assigned(cells: Iterable[str]) -> set[str]:
    """The names that the parameters cells assign in their present form.

    `In` keeps every text that a cell was ever run with: a misspelling that was corrected would be refused until the kernel is restarted.
    A cell therefore replaces an earlier one if it assigns half of the same names or more. Injected cells replace nothing.
    """
    present: list[set[str]] = []
    for source in cells:
        names = set(_names(source))
        if names and not source.startswith(INJECTED):
            present = [earlier for earlier in present if len(names & earlier) < len(earlier) / 2]
        present.append(names)
    return set().union(*present)


def _names(source: str) -> list[str]:
    """The names that a cell assigns if it holds only `name = literal`; else none."""
    try:
        statements = ast.parse(source).body
        for statement in statements:
            ast.literal_eval(statement.value)
        return [statement.targets[0].id for statement in statements]
    except (SyntaxError, AttributeError, ValueError):
        return []
