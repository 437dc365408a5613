"""Every figure is rendered: no text is cut off or overlaps another, the background is opaque, the alternative text has the numbers."""

import ast
import re
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from mistral_lib.display import data_plots, figure, flow_plot, loss_plots, training_curve
from mistral_lib.display.figure import DARK, Picture
from mistral_lib.evaluation import paired_difference, report
from mistral_lib.run import paths

LONG = {f"a_domain_with_a_long_name_{n}": 10 ** (n % 5) for n in range(14)}
NOTES = {"faq": 900, **{f"note{n}": 1 + n % 3 for n in range(3000)}}
SPLITS = {split: {"rules": 40, "a_domain_with_a_long_name": 7, "guides": 1} for split in figure.SPLITS}
LOSSES = {
    f"domain_{n}": {"base": 3 - n / 10, "adapter": 2.4, "difference": -0.5, "low": -0.9, "high": -0.1, "records": 40} for n in range(9)
}
SWEPT = [
    {
        "alternative": f"lora_rank={n} learning_rate=0.0{n}",
        "validation": 2.4,
        "validation_base": 2.9,
        "test": 2.5,
        "test_base": None,
        "minutes": n,
    }
    for n in range(1, 8)
]
STEPS = [{"step": n, "steps": 40, "loss": 3 - n / 20} for n in range(1, 30)]
VALIDATIONS = [{"step": 4, "loss": 2.6}, {"step": 8, "loss": 2.5}]
CURVES = training_curve.Curves(STEPS[:12], VALIDATIONS, baseline=2.9, final=2.4)
LONGER = training_curve.Curves(STEPS, VALIDATIONS, baseline=2.9, final=None)
REASONS = {
    "unknown_shape": 300,
    "truncated_line": 12,
    "answer_too_short": 900,
    "boilerplate": 44,
    "mostly_html": 3,
    "not_json": 1,
    "b": 1,
    "c": 2,
}


def counts(rejected: dict[str, int], exact: int = 57, near: int | None = 258) -> dict:
    kept = {"train": 5263, "validation": 537, "test": 648}
    read = sum(kept.values()) + sum(rejected.values()) + exact + (near or 0)
    return {
        "records_read": read, "records_kept": sum(kept.values()), "rejected": rejected, "duplicates_exact": exact, "duplicates_near": near,
        "split_sizes": kept, "windows": {"train": 6265, "validation": 721, "test": 805}, "blocks": {"train": 2487, "validation": 4, "test": 375},
    }  # fmt: skip


