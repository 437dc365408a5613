"""Figures of losses, in nats per supervised token: a training's curve, base against adapter, runs and alternatives; and of labels.

One function each, returning the axes. Each figure's alternative text begins with its finding, and then gives the numbers.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from mistral_lib.display.figure import ADAPTER, BASE, MOST_BARS, REJECTED, TEST, TRAIN, VALIDATION, legend, new_axes

UNIT = "nats per supervised token"
LONGEST_NAME = 24  # characters of a label at an axis
LINK = "#bbbbbb"  # the line between the two marks of a domain
RUNS = (ADAPTER, TRAIN, VALIDATION, TEST, "#56B4E9", REJECTED, BASE)


def loss_curve(steps: Sequence[Mapping[str, Any]], before: float, after: float, validations: Sequence[Mapping[str, Any]] = ()) -> Axes:
    """Training loss by step and the validation losses measured during training; before and after: horizontal lines."""
    axes, losses = new_axes(), [step["loss"] for step in steps]
    axes.plot([step["step"] for step in steps], losses, color=TRAIN, marker="o", markersize=3, label="training batch")
    measured = [(v["step"], v["loss"]) for v in validations if v["loss"] is not None]
    if measured:
        axes.plot(*zip(*measured, strict=True), color=VALIDATION, marker="s", markersize=6, label="validation, during training")
    axes.axhline(before, color=BASE, linestyle="--", label=f"validation, base model: {before:.3f}")
    axes.axhline(after, color=VALIDATION, label=f"validation, adapter: {after:.3f}")
    axes.set(xlabel="optimizer step", ylabel=f"loss, {UNIT}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    legend(axes, columns=2)
    lines = [f"the validation loss {'fell' if after < before else 'did not fall'}: {before:.4f} → {after:.4f} {UNIT}"]
    if measured:
        lines.append("validation during training: " + ", ".join(f"step {step} {loss:.4f}" for step, loss in measured))
    if losses:
        lines.append(f"{len(losses)} training batches: from {min(losses):.3f} to {max(losses):.3f}, the last {losses[-1]:.3f}")
    axes.figure.set_label("\n".join(lines))
    return axes


def paired_losses(domains: Mapping[str, Mapping[str, Any]]) -> Axes:
    """Base and adapter loss of each domain, connected by a line; left is better."""
    axes = new_axes(height=0.9 + 0.36 * max(2, len(domains)))
    for place, facts in enumerate(domains.values()):
        axes.plot([facts["base"], facts["adapter"]], [place, place], color=LINK, zorder=1)
    for key, color in (("base", BASE), ("adapter", ADAPTER)):
        axes.scatter([facts[key] for facts in domains.values()], range(len(domains)), color=color, label=key, zorder=2)
    _rows(axes, [f"{name} ({facts['records']})" for name, facts in domains.items()])
    axes.set_xlabel(f"loss, {UNIT} (left is better); in brackets: records")
    legend(axes, columns=2)
    lower = sum(facts["adapter"] < facts["base"] for facts in domains.values())
    pairs = ", ".join(f"{name} {facts['base']:.3f} → {facts['adapter']:.3f}" for name, facts in domains.items())
    axes.figure.set_label(f"the adapter's loss is lower in {lower} of {len(domains)} domains\nbase → adapter, {UNIT}: {pairs}")
    return axes


def differences(domains: Mapping[str, Mapping[str, Any]], beyond_chance: Collection[str]) -> Axes:
    """Forest plot: adapter minus base with its 95 % interval, a row per domain; left of zero the adapter is better.

    beyond_chance: the rows whose difference is not due to chance (paired_difference.beyond_chance); their marks are filled.
    A mark without a line has too few documents for an interval.
    """
    axes = new_axes(height=0.9 + 0.36 * max(2, len(domains)))
    for place, (name, facts) in enumerate(domains.items()):
        if facts["low"] is not None:
            axes.plot([facts["low"], facts["high"]], [place, place], color=ADAPTER, zorder=1)
        axes.scatter([facts["difference"]], [place], facecolor=ADAPTER if name in beyond_chance else "white", edgecolor=ADAPTER, zorder=2)
    axes.axvline(0, color="black", linewidth=0.8)
    _rows(axes, [f"{name} ({facts['records']})" for name, facts in domains.items()])
    axes.set_xlabel("adapter − base, nats per supervised token, with 95 % interval; filled: beyond chance")
    named = ", ".join(name for name in domains if name in beyond_chance) or "none"
    found = f"different from the base model beyond chance: {named}, of {len(domains)} rows"
    axes.figure.set_label(f"{found}\nadapter − base, {UNIT}: " + ", ".join(f"{name} {interval(facts)}" for name, facts in domains.items()))
    return axes


def interval(facts: Mapping[str, Any]) -> str:
    """`-0.385 (-0.478 to -0.232)`, or `-0.385 (no interval)`."""
    between = f"{facts['low']:+.3f} to {facts['high']:+.3f}" if facts["low"] is not None else "no interval"
    return f"{facts['difference']:+.3f} ({between})"


def confusion(labels: Sequence[str], base: Sequence[Sequence[int]], adapter: Sequence[Sequence[int]]) -> Axes:
    """Confusion of both models: a row per right label, a column per answer, the last one for answers that are no label; darker is more
    of the row. Of many labels the most frequent are shown, all others together."""
    matrices = [np.asarray(base), np.asarray(adapter)]
    names, matrices = _most_frequent(labels, matrices)
    axes = new_axes(width=9, height=1.4 + 0.34 * len(names) + 0.09 * max(map(len, [*names, "no label"])))  # room for the names, upright
    figure = axes.figure
    axes.remove()
    for number, (who, matrix) in enumerate(zip(("base", "adapter"), matrices, strict=True), 1):
        axes = figure.add_subplot(1, 2, number)
        axes.imshow(matrix / np.maximum(matrix.sum(1, keepdims=True), 1), cmap="Blues" if who == "adapter" else "Greys", vmin=0, vmax=1.4)
        for (row, column), count in np.ndenumerate(matrix):
            axes.text(column, row, str(count) if count else "", ha="center", va="center", fontsize=8)
        axes.set_yticks(range(len(names)), names if number == 1 else [""] * len(names))
        axes.set_xticks(range(len(names) + 1), [*names, "no label"], rotation=90)
        axes.set(title=who, xlabel="answer", ylabel="right label" if number == 1 else "")
    right = [f"{who} {int(np.trace(matrix))} of {int(matrix.sum())}" for who, matrix in zip(("base", "adapter"), matrices, strict=True)]
    rows = [f"{name}: base {base.tolist()}, adapter {adapter.tolist()}" for name, base, adapter in zip(names, *matrices, strict=True)]
    head = f"rows: right label; columns: answers {', '.join([*names, 'no label'])}"
    figure.set_label("\n".join([f"right answers on the diagonal: {', '.join(right)}", head, *rows]))
    return axes


def _most_frequent(labels: Sequence[str], matrices: list[np.ndarray]) -> tuple[list[str], list[np.ndarray]]:
    """Short names, and the matrices with the rows and columns of the least frequent labels added up, if there are more than MOST_BARS."""
    names = [label if len(label) <= LONGEST_NAME else label[: LONGEST_NAME - 1] + "…" for label in labels]
    if len(names) <= MOST_BARS:
        return names, matrices
    order = np.argsort(-matrices[0].sum(1), kind="stable")
    group = np.full(len(names) + 1, MOST_BARS - 1)
    group[order[: MOST_BARS - 1]], group[-1] = np.arange(MOST_BARS - 1), MOST_BARS
    summed = [np.zeros((MOST_BARS, MOST_BARS + 1), int) for _ in matrices]
    for total, matrix in zip(summed, matrices, strict=True):
        np.add.at(total, (group[:-1, None], group[None, :]), matrix)
    return [*(names[n] for n in order[: MOST_BARS - 1]), f"{len(names) - MOST_BARS + 1} others"], summed


def run_differences(rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Axes:
    """The difference of several runs (colors) to the base model, for each domain (rows), with 95 % intervals. rows: domain → run → facts."""
    names, runs = list(rows), list(next(iter(rows.values())))
    axes = new_axes(height=1.1 + 0.16 * len(names) * (len(runs) + 1))
    for number, run in enumerate(runs):
        color, offset = RUNS[number % len(RUNS)], (number - (len(runs) - 1) / 2) * 0.7 / len(runs)
        for place, name in enumerate(names):
            facts, height = rows[name][run], place + offset
            if facts["low"] is not None:
                axes.plot([facts["low"], facts["high"]], [height, height], color=color, zorder=1)
            axes.scatter([facts["difference"]], [height], color=color, zorder=2, s=22, label=run if place == 0 else None)
    axes.axvline(0, color="black", linewidth=0.8)
    _rows(axes, names)
    axes.set_xlabel(f"adapter − base, {UNIT} (left is better); line: 95 % interval")
    legend(axes, columns=4)
    lowest = {run: sum(run == min(runs, key=lambda one: found[one]["difference"]) for found in rows.values()) for run in runs}
    lines = [f"{run}: " + ", ".join(f"{name} {interval(rows[name][run])}" for name in names) for run in runs]
    found = ", ".join(f"{run} in {count}" for run, count in lowest.items())
    axes.figure.set_label("\n".join([f"the lowest run, counted over {len(names)} rows: {found}", f"adapter − base, {UNIT}", *lines]))
    return axes


def alternatives(rows: Sequence[Mapping[str, Any]]) -> Axes:
    """Validation and test loss of each alternative of a sweep, best on top; the base model's in gray, with the same marks."""
    axes = new_axes(width=9, height=1.3 + 0.36 * max(2, len(rows)))
    for split, color, mark in (("validation", VALIDATION, "o"), ("test", TEST, "D")):
        for key, shade, whose in ((f"{split}_base", BASE, "base"), (split, color, "adapter")):
            shown = [(row[key], place) for place, row in enumerate(rows) if row[key] is not None]
            axes.scatter([loss for loss, _ in shown], [place for _, place in shown], color=shade, marker=mark, label=f"{whose}, {split}")
    _rows(axes, [f"{row['alternative']} ({row['minutes']:.1f} min)" for row in rows])
    axes.set_xlabel(f"loss, {UNIT} (left is better)\nin brackets: minutes of training")
    axes.legend(frameon=False, ncols=4, loc="lower right", bbox_to_anchor=(1, 1))
    best = min(rows, key=lambda row: row["validation"])
    head = f"lowest validation loss: {best['alternative']}, {best['validation']:.4f} {UNIT}; base model {best['validation_base']:.4f}"
    axes.figure.set_label("\n".join([head, *(alternative_text(row) for row in rows)]))
    return axes


