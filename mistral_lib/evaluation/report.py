"""evaluation/report.html: one self-contained page with its images inside, without requests to the network."""

import re
import textwrap
from collections.abc import Mapping
from datetime import UTC, datetime
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from jinja2 import Environment
from matplotlib.axes import Axes

from mistral_lib.display import loss_plots
from mistral_lib.display.figure import Picture, legend
from mistral_lib.evaluation import answer_metrics, cards, paired_difference, result_tables, summary, verdict
from mistral_lib.model import base_model
from mistral_lib.preparation import stage_inputs
from mistral_lib.run import Run, files
from mistral_lib.run.settings import Settings
from mistral_lib.training import plan_table, training_log, workload

PAGE = Path(__file__).with_name("report_page.html")
COLORS = {verdict.SHIP: "#00664b", verdict.DO_NOT_SHIP: "#a13f00", verdict.NOT_ENOUGH: "#595959"}
SIGNS = {verdict.PASSED: "✓", verdict.FAILED: "✗", verdict.UNKNOWN: "?"}
LONGEST_SHOWN = 1200  # characters of a text in the report


def page(run: Run, result: dict[str, Any], samples: list[dict[str, Any]]) -> str:
    """The report's HTML, from the evaluation's result, its samples and the earlier stages in the run folder."""
    training = files.read_json(run.folder / "training" / "result.json")
    data = files.read_json(run.folder / "data" / "report.json")
    return render(
        "evaluation", name=run.folder.name, result=result, training=training, data=data, settings=run.settings, signs=SIGNS,
        figures=figures(run, result, training["validation_loss"]), samples=[shown(sample) for sample in samples],
        rows=[*result["domains"].items(), ("all", result["overall"])], rejected=sum(data["rejected"].values()), plan=plan(run.settings, training),
        color=COLORS[result["verdict"]], machine=run.entry("training")["machine"], provenance=provenance(run), span=verdict.span,
        copied=answer_metrics.COPIED, base_model=base_model.shown_name(run.settings.base_model), stale_note="".join(stage_inputs.STALE_NOTE),
        trained=summary.what_was_trained(run.settings, training, data), actions=summary.next_actions(run.settings, result, training, data),
        confusions=confusions(result), label_ways=result_tables.LABEL_WAYS, points=verdict.points, versions=older(run), preference=cards.preference(result),
    )  # fmt: skip


def render(kind: str, **facts: Any) -> str:
    """The page of one kind: `evaluation` or `comparison`."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"cut": cut, "signed": "{:+.3f}".format, "number": "{:.3f}".format, "thousands": "{:,}".format,
                            "capital": lambda text: text[:1].upper() + text[1:]}  # fmt: skip
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    return environment.from_string(PAGE.read_text()).render(kind=kind, made=made, **facts).lstrip()


def figures(run: Run, result: Mapping[str, Any], validation: Mapping[str, float]) -> dict[str, Picture]:
    """The figures of the report by name."""
    steps = training_log.steps(run.folder / "training" / "log.jsonl")
    compared = {**result["domains"], "all": result["overall"]}
    drawn = {
        "paired": loss_plots.paired_losses(result["domains"]),
        "differences": loss_plots.differences(compared, paired_difference.beyond_chance(compared)),
        "curve": loss_plots.loss_curve(steps, validation["base"], validation["adapter"]),
    }
    return {name: Picture(narrow(axes)) for name, axes in drawn.items()}


def confusions(result: Mapping[str, Any]) -> dict[str, Picture]:
    """The confusion of the most likely labels in each label domain."""
    found = result["labels"]["domains"] if result["labels"] else {}
    return {
        name: Picture(loss_plots.confusion(facts["labels"], *(facts["likelihood"][who]["confusion"] for who in answer_metrics.WHO)))
        for name, facts in found.items()
    }


def narrow(axes: Axes) -> Axes:
    """The same figure, so narrow that its text can be read on a phone."""
    axes.figure.set_figwidth(5.4)
    axes.set_xlabel(textwrap.fill(axes.get_xlabel(), 60))
    if axes.get_legend():
        legend(axes, columns=1)
    return axes


def cut(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN] + " …"


def shown(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample for the page, with the chrF of both answers and their parts marked that differ."""
    base, adapter = (cut(sample[who]) for who in answer_metrics.WHO)
    one, two = mark_differences(base, adapter)
    chrf = {who: answer_metrics.chrf(sample[who], sample["reference"]) for who in answer_metrics.WHO}
    return {**sample, "marked": {"base": one, "adapter": two}, "chrf": chrf}


def mark_differences(one: str, two: str) -> tuple[list[tuple[str, bool]], list[tuple[str, bool]]]:
    """Each text as (part, whether it differs from the other text), compared word by word."""
    first, second = ([word for word in re.split(r"(\s+)", text) if word] for text in (one, two))
    found = SequenceMatcher(a=first, b=second, autojunk=False).get_opcodes()
    return (
        [("".join(first[start:end]), kind != "equal") for kind, start, end, _, _ in found if end > start],
        [("".join(second[start:end]), kind != "equal") for kind, _, _, start, end in found if end > start],
    )


def older(run: Run) -> str:
    """Which of the results that the report is built on an older version of the library made; "" if none."""
    stages = [stage for stage in ("data", "training") if run.is_older(stage)]
    return f"Made by an older version of the library: {' and '.join(stages)}." if stages else ""


def provenance(run: Run) -> list[tuple[str, str, str]]:
    """The source files of the data, from the manifest: (part, file, first digits of its hash)."""
    inputs = run.entry("data").get("inputs", {})
    return [(*name.split("/", 1), digest[:12]) for name, digest in inputs.items() if "/" in name]


def plan(settings: Settings, training: dict[str, Any]) -> list[list[str]]:
    """The fit plan against the measured values: a head and a row per quantity; or one row with the reason why there is no plan."""
    try:
        score = plan_table.score(settings, workload.work_of(settings), training)
    except (ValueError, OSError) as error:
        return [[f"No plan can be made for this run: {error}"]]
    rows = [
        [one["what"], one["planned"], f"{one['measured']:,}", f"{one['off']:+.0%}", "yes" if one["within_plan"] else "no"] for one in score
    ]
    return [["quantity", "planned", "measured", "measured against plan", "within plan"], *rows]