LENGTHS = np.random.default_rng(0).lognormal(5, 1.2, 2000).astype(int) + 1
LEAKS = {
    "random 80/20": {"held_out": 1352, "same text": 73, "document": 1352},
    "this split": {"held_out": 1185, "same text": 0, "document": 0},
}
SENTIMENT = (["positive", "neutral", "negative"], [[30, 2, 0, 1], [14, 9, 6, 4], [0, 1, 1250, 0]])
CODES = ([f"a label of many words, number {n}" for n in range(12)], np.random.default_rng(0).integers(0, 90, (12, 13)).tolist())
KEPT = {
    form: {"size": size, "kept": kept, "kept_low": kept - 0.03, "kept_high": kept + 0.03, "passed": kept > 0.9}
    for form, size, kept in (
        ("merged", "13.49 GiB", 1.0),
        ("q8_0", "7.17 GiB", 0.98),
        ("q4_k_m", "4.07 GiB", 0.71),
        ("lora_gguf", "13.65 GiB", 1.04),
    )
}
CASES: dict[str, Callable[[], Axes]] = {
    "domains": lambda: data_plots.domains(LONG),
    "domains, one": lambda: data_plots.domains({"only": 3}),
    "domains, thousands": lambda: data_plots.domains(NOTES),
    "split_domains, thousands": lambda: data_plots.split_domains(dict.fromkeys(figure.SPLITS, NOTES)),
    "mixture, thousands": lambda: data_plots.mixture(NOTES, {name: count * 2 for name, count in NOTES.items()}),
    "shapes": lambda: data_plots.shapes({"prompt_completion": 1000, "messages": 2_000_000}),
    "lengths": lambda: data_plots.lengths({"base model's tokenizer": LENGTHS, "Mistral v3": LENGTHS * 2}, 512),
    "lengths, one record": lambda: data_plots.lengths({"base model's tokenizer": [40]}, 32768),
    "split_domains": lambda: data_plots.split_domains(SPLITS),
    "split_domains, many": lambda: data_plots.split_domains(dict.fromkeys(figure.SPLITS, LONG)),
    "leak": lambda: data_plots.leak(LEAKS),
    "lost_to_length": lambda: data_plots.lost_to_length(LENGTHS, [512, 1024, 2048, 4096]),
    "lost_to_length, nothing": lambda: data_plots.lost_to_length([40, 50], [512, 32768]),
    "mixture": lambda: data_plots.mixture(LONG, {name: count // 2 for name, count in LONG.items()}),
    "loss_curve": lambda: loss_plots.loss_curve(STEPS, 2.9, 2.4),
    "loss_curve, with validations": lambda: loss_plots.loss_curve(STEPS[:12], 2.9, 2.4, VALIDATIONS),
    "loss_curve, in the report": lambda: report.narrow(loss_plots.loss_curve(STEPS, 2.9, 2.4)),
    "draw, a training's first steps": lambda: training_curve.draw(CURVES),
    "draw, beside an earlier run": lambda: training_curve.draw(CURVES, LONGER, "an_earlier_run, 23 Nov 14:05:09"),
    "draw, nothing yet": lambda: training_curve.draw(training_curve.Curves([], [], None, None)),
    "paired_losses, in the report": lambda: report.narrow(loss_plots.paired_losses(LOSSES)),
    "differences, in the report": lambda: report.narrow(loss_plots.differences(LOSSES, ["domain_0"])),
    "paired_losses, one": lambda: loss_plots.paired_losses({"only": LOSSES["domain_1"]}),
    "paired_losses": lambda: loss_plots.paired_losses(LOSSES),
    "run_differences": lambda: loss_plots.run_differences({name: {"demo": facts, "another_run": facts} for name, facts in LOSSES.items()}),
    "confusion": lambda: loss_plots.confusion(SENTIMENT[0], SENTIMENT[1], SENTIMENT[1]),
    "confusion, many labels": lambda: loss_plots.confusion(CODES[0], CODES[1], CODES[1]),
    "confusion, in the report": lambda: report.narrow(loss_plots.confusion(SENTIMENT[0], SENTIMENT[1], SENTIMENT[1])),
    "alternatives": lambda: loss_plots.alternatives(SWEPT),
    "differences": lambda: loss_plots.differences(LOSSES, ["domain_0"]),
    "kept_gain": lambda: loss_plots.kept_gain(KEPT, 0.9),
    "flow": lambda: flow_plot.flow(counts({"placeholder_answer": 1}), 512),
    "flow, many reasons": lambda: flow_plot.flow(counts(REASONS), 32768),
    "flow, nearly all lost": lambda: flow_plot.flow(counts({"unknown_shape": 500_000, "not_json": 4}, near=None), 512),
    "flow, nothing lost": lambda: flow_plot.flow(counts({}, exact=0, near=0), 512),
}


@pytest.fixture(params=CASES, ids=str)
def axes(request: pytest.FixtureRequest):
    drawn = CASES[request.param]()
    drawn.figure.set_dpi(110)
    FigureCanvasAgg(drawn.figure).draw()
    yield drawn
    plt.close(drawn.figure)


def drawing_functions() -> set[str]:
    """The library's public functions that return axes with a picture on them."""
    trees = [ast.parse(path.read_text()) for path in (paths.project() / "mistral_lib").rglob("*.py")]
    every = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef) and node.returns]
    return {node.name for node in every if ast.unparse(node.returns) == "Axes" and not node.name.startswith("_")} - HELPERS


HELPERS = {"new_axes", "narrow"}  # empty axes; an existing figure made narrower


