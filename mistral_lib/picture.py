"""A figure with its words: what is shown to eyes comes with the same numbers as text.

JupyterLab's own display of a figure has no alternative text, so the picture is shown as HTML, where it has one. Screen
readers read it, headless runs print it, and the regression test compares it, which it cannot do with pixels.
"""

import base64
import html
from typing import Any

from matplotlib.axes import Axes

from mistral_lib import figure_style


class Picture:
    """Shows the figure of `axes`; its words are the figure's label, which each function that draws one sets."""

    def __init__(self, axes: Axes):
        self.words = axes.figure.get_label()
        if not self.words:
            raise ValueError("this figure has no words: call figure.set_label(...) with what it shows, numbers included")
        self.png = figure_style.png(axes.figure)  # closes the figure, which would be shown a second time

    @property
    def url(self) -> str:
        """The picture as an address that a self-contained page can hold."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    def tag(self, style: str = "max-width:100%") -> str:
        """The picture as an HTML image, its words as the alternative text."""
        return f'<img style="{style}" alt="{html.escape(self.words, quote=True)}" src="{self.url}">'

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        return {"text/plain": self.words, "text/html": self.tag()}
