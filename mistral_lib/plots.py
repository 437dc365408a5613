"""Figures, one function each, returning the axes. Base and adapter, train and validation keep their colours everywhere.

Colours: Okabe and Ito's palette, which people with any colour vision tell apart.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BASE, ADAPTER = "#767676", "#0072B2"
TRAIN, VALIDATION, TEST = "#E69F00", "#009E73", "#CC79A7"
SPLITS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


def _axes(width: float = 8, height: float = 3.4) -> Axes:
    _, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _barh(counts: Mapping[str, float], label: str, colour: str) -> Axes:
    axes = _axes(height=0.8 + 0.32 * max(2, len(counts)))
    names = sorted(counts, key=lambda name: counts[name])
    bars = axes.barh(names, [counts[name] for name in names], color=colour)
    axes.bar_label(bars, labels=[f"{counts[name]:,}" for name in names], padding=4)
    axes.margins(x=0.12)
    axes.set_xlabel(label)
    return axes


def domains(counts: Mapping[str, int]) -> Axes:
    """Records of each domain."""
    return _barh(counts, "records", ADAPTER)


def shapes(counts: Mapping[str, int]) -> Axes:
    """Rows of each shape."""
    return _barh(counts, "rows", TRAIN)


def lengths(by_tokenizer: Mapping[str, Sequence[int]], max_tokens: int) -> Axes:
    """How long records are in tokens, a step line per tokenizer, on a logarithmic axis; the block length is marked."""
    import numpy as np

    axes = _axes()
    longest = max(max(values) for values in by_tokenizer.values())
    edges = np.geomspace(1, longest + 1, 40)
    for (name, values), colour in zip(by_tokenizer.items(), (ADAPTER, TRAIN), strict=False):
        axes.hist(values, bins=edges, histtype="step", linewidth=1.8, color=colour, label=name)
    axes.axvline(max_tokens, color="black", linestyle=":", label=f"max_tokens = {max_tokens}")
    axes.set(xscale="log", xlabel="tokens per record", ylabel="records")
    axes.legend(frameon=False)
    return axes


def fates(report: Mapping[str, Any]) -> Axes:
    """What became of every input row: kept in a split, rejected for a reason, or dropped as a duplicate."""
    counts = {**report["split_sizes"], **{f"rejected: {reason}": n for reason, n in report["rejected"].items()},
              "exact duplicate": report["duplicates_exact"], "near-duplicate": report["duplicates_near"] or 0}  # fmt: skip
    axes = _axes(height=0.8 + 0.36 * len(counts))
    names = list(reversed(counts))
    bars = axes.barh(names, [counts[n] for n in names], color=[SPLITS.get(n, BASE) for n in names])
    axes.bar_label(bars, labels=[f"{counts[n]:,} ({counts[n] / report['records_read']:.1%})" for n in names], padding=4)
    axes.margins(x=0.2)
    axes.set_xlabel("input rows")
    return axes


def split_domains(counts: Mapping[str, Mapping[str, int]]) -> Axes:
    """The share of each split's records that each domain has: bars of the same height mean a fair split."""
    names = sorted({domain for split in counts.values() for domain in split})
    axes = _axes(width=9)
    for place, (split, found) in enumerate(counts.items()):
        total = sum(found.values())
        where = [i + (place - 1) * 0.27 for i in range(len(names))]
        axes.bar(where, [found.get(name, 0) / total for name in names], 0.25, color=SPLITS[split], label=f"{split} ({total:,} records)")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_ylabel("share of the split")
    axes.legend(frameon=False, ncols=3, loc="upper left", bbox_to_anchor=(0, 1.18))
    return axes


def loss_curve(
    steps: Sequence[Mapping[str, Any]], before: float | None = None, after: float | None = None, axes: Axes | None = None,
    validations: Sequence[Mapping[str, Any]] = (),
) -> Axes:  # fmt: skip
    """Training loss by step, validation loss where it was measured; before and after as level lines (nats per supervised token)."""
    axes = axes or _axes()
    axes.plot([s["step"] for s in steps], [s["loss"] for s in steps], color=TRAIN, marker="o", markersize=3, label="training batch")
    measured = [(v["step"], v["loss"]) for v in validations if v["loss"] is not None]
    if measured:
        axes.plot(*zip(*measured, strict=True), color=VALIDATION, marker="s", markersize=6, label="validation, during training")
    if before is not None:
        axes.axhline(before, color=BASE, linestyle="--", label=f"validation, base model: {before:.3f}")
    if after is not None:
        axes.axhline(after, color=VALIDATION, label=f"validation, adapter: {after:.3f}")
    axes.set(xlabel="optimizer step", ylabel="loss, nats per supervised token")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    return axes


