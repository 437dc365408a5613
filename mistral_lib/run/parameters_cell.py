"""Which names a notebook's parameters cells assign, read from the source of the cells: typed by a person, or put in by papermill."""

import ast
from collections.abc import Iterable

INJECTED = "# Parameters"  # how the cell begins that papermill puts in


def injected(cells: Iterable[str]) -> set[str]:
    """The names that papermill put in."""
    return {name for source in cells if source.startswith(INJECTED) for name in assigned(source)}


def typed(cells: Iterable[str]) -> set[str]:
    """The names that the parameters cells assign as they stand now.

    `In` keeps every text that a cell was ever run with: a misspelling that was corrected would be refused until the kernel is restarted.
    So a cell stands for an earlier one if it assigns half of the same names or more. What papermill puts in stands beside the cell.
    """
    standing: list[set[str]] = []
    for source in cells:
        names = set(assigned(source))
        if names and not source.startswith(INJECTED):
            standing = [earlier for earlier in standing if len(names & earlier) < len(earlier) / 2]
        standing.append(names)
    return set().union(*standing)


def assigned(source: str) -> list[str]:
    """The names that a cell assigns, if it holds nothing but `name = literal`; else none."""
    try:
        statements = ast.parse(source).body
        for statement in statements:
            ast.literal_eval(statement.value)
        return [statement.targets[0].id for statement in statements]
    except (SyntaxError, AttributeError, ValueError):
        return []
