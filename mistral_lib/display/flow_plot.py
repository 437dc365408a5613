"""The path of all rows as one figure: rows read → kept or dropped → splits → windows → blocks, bands as wide as their counts.

The columns count different units (rows, windows of tokens, packed blocks), so each fills the height with its own total.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from mistral_lib.display import figure

REASONS_SHOWN = 5
LEAST = 0.012  # height of the smallest bar; the column is 1
ROOM = 0.062  # height that a label needs


@dataclass(slots=True)
class Node:
    name: str
    count: int
    color: str
    bottom: float = 0.0
    height: float = 0.0


def flow(report: Mapping[str, Any], max_tokens: int) -> Axes:
    """The fate of every row, and the windows and blocks made from the kept ones. report: data/report.json."""
    fates = [Node("kept", report["records_kept"], "#bbbbbb"), *dropped_nodes(report)]
    by_split = [
        [Node(name, report[unit][name], color) for name, color in figure.SPLITS.items()] for unit in ("split_sizes", "windows", "blocks")
    ]
    columns = [[Node("rows", report["records_read"], "#bbbbbb")], fates, *by_split]
    titles = ["rows read", "kept or dropped", "records by split", "windows of tokens", f"blocks of {max_tokens:,} tokens"]
    axes = plt.subplots(figsize=(11, 4.6), layout="constrained", facecolor="white")[1]
    for x, (column, title) in enumerate(zip(columns, titles, strict=True)):
        stack(column, floor=min(fates[0].bottom, 0.7) if x >= 2 else 0)
        _draw_column(axes, x, column, title)
    _fan(axes, 0, columns[0][0], fates)
    _fan(axes, 1, fates[0], columns[2])
    for x in (2, 3):
        for left, right in zip(columns[x], columns[x + 1], strict=True):
            _fan(axes, x, left, [right])
    axes.set(xlim=(-0.05, len(columns) - 0.1), ylim=(-0.02, 1.14))
    axes.axis("off")
    axes.figure.set_label(flow_text(columns, titles))
    return axes


def dropped_nodes(report: Mapping[str, Any]) -> list[Node]:
    """The dropped rows: duplicates, then the most frequent reasons, then the sum of all others."""
    ordered = sorted(report["rejected"].items(), key=lambda one: (-one[1], one[0]))
    most = REASONS_SHOWN if len(ordered) > REASONS_SHOWN + 1 else REASONS_SHOWN + 1  # a single other reason is named too
    shown, others = ordered[:most], ordered[most:]
    duplicates = {"near-duplicates": report["duplicates_near"] or 0, "exact duplicates": report["duplicates_exact"]}
    nodes = [Node(name, count, "#56B4E9") for name, count in duplicates.items()]
    nodes += [Node(reason, count, figure.REJECTED) for reason, count in shown]
    nodes += [Node(f"{len(others)} other reasons", sum(count for _, count in others), figure.REJECTED)] if others else []
    return [node for node in nodes if node.count]


def stack(column: Sequence[Node], floor: float = 0.0) -> None:
    """Stack the nodes from the top down to the floor. Each gets room for its label, which is taken from the large nodes."""
    total, space = sum(node.count for node in column) or 1, 1 - floor
    slots = np.array([max(ROOM, space * node.count / total) for node in column])
    large = slots > ROOM
    if slots.sum() > space and large.any():
        slots[large] *= max(0.3, (space - slots[~large].sum()) / slots[large].sum())
    top = 1.0
    for node, slot in zip(column, slots, strict=True):
        node.height = max(LEAST, slot * 0.97 if slot > ROOM else space * node.count / total)
        node.bottom = top - (slot + node.height) / 2
        top -= slot


def _draw_column(axes: Axes, x: int, column: Sequence[Node], title: str) -> None:
    axes.text(x, 1.1, title, fontsize=10, fontweight="bold", va="center")
    axes.text(x, 1.045, f"{sum(node.count for node in column):,}", fontsize=10, va="center")
    for node in column:
        axes.bar(x + 0.03, node.height, 0.06, bottom=node.bottom, color=node.color, zorder=3)
        if len(column) > 1:
            axes.text(x + 0.09, node.bottom + node.height / 2, f"{node.name} {node.count:,}", va="center", fontsize=9, zorder=4)


def _fan(axes: Axes, x: int, left: Node, parts: Sequence[Node]) -> None:
    """Bands from a node in column x to its parts in the next column, in their order and proportion."""
    along = np.linspace(0, 1, 40)
    ease = along**2 * (3 - 2 * along)
    total, top = sum(part.count for part in parts) or 1, left.bottom + left.height
    for part in parts:
        bottom = top - left.height * part.count / total
        lower = bottom + (part.bottom - bottom) * ease
        upper = top + (part.bottom + part.height - top) * ease
        axes.fill_between(x + 0.06 + along * 0.94, lower, upper, color=part.color, alpha=0.3, linewidth=0, zorder=1)
        top = bottom


def flow_text(columns: Sequence[Sequence[Node]], titles: Sequence[str]) -> str:
    lines = []
    for column, title in zip(columns, titles, strict=True):
        total = f"{sum(node.count for node in column):,}"
        parts = " = " + " + ".join(f"{node.count:,} {node.name}" for node in column) if len(column) > 1 else ""
        lines.append(f"{title}: {total}{parts}")
    return "\n".join(lines)