def test_no_figure_is_left_out() -> None:
    assert {name.split(",")[0] for name in CASES} == drawing_functions()


def boxes(texts: list[Text]) -> list[tuple[str, Bbox]]:
    return [(text.get_text(), text.get_window_extent()) for text in texts if text.get_visible() and text.get_text().strip()]


def labels(one: Axes) -> list[Text]:
    """The texts in and around an axes; of the tick labels only those within its limits."""
    ticks = [
        label
        for axis in (one.xaxis, one.yaxis)
        for label, place in zip(axis.get_ticklabels(), axis.get_ticklocs(), strict=True)
        if min(axis.get_view_interval()) <= place <= max(axis.get_view_interval())
    ]
    legend = one.get_legend().get_texts() if one.get_legend() else []
    return [*one.texts, *(ticks if one.axison else []), *([one.xaxis.label, one.yaxis.label] if one.axison else []), *legend]


def test_every_word_is_within_the_figure(axes: Axes) -> None:
    frame = axes.figure.bbox
    for one in axes.figure.axes:
        for words, box in boxes(labels(one)):
            assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= frame.x1 + 1 and box.y1 <= frame.y1 + 1, f"{words!r} is cut off"


def test_no_text_overlaps_another(axes: Axes) -> None:
    for one in axes.figure.axes:
        straight = [text for text in labels(one) if not text.get_rotation() % 90]
        for (words, box), (others, other) in combinations(boxes(straight), 2):
            inside = Bbox.intersection(box, other)
            assert inside is None or min(inside.width, inside.height) < 1.5, f"{words!r} overlaps {others!r}"


def test_the_background_is_opaque_and_white_in_every_theme(axes: Axes) -> None:
    assert axes.figure.get_facecolor() == (1, 1, 1, 1)


def test_no_mark_lies_on_the_frame(axes: Axes) -> None:
    for one in axes.figure.axes:
        for marks in one.collections:
            if marks.get_offsets().size and not isinstance(marks, PolyCollection):
                shown = one.transData.transform(np.asarray(marks.get_offsets()))
                assert (shown > one.bbox.min + 5).all() and (shown < one.bbox.max - 5).all(), "a mark lies on the frame"


@pytest.mark.parametrize("name", [name for name in CASES if name != "draw, nothing yet"])
def test_the_alternative_text_is_also_the_plain_form(name: str) -> None:
    picture = Picture(CASES[name]())
    shown = picture._repr_mimebundle_()
    assert shown["text/plain"] == picture.alt_text and any(digit in picture.alt_text for digit in "123456789")
    assert shown["text/html"] == DARK + picture.tag() and 'alt="' in shown["text/html"] and picture.png.startswith(b"\x89PNG")
    assert not plt.get_fignums(), "a figure that stays open is shown twice"


def test_a_figure_without_alternative_text_is_refused() -> None:
    axes = plt.subplots()[1]
    with pytest.raises(ValueError, match="has no alternative text"):
        Picture(axes)
    plt.close(axes.figure)


def test_of_thousands_of_domains_the_largest_are_shown_and_no_count_is_lost() -> None:
    shown = figure.largest(NOTES)
    assert len(shown) == figure.MOST_BARS and sum(shown.values()) == sum(NOTES.values()) and shown["faq"] == 900 and "2,982 others" in shown
    words = Picture(data_plots.mixture(NOTES, {"faq": 1800})).alt_text
    assert "faq 900" in words and "faq 1,800" in words and f"2,982 others {sum(NOTES.values()) - 900 - 3 * 18:,}" in words
    assert figure.largest(SPLITS["train"]) == SPLITS["train"]


def test_the_numbers_of_the_flow_add_up_and_further_reasons_are_summed() -> None:
    words = Picture(flow_plot.flow(counts(REASONS), 512)).alt_text
    second = words.splitlines()[1].split(": ")[1]
    total, *parts = (int(number.replace(",", "")) for number in re.findall(r"(?<![a-z_])\d[\d,]*", second.replace("3 other", "other")))
    assert total == sum(parts) and "3 other reasons" in second


