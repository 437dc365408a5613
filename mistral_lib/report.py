"""evaluation/report.html: one page that stands by itself, pictures inside, no outside request."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment

from mistral_lib import files, plots, training_log
from mistral_lib.run import Run

PAGE = Path(__file__).with_name("report_page.html")
COLOURS = {"better": "#009E73", "worse": "#D55E00", "not enough evidence": "#767676"}


def page(run: Run, result: dict[str, Any], samples: list[dict[str, Any]]) -> str:
    """The report's HTML, from the evaluation's figures, its samples and what the run folder already holds."""
    training = files.read_json(run.folder / "training" / "result.json")
    data = files.read_json(run.folder / "data" / "report.json")
    losses = training["validation_loss"]
    figures = {
        "paired": plots.data_url(plots.paired_losses(result["domains"])),
        "differences": plots.data_url(plots.differences({**result["domains"], "all": result["overall"]})),
        "curve": plots.data_url(
            plots.loss_curve(training_log.steps(run.folder / "training" / "log.jsonl"), losses["base"], losses["adapter"])
        ),
    }
    return Environment(autoescape=True).from_string(PAGE.read_text()).render(
        name=run.folder.name, result=result, samples=samples, training=training, data=data, figures=figures, settings=run.settings,
        rows=[*result["domains"].items(), ("all", result["overall"])], rejected=sum(data["rejected"].values()),
        colour=COLOURS[result["verdict"]], machine=run.entry("training")["machine"], made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    )  # fmt: skip
