"""What all figures share: colors, axes, legends, how many bars are shown, and the picture with its alternative text.

Colors: Okabe and Ito's palette, which can be distinguished with any color vision.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

BASE, ADAPTER = "#767676", "#0072B2"
TRAIN, VALIDATION, TEST = "#E69F00", "#009E73", "#CC79A7"
REJECTED = "#D55E00"
SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
# in JupyterLab's dark theme a white figure glares: its lightness is turned over, its colors keep their hue
DARK = '<style>body[data-jp-theme-light="false"] img.figure{filter:invert(.9) hue-rotate(180deg)}</style>'
MOST_BARS = 20  # more cannot be distinguished; in a folder of notes every note is a domain


class Picture:
    """A drawn figure as a PNG image, and its label (the finding and the numbers) as alternative text. Errors: ValueError without a label."""

    def __init__(self, axes: Axes):
        self.alt_text = axes.figure.get_label()
        if not self.alt_text:
            raise ValueError("this figure has no alternative text: call figure.set_label(...) with what it shows, numbers included")
        buffer = io.BytesIO()
        axes.figure.savefig(buffer, format="png", dpi=110, facecolor="white")
        plt.close(axes.figure)  # an open figure would be shown a second time
        self.png = buffer.getvalue()

    @property
    def url(self) -> str:
        """The image as a data URL, for a self-contained page."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode()

    def tag(self, style: str = "max-width:100%") -> str:
        """The image as an HTML element."""
        return f'<img class="figure" style="{style}" alt="{html.escape(self.alt_text, quote=True)}" src="{self.url}">'

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        return {"text/plain": self.alt_text, "text/html": DARK + self.tag()}


def new_axes(width: float = 8, height: float = 3.4) -> Axes:
    """Axes on a white background: black text on a transparent one cannot be read in a dark theme. width, height: inches."""
    _, axes = plt.subplots(figsize=(width, height), layout="constrained", facecolor="white")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def legend(axes: Axes, columns: int, **options: Any) -> None:
    """The legend above the axes; a second call replaces the first."""
    axes.legend(frameon=False, ncols=columns, loc="lower left", bbox_to_anchor=(0, 1), **options)


def largest(counts: Mapping[str, int], most: int = MOST_BARS) -> dict[str, int]:
    """The largest counts in their given order, and the sum of all others as one entry."""
    if len(counts) <= most:
        return dict(counts)
    shown = set(sorted(counts, key=lambda name: (-counts[name], name))[: most - 1])
    rest = {name: n for name, n in counts.items() if name not in shown}
    return {**{name: n for name, n in counts.items() if name in shown}, f"{len(rest):,} others": sum(rest.values())}


def as_named(counts: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """The counts under the names that `largest` returned; the last one also gets the sum of all counts with other names."""
    rest = sum(n for name, n in counts.items() if name not in names)
    return {name: counts.get(name, 0) + (rest if name == names[-1] else 0) for name in names}


def counts_text(title: str, counts: Mapping[str, int]) -> str:
    """A line of counts with their names, for an alternative text."""
    return f"{title}: " + ", ".join(f"{name} {n:,}" for name, n in counts.items())