def test_tokens_lost_to_length_are_those_counted_by_hand() -> None:
    words = Picture(data_plots.lost_to_length([100, 600, 1300], [512, 1024])).alt_text
    assert "512: 2 records above, 0.4380 of all tokens beyond" in words  # (88 + 788) / 2000
    assert "1,024: 1 records above, 0.1380 of all tokens beyond" in words  # 276 / 2000


def test_the_alternative_text_of_losses_begins_with_the_finding() -> None:
    def first(axes: Axes) -> str:
        return Picture(axes).alt_text.splitlines()[0]

    assert first(loss_plots.loss_curve(STEPS, 2.9, 2.4)) == "the validation loss fell: 2.9000 → 2.4000 nats per supervised token"
    assert first(loss_plots.loss_curve(STEPS, 2.4, 2.9)).startswith("the validation loss did not fall")
    worse = {"good": LOSSES["domain_0"], "bad": {**LOSSES["domain_1"], "adapter": 3.5}}
    assert first(loss_plots.paired_losses(worse)) == "the adapter's loss is lower in 1 of 2 domains"
    judged = {"good": {**LOSSES["domain_0"], "holm_p": 0.01}, "unsure": {**LOSSES["domain_1"], "holm_p": 0.2}}
    assert (
        first(loss_plots.differences(judged, paired_difference.beyond_chance(judged)))
        == "different from the base model beyond chance: good, of 2 rows"
    )
    assert first(loss_plots.alternatives(SWEPT)).startswith("lowest validation loss: lora_rank=1 learning_rate=0.01, 2.4000")
    rows = {name: {"demo": facts, "other": {**facts, "difference": -0.9}} for name, facts in worse.items()}
    assert first(loss_plots.run_differences(rows)) == "the lowest run, counted over 2 rows: demo in 0, other in 2"


def test_confusion_has_its_counts_in_words_and_sums_up_many_labels() -> None:
    axes = loss_plots.confusion(["good", "bad"], [[3, 1, 0], [2, 0, 1]], [[4, 0, 0], [0, 3, 0]])
    text = Picture(axes).alt_text
    assert text.splitlines()[0] == "right answers on the diagonal: base 3 of 7, adapter 7 of 7"
    assert "good: base [3, 1, 0], adapter [4, 0, 0]" in text and "bad: base [2, 0, 1], adapter [0, 3, 0]" in text
    many = [[5 if row == column else 0 for column in range(31)] for row in range(30)]
    many[29] = [0] * 29 + [9, 2]  # the most frequent label
    text = Picture(loss_plots.confusion([f"label {n}" for n in range(30)], many, many)).alt_text
    assert (
        len(text.splitlines()) == 2 + figure.MOST_BARS
        and "\n11 others: base" in text
        and text.splitlines()[2].startswith("label 29: base [9, ")
    )
    assert "adapter 154 of 156" in text.splitlines()[0]


def test_kept_gain_has_a_row_for_each_measured_form_and_begins_with_how_many_pass() -> None:
    forms = {
        "merged": {"size": "516 MiB", "kept": 1.0, "kept_low": 0.99, "kept_high": 1.01, "passed": True},
        "q4_k_m": {"size": "90 MiB", "kept": 0.62, "kept_low": 0.5, "kept_high": 0.7, "passed": False},
        "cut short": {"size": "2 MiB", "kept": None, "kept_low": None, "kept_high": None, "passed": False},
    }
    axes = loss_plots.kept_gain(forms, 0.9)
    lines = Picture(axes).alt_text.splitlines()
    assert lines == ["1 of 2 measured forms are the adapter and keep at least 90% of its gain", "merged, 516 MiB: 100.0%", "q4_k_m, 90 MiB: 62.0%"]  # fmt: skip
    assert [label.get_text() for label in axes.get_yticklabels()] == ["merged, 516 MiB", "q4_k_m, 90 MiB"]
    assert "required: 90%" in [text.get_text() for text in axes.get_legend().get_texts()]
