"""What all figures share: colours, grounds, legends, how many bars are told apart, and the way into a page.

Colours: Okabe and Ito's palette, which people with any colour vision tell apart.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

BASE, ADAPTER = "#767676", "#0072B2"
TRAIN, VALIDATION, TEST = "#E69F00", "#009E73", "#CC79A7"
REJECTED = "#D55E00"
MOST = 20  # bars that can be told apart; a folder of notes has a domain for each of them
SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


def new_axes(width: float = 8, height: float = 3.4) -> Axes:
    """Axes on an opaque white ground: black words on a transparent one cannot be read in a dark theme."""
    _, axes = plt.subplots(figsize=(width, height), layout="constrained", facecolor="white")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def legend_above(axes: Axes, names: Sequence[str], colours: Sequence[str], styles: Sequence[str]) -> None:
    lines = [Line2D([], [], color=colour, linestyle=style) for colour, style in zip(colours, styles, strict=False)]
    axes.legend(lines, names, frameon=False, ncols=len(names), loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)


def largest(counts: Mapping[str, int], most: int = MOST) -> dict[str, int]:
    """The largest counts under their names, in the given order, and the sum of the rest under one name."""
    if len(counts) <= most:
        return dict(counts)
    shown = set(sorted(counts, key=lambda name: (-counts[name], name))[: most - 1])
    rest = {name: n for name, n in counts.items() if name not in shown}
    return {**{name: n for name, n in counts.items() if name in shown}, f"{len(rest):,} others": sum(rest.values())}


def as_named(counts: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """The counts under these names; what has none of them is summed up under the last, if `largest` made it."""
    rest = sum(n for name, n in counts.items() if name not in names)
    return {name: counts.get(name, 0) + (rest if name == names[-1] else 0) for name in names}


def in_words(title: str, counts: Mapping[str, int]) -> str:
    """A line of counts under their names, for whom the picture is not shown."""
    return f"{title}: " + ", ".join(f"{name} {n:,}" for name, n in counts.items())


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white")
    plt.close(figure)
    return buffer.getvalue()


# -- a figure with its words: what is shown to eyes comes with the same numbers as text -----


class Picture:
    """Shows the figure of `axes`; its words are the figure's label, which each function that draws one sets."""

    def __init__(self, axes: Axes):
        self.words = axes.figure.get_label()
        if not self.words:
            raise ValueError("this figure has no words: call figure.set_label(...) with what it shows, numbers included")
        self.png = png(axes.figure)  # closes the figure, which would be shown a second time

    @property
    def url(self) -> str:
        """The picture as an address that a self-contained page can hold."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    def tag(self, style: str = "max-width:100%") -> str:
        """The picture as an HTML image, its words as the alternative text."""
        return f'<img style="{style}" alt="{html.escape(self.words, quote=True)}" src="{self.url}">'

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        return {"text/plain": self.words, "text/html": self.tag()}
