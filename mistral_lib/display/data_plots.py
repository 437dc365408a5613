"""Figures of the data: domains, shapes, lengths, splits, leaks, mixture. One function each, returning the axes."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mistral_lib.display.figure import ADAPTER, BASE, REJECTED, SPLITS, TRAIN, VALIDATION, as_named, counts_text, largest, legend, new_axes


def domains(counts: Mapping[str, int]) -> Axes:
    """Records of each domain."""
    return _bars(counts, "records", "domain", ADAPTER)


def shapes(counts: Mapping[str, int]) -> Axes:
    """Rows of each shape."""
    return _bars(counts, "rows", "shape", TRAIN)


def _bars(counts: Mapping[str, int], unit: str, kind: str, color: str) -> Axes:
    counts = largest(counts)
    axes = new_axes(height=0.8 + 0.32 * max(2, len(counts)))
    names = sorted(counts, key=counts.__getitem__)
    axes.bar_label(axes.barh(names, [counts[name] for name in names], color=color), fmt="{:,.0f}", padding=4)
    axes.margins(x=0.12)
    axes.set_xlabel(unit)
    axes.figure.set_label(counts_text(f"{unit} by {kind}", counts))
    return axes


def lengths(by_tokenizer: Mapping[str, Sequence[int]], max_tokens: int) -> Axes:
    """Histogram of the tokens per record, a line per tokenizer, on a logarithmic axis; max_tokens is marked."""
    axes = new_axes()
    shortest, longest = (choose(choose(values) for values in by_tokenizer.values()) for choose in (min, max))
    edges = np.geomspace(max(1, shortest), longest + 1, 40)
    lines = []
    for values, color, style in zip(by_tokenizer.values(), (ADAPTER, TRAIN), ("-", "--"), strict=False):
        axes.hist(values, bins=edges, histtype="step", linewidth=1.8, linestyle=style, color=color)
        lines.append(Line2D([], [], color=color, linestyle=style))
    lines.append(axes.axvline(max_tokens, color="black", linestyle=":"))
    axes.set(xscale="log", xlabel="tokens per record", ylabel="records")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    names = [*by_tokenizer, f"max_tokens = {max_tokens:,}"]
    legend(axes, columns=len(names), handles=lines, labels=names, borderaxespad=0.2)
    middle = {name: int(np.median(list(values))) for name, values in by_tokenizer.items()}
    axes.figure.set_label(counts_text("median of the tokens per record", middle))
    return axes


def split_domains(counts: Mapping[str, Mapping[str, int]]) -> Axes:
    """The share of each domain in the records of each split: bars of equal height mean a fair split."""
    together = sum(map(Counter, counts.values()), Counter())
    names = list(largest({domain: together[domain] for domain in sorted(together)}))
    counts = {split: as_named(found, names) for split, found in counts.items()}
    axes = new_axes(width=9)
    for place, (split, found) in enumerate(counts.items()):
        total = sum(found.values())
        where = np.arange(len(names)) + (place - 1) * 0.27
        axes.bar(where, [count / total for count in found.values()], 0.25, color=SPLITS[split], label=f"{split} ({total:,} records)")
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_ylabel("share of the split")
    legend(axes, columns=3)
    axes.figure.set_label("\n".join(counts_text(split, found) for split, found in counts.items()))
    return axes


def leak(by_split: Mapping[str, Mapping[str, int]]) -> Axes:
    """The share of held-out records with a counterpart in training: a bar per split method and kind of leak.

    by_split: name of the split method → kind of leak → records; `held_out`: the number of held-out records.
    """
    kinds = [kind for kind in next(iter(by_split.values())) if kind != "held_out"]
    axes = new_axes(height=0.9 + 0.62 * len(kinds))
    for place, ((name, counts), color) in enumerate(zip(by_split.items(), (BASE, VALIDATION), strict=False)):
        shares = [counts[kind] / max(1, counts["held_out"]) for kind in kinds]
        bars = axes.barh(np.arange(len(kinds)) + (place - 0.5) * 0.38, shares, 0.34, color=color, label=name)
        axes.bar_label(bars, labels=[f"{counts[kind]:,} of {counts['held_out']:,}" for kind in kinds], padding=4, fontsize=9)
    _share_axes(axes, kinds, "share of the held-out records that have a counterpart in training")
    axes.set(xlim=(0, 1.22), xticks=[0, 0.25, 0.5, 0.75, 1])
    axes.figure.set_label("\n".join(counts_text(name, counts) for name, counts in by_split.items()))
    return axes


def lost_to_length(tokens: Sequence[int], limits: Sequence[int]) -> Axes:
    """Left: the tokens by the length of their record. Right: the share of tokens beyond each max_tokens, which `truncate` cuts off and
    `split` puts into further windows. tokens: of each complete record."""
    tokens = np.asarray(tokens)
    above = {limit: np.count_nonzero(tokens > limit) for limit in limits}
    beyond = {limit: np.clip(tokens - limit, 0, None).sum() / tokens.sum() for limit in limits}
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained", facecolor="white", width_ratios=(3, 2))
    left.hist(tokens, bins=np.geomspace(max(1, tokens.min()), tokens.max() + 1, 40), weights=tokens / tokens.sum(), color=ADAPTER)
    for limit in limits:
        left.axvline(limit, color="black", linestyle=":", linewidth=1)
    left.set(xscale="log", xlabel="tokens per record (dotted: each max_tokens)", ylabel="share of all tokens")
    left.yaxis.set_major_formatter("{x:.0%}")
    left.xaxis.set_major_formatter("{x:,.0f}")
    bars = right.barh([f"{limit:,}" for limit in limits], list(beyond.values()), color=REJECTED)
    right.bar_label(bars, [f"{share:.1%} in {above[limit]:,} records" for limit, share in beyond.items()], padding=4, fontsize=9)
    right.set(xlabel="share of all tokens beyond max_tokens", ylabel="max_tokens", xlim=(0, max(*beyond.values(), 0.05) * 1.9))
    right.invert_yaxis()
    right.xaxis.set_major_formatter("{x:.0%}")
    right.locator_params(axis="x", nbins=4)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    lines = [f"{limit:,}: {above[limit]:,} records above, {share:.4f} of all tokens beyond" for limit, share in beyond.items()]
    figure.set_label("max_tokens\n" + "\n".join(lines))
    return left


def mixture(before: Mapping[str, int], after: Mapping[str, int]) -> Axes:
    """Each domain's share of the training tokens: of those available and of those trained on."""
    names = list(largest(Counter(before) | Counter(after)))
    before, after = as_named(before, names), as_named(after, names)
    axes = new_axes(height=1.1 + 0.44 * max(2, len(names)))
    for place, (name, counts, color) in enumerate((("available", before, BASE), ("trained on", after, TRAIN))):
        total = sum(counts.values()) or 1
        shares = [count / total for count in counts.values()]
        heights = np.arange(len(names)) + (place - 0.5) * 0.4
        bars = axes.barh(heights, shares, 0.36, color=color, label=f"{name}: {total:,} tokens")
        axes.bar_label(bars, [f"{share:.1%}" for share in shares], padding=4, fontsize=8)
    _share_axes(axes, names, "share of the training tokens")
    axes.margins(x=0.1)
    axes.figure.set_label(counts_text("training tokens available", before) + "\n" + counts_text("trained on", after))
    return axes


def _share_axes(axes: Axes, names: Sequence[str], label: str) -> None:
    """A row per name, the first on top; shares in percent; the legend of the two bars of each row."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10]))  # no ticks at 2.5 %, which would be written as 2 %
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel(label)
    legend(axes, columns=2)