def paired_losses(domains: Mapping[str, Mapping[str, Any]]) -> Axes:
    """Base and adapter loss of each domain, joined by a line; left is better."""
    axes = _axes(height=0.9 + 0.36 * max(2, len(domains)))
    for place, facts in enumerate(domains.values()):
        axes.plot([facts["base"], facts["adapter"]], [place, place], color="#bbbbbb", zorder=1)
    for key, colour in (("base", BASE), ("adapter", ADAPTER)):
        axes.scatter([facts[key] for facts in domains.values()], range(len(domains)), color=colour, label=key, zorder=2)
    axes.set_yticks(range(len(domains)), [f"{name} ({facts['records']})" for name, facts in domains.items()])
    axes.invert_yaxis()
    axes.set_xlabel("loss, nats per supervised token (left is better); in brackets: records")
    axes.legend(frameon=False, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    return axes


def differences(domains: Mapping[str, Mapping[str, Any]]) -> Axes:
    """Forest plot: adapter minus base with its 95 % interval, a row per domain; left of zero the adapter is better.

    A filled point still differs from zero after the correction for looking at several domains; one without a line has too few documents.
    """
    axes = _axes(height=0.9 + 0.36 * max(2, len(domains)))
    for place, facts in enumerate(domains.values()):
        sure = facts.get("holm_p", facts.get("p"))
        colour = ADAPTER if sure is not None and sure < 0.05 else "white"
        if facts["low"] is not None:
            axes.plot([facts["low"], facts["high"]], [place, place], color=ADAPTER, zorder=1)
        axes.scatter([facts["difference"]], [place], facecolor=colour, edgecolor=ADAPTER, zorder=2)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(domains)), [f"{name} ({facts['records']})" for name, facts in domains.items()])
    axes.invert_yaxis()
    axes.set_xlabel("adapter − base, nats per supervised token (left is better); line: 95 % interval; filled: sure of all")
    return axes


def run_differences(rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Axes:
    """Several runs beside each other: for each domain (rows) the difference to the base model of each run (colours), with intervals."""
    names, runs = list(rows), list(next(iter(rows.values())))
    axes, palette = _axes(height=1.1 + 0.16 * len(names) * (len(runs) + 1)), (ADAPTER, TRAIN, VALIDATION, TEST, "#56B4E9", "#D55E00", BASE)
    for number, run in enumerate(runs):
        for place, name in enumerate(names):
            facts, height, colour = (
                rows[name][run],
                place + (number - (len(runs) - 1) / 2) * 0.7 / len(runs),
                palette[number % len(palette)],
            )
            if facts["low"] is not None:
                axes.plot([facts["low"], facts["high"]], [height, height], color=colour, zorder=1)
            axes.scatter([facts["difference"]], [height], color=colour, zorder=2, s=22, label=run if place == 0 else None)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("adapter − base, nats per supervised token (left is better); line: 95 % interval")
    axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
    return axes


def alternatives(rows: Sequence[Mapping[str, Any]]) -> Axes:
    """Validation and test loss of each alternative of a sweep, best on top; the base model's in grey, with the same marks."""
    axes = _axes(width=9, height=1.3 + 0.36 * max(2, len(rows)))
    places = range(len(rows) - 1, -1, -1)
    for split, colour, mark in (("validation", VALIDATION, "o"), ("test", TEST, "D")):
        for key, shade, whose in ((f"{split}_base", BASE, "base"), (split, colour, "adapter")):
            shown = [(row[key], place) for row, place in zip(rows, places, strict=True) if row[key] is not None]
            axes.scatter([loss for loss, _ in shown], [place for _, place in shown], color=shade, marker=mark, label=f"{whose}, {split}")
    axes.set_yticks(places, [f"{row['alternative']} ({row['minutes']:.1f} min)" for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("loss, nats per supervised token (left is better)\nin brackets: minutes of training")
    axes.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))
    return axes


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def data_url(axes: Axes) -> str:
    """The figure as an address that a self-contained page can hold; the figure is closed."""
    return "data:image/png;base64," + base64.b64encode(png(axes.figure)).decode()
