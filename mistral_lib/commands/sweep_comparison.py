"""The alternatives of a sweep side by side: one table and one picture, from their verified results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment

from mistral_lib.commands.sweep import Alternative, Sweep
from mistral_lib.display import loss_plots
from mistral_lib.display.figure import Picture
from mistral_lib.preparation import audit
from mistral_lib.run import Run, files, paths
from mistral_lib.run.folder import now

PAGE = Path(__file__).with_name("comparison_page.html")
HEADINGS = {"validation": "validation loss", "test": "test loss", "verdict": "verdict on test", "steps": "steps", "minutes": "minutes", "usd": "USD",
            "memory": "peak memory, MiB", "status": "status"}  # fmt: skip
TEXTS = ("alternative", "verdict", "status")  # columns that are aligned left; the others are numbers


def write(sweep: Sweep, rows: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """comparison.json and comparison.html in the sweep's folder. rows: by alternative, those that have run."""
    table = [rows.get(one.name) or blank(one) for one in sweep.alternatives]
    table.sort(key=lambda one: (one["validation"] is None, one["validation"] or 0))
    found = {"sweep": sweep.name, "made": now(), "varied": varied(sweep), "rows": table, "advice": advice(table)}
    files.write_json(sweep.folder / "comparison.json", found)
    files.write_text(sweep.folder / "comparison.html", page(found))
    return found


def varied(sweep: Sweep) -> list[str]:
    """The parameters that set the alternatives apart, in the order of the file."""
    return list(dict.fromkeys(key for alternative in sweep.alternatives for key in alternative.changes))


def blank(alternative: Alternative, failure: str | None = None) -> dict[str, Any]:
    """The row of an alternative without a result."""
    figures = dict.fromkeys([*HEADINGS, "validation_base", "test_base", "measured_on"])
    return {**figures, "alternative": alternative.name, "run": alternative.settings.run_name, "changes": alternative.changes,
            "failure": failure, "status": "failed" if failure else "waiting"}  # fmt: skip


def row(alternative: Alternative, failure: str | None = None) -> dict[str, Any]:
    """One alternative: what it changes, and the figures of each complete, verified stage; None for the rest."""
    facts = blank(alternative, failure)
    folder = paths.runs() / alternative.settings.run_name
    if not (folder / "manifest.json").exists():
        return facts
    run = Run.existing(folder)
    facts["status"], facts["measured_on"] = "failed" if failure else run.status("training"), _measured_on(run)
    for stage, figures in (("training", training_figures), ("evaluation", evaluation_figures)):
        if run.status(stage) != "complete":
            continue
        if faults := audit.unverified(run, stage):
            facts["status"] = f"{stage} {faults[0].status}"
        else:
            facts |= figures(files.read_json(folder / stage / "result.json"))
    return facts


def training_figures(result: Mapping[str, Any]) -> dict[str, Any]:
    losses = result["validation_loss"]
    return {"validation": losses["adapter"], "validation_base": losses["base"], "steps": result["steps"], "minutes": result["seconds"] / 60, "usd": result["usd"],
            "memory": result["peak_memory_mib"]}  # fmt: skip


def evaluation_figures(result: Mapping[str, Any]) -> dict[str, Any]:
    return {"test": result["overall"]["adapter"], "test_base": result["overall"]["base"], "verdict": result["verdict"]}


def _measured_on(run: Run) -> str | None:
    """What the losses were measured on: the hash of the validation and test splits and how much of them was measured."""
    outputs = run.entry("data").get("outputs", {})
    held_out = {name: fact["sha256"] for name, fact in outputs.items() if name.startswith(("data/validation/", "data/test/"))}
    parts = [held_out, run.settings.max_validation_tokens, run.settings.max_test_tokens]
    return files.digest(parts)[:8] if held_out else None


def advice(rows: list[dict[str, Any]]) -> list[str]:
    """What the table shows, and what it does not."""
    done = [one for one in rows if one["validation"] is not None]
    if not done:
        return ["No alternative has a verified result yet."]
    if len({one["measured_on"] for one in done}) > 1:
        return ["Measured on different held-out records (the data parameters differ): these losses cannot be compared."]
    best, base = done[0]["validation"], done[0]["validation_base"]
    words = [f"Lowest validation loss: {done[0]['alternative']}, {best:.4f} nats per supervised token (base model: {base:.4f})."]
    if best >= base:
        words.append("That is no better than the base model: a lower learning_rate may help.")
    if len(done) > 1 and done[1]["validation"] - best < 0.005 * best:
        words.append(f"{done[1]['alternative']} is within 0.5 % of it: take the cheaper one, or repeat both with another seed.")
    words.append("Choose by validation loss. The test loss is for the chosen one: the lowest of many test losses is too low by luck.")
    return words


def text(found: Mapping[str, Any]) -> str:
    """The table for a terminal: best validation loss first."""
    lines = [["alternative", *HEADINGS.values()], *([one["alternative"], *shown(one).values()] for one in found["rows"])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    forms = [f"{'<' if key in TEXTS else '>'}{width}" for key, width in zip(("alternative", *HEADINGS), widths, strict=True)]
    table = ["  ".join(map(format, line, forms)).rstrip() for line in lines]
    places = f"comparison: runs/{found['sweep']}/comparison.html and comparison.json (losses in nats per supervised token)"
    return "\n".join([*table, *found["advice"], places])


def shown(one: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a row, as text."""
    forms = {"validation": "{:.4f}", "test": "{:.4f}", "minutes": "{:.1f}", "usd": "{:.2f}", "memory": "{:,}"}
    return {key: "–" if one[key] is None else forms.get(key, "{}").format(one[key]) for key in HEADINGS}


def page(found: Mapping[str, Any]) -> str:
    """One HTML file with its figure inside."""
    measured = [one for one in found["rows"] if one["validation"] is not None]
    picture = Picture(loss_plots.alternatives(measured)) if measured else None
    return Environment(autoescape=True).from_string(PAGE.read_text()).render(found=found, headings=HEADINGS, shown=shown, picture=picture)
