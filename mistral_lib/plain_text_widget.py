"""A box of widgets with a plain form, for wherever no widget can be shown.

A notebook run headless keeps the plain text of these displays, by the nature of a display with several forms: the
front end takes the richest that it understands.
"""

from collections.abc import Sequence
from typing import Any

import ipywidgets


class PlainTextBox(ipywidgets.VBox):
    """A box of widgets whose plain form, `plain`, says what it shows."""

    def __init__(self, children: Sequence[ipywidgets.Widget], plain: str):
        super().__init__(children)
        self.plain = plain

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(**options)
        return {**bundle, "text/plain": self.plain} if bundle else {"text/plain": self.plain}