def alternative_text(row: Mapping[str, Any]) -> str:
    test = f", test {row['test']:.4f}" if row["test"] is not None else ""
    return f"{row['alternative']}: validation {row['validation']:.4f}{test}, {row['minutes']:.1f} minutes"


def kept_gain(forms: Mapping[str, Mapping[str, Any]], required: float) -> Axes:
    """The share of the adapter's gain that each exported form keeps, with its 95 % interval; right of the dashed line it is enough.

    forms: of each its `size` as text, `kept`, `kept_low`, `kept_high` and `passed`; filled marks passed. Those without `kept` are left out.
    """
    rows = {f"{name}, {facts['size']}": facts for name, facts in forms.items() if facts["kept"] is not None}
    axes = new_axes(height=0.9 + 0.36 * max(2, len(rows)))
    for place, facts in enumerate(rows.values()):
        if facts["kept_low"] is not None:
            axes.plot([100 * facts["kept_low"], 100 * facts["kept_high"]], [place, place], color=ADAPTER, zorder=1)
        axes.scatter([100 * facts["kept"]], [place], facecolor=ADAPTER if facts["passed"] else "white", edgecolor=ADAPTER, zorder=2)
    axes.axvline(0, color=BASE, label="base model")
    axes.axvline(100, color="black", linewidth=0.8, label="adapter, as evaluated")
    axes.axvline(100 * required, color=REJECTED, linestyle="--", label=f"required: {required:.0%}")
    _rows(axes, list(rows))
    axes.set_xlabel("share of the adapter's gain that the form keeps, %, with 95 % interval; filled: it is the adapter")
    legend(axes, columns=3)
    passed = sum(bool(facts["passed"]) for facts in rows.values())
    found = f"{passed} of {len(rows)} measured forms are the adapter and keep at least {required:.0%} of its gain"
    axes.figure.set_label("\n".join([found, *(f"{name}: {facts['kept']:.1%}" for name, facts in rows.items())]))
    return axes


def _rows(axes: Axes, names: Sequence[str]) -> None:
    """A row per name, the first on top, with space above the first and below the last; no mark on the frame."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.margins(x=0.06)
