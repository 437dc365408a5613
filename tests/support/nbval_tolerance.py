"""How nbval compares the committed notebooks: counts and words exactly, decimal numbers within 2 %.

Loaded as a pytest plugin (`-p tests.support.nbval_tolerance`). A loss that is off by 5 % fails, and so does any different
whole number; tests/project/test_nbval_tolerance.py checks both. Blanks are folded, because a table's columns are as wide as
its numbers. Figures are not compared: the cells print what they plot.
"""

import math
import re

NUMBER = re.compile(r"[-+]?\d+\.\d+(?:e[-+]?\d+)?")
RELATIVE, ABSOLUTE = 0.02, 0.002


class Tolerant(str):
    """Text that equals another if all decimals are close and everything else is the same."""

    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return NotImplemented
        one, two = fold(self), fold(other)
        if NUMBER.sub("#", one) != NUMBER.sub("#", two):
            return False
        pairs = zip(NUMBER.findall(one), NUMBER.findall(two), strict=True)
        return all(math.isclose(float(a), float(b), rel_tol=RELATIVE, abs_tol=ABSOLUTE) for a, b in pairs)

    def __ne__(self, other: object) -> bool:
        return not self == other


def fold(text: str) -> str:
    return " ".join(text.split())


def pytest_collectstart(collector: object) -> None:
    """Compare plain text only: HTML tables contain the same numbers again, stderr contains progress."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", "text/html", "application/vnd.jupyter.widget-view+json")


def pytest_configure(config: object) -> None:
    from nbval.plugin import IPyNbCell

    plain = IPyNbCell.sanitize
    IPyNbCell.sanitize = lambda self, text: Tolerant(plain(self, text))
