"""How nbval compares the committed notebooks: counts and words exactly, decimal numbers within 2 %.

Loaded as a pytest plugin (`-p tests.support.nbval_tolerance`). A loss that is off by 5 % fails, and so does any different
whole number; tests/project/test_nbval_tolerance.py checks both. Blanks are folded, because a table's columns are as wide as
its numbers. Figures are not compared: the cells print what they plot.

The model's numbers and answers depend on the compute type, which depends on the machine. `make book` notes it in the notebooks that
train or evaluate; on a machine with another compute type these notebooks run, and an error in them fails, but their outputs are not
compared.
"""

import math
import re

import nbformat

from mistral_lib.run import hardware

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
        made_with, here = nbformat.read(collector.path, as_version=4).metadata.get("compute_type"), hardware.choose_dtype()[0]
        if made_with not in (None, here):
            print(f"{collector.path.name}: made with {made_with}, this machine computes in {here}: run, but not compared")
            collector.skip_compare += ("stdout", "text/plain")


def pytest_configure(config: object) -> None:
    from nbval.plugin import IPyNbCell

    plain = IPyNbCell.sanitize
    IPyNbCell.sanitize = lambda self, text: Tolerant(plain(self, text))
