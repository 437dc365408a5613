"""Compares two or more runs, paired on the same test records, or refuses with the reason.

Reads the files of each run's evaluation; loads no model. A run is compared only if its evaluation is complete and unaltered.
"""

from collections.abc import Sequence
from itertools import combinations
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mistral_lib.display import loss_plots
from mistral_lib.display.figure import Picture
from mistral_lib.evaluation import paired_difference, report, verdict
from mistral_lib.model.likelihood import RecordLoss
from mistral_lib.preparation import audit
from mistral_lib.run import Run, files, paths

SHOWN = 3  # differing records that an error names


class NotComparableError(ValueError):
    """Runs that were not measured on the same records, or one of them is not verified; the message names it and the reason."""


def compare(folders: Sequence[Path]) -> dict[str, Any]:
    """The comparison of the runs' evaluations as plain figures. Errors: NotComparableError."""
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise NotComparableError(f"{len(folders)} run folders were given; expected two or more different ones")
    runs = [Run.existing(folder) for folder in folders]
    for run in runs:
        refuse_unverified(run)
    tables = [pq.read_table(run.folder / "evaluation" / "losses.parquet").sort_by("record_id").to_pylist() for run in runs]
    for run, table in zip(runs[1:], tables[1:], strict=True):
        refuse_other_test(runs[0], tables[0], run, table)
    documents = {row["record_id"]: row["document"] for row in tables[0]}
    fields = itemgetter("record_id", "domain", "adapter_nats", "supervised_tokens")
    losses = {name: [RecordLoss(*fields(row)) for row in table] for name, table in zip(_names(runs), tables, strict=True)}
    results = [files.read_json(run.folder / "evaluation" / "result.json") for run in runs]
    return {
        "runs": [{"name": name, "overall": result["overall"], "domains": result["domains"], "verdict": result["verdict"],
                  "rules": {one["rule"]: one for one in result["rules"]}} for name, result in zip(losses, results, strict=True)],
        "records": len(documents), "documents": len(set(documents.values())),
        "pairs": pairs(losses, runs[0].settings.seed, documents),
        "settings": differing(runs),
    }  # fmt: skip


def refuse_unverified(run: Run) -> None:
    """Errors: NotComparableError."""
    place = paths.short(run.folder)
    if run.status("evaluation") != "complete":
        raise NotComparableError(
            f"{place}: its evaluation is {run.status('evaluation')}, expected complete; run notebook 04_evaluate_adapter"
        )
    if faults := audit.unverified(run, "evaluation"):
        raise NotComparableError(f"{place} is not verified: {faults[0]}; evaluate it again")


def refuse_other_test(first: Run, one: list[dict[str, Any]], second: Run, two: list[dict[str, Any]]) -> None:
    """Errors: NotComparableError if the test records, or their tokens, are not the same."""
    left, right = ({row["record_id"]: row["supervised_tokens"] for row in table} for table in (one, two))
    where = f"{paths.short(first.folder)} and {paths.short(second.folder)}"
    if alone := sorted(left.keys() ^ right.keys()):
        raise NotComparableError(
            f"{where} were measured on different test records: {len(left)} and {len(right)}, {len(left.keys() & right.keys())} of them the same "
            f"(not in both: {', '.join(alone[:SHOWN])}{' …' if len(alone) > SHOWN else ''}); use the same corpus, seed, shares and max_test_tokens"
        )
    if other := sorted(key for key in left if left[key] != right[key]):
        raise NotComparableError(
            f"{where}: {len(other)} of {len(left)} test records have other tokens ({other[0]}: {left[other[0]]} and {right[other[0]]} supervised), "
            "so that nats per token are different units: use the same base model and max_tokens"
        )


def _names(runs: Sequence[Run]) -> list[str]:
    """The runs' names; with their path if two have the same name."""
    short = [run.folder.name for run in runs]
    return short if len(set(short)) == len(short) else [paths.short(run.folder) for run in runs]


def pairs(by_name: dict[str, list[RecordLoss]], seed: int, documents: dict[str, str]) -> list[dict[str, Any]]:
    """The difference second - first of every pair of runs, p corrected for the number of pairs (Holm)."""
    found = {(one, two): paired_difference.compare(by_name[one], by_name[two], seed, documents) for one, two in combinations(by_name, 2)}
    corrected = paired_difference.holm({pair: facts["p"] for pair, facts in found.items() if facts["p"] is not None})
    rows = []
    for (one, two), facts in found.items():
        facts["holm_p"] = corrected.get((one, two))
        better = (two if facts["difference"] < 0 else one) if paired_difference.is_beyond_chance(facts) else verdict.NOT_ENOUGH
        rows.append({"first": one, "second": two, **facts, "better": better})
    return rows


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The parameters that are not the same in all runs."""
    found = {key: [getattr(run.settings, key) for run in runs] for key in runs[0].settings.names() if key != "run_name"}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def sentence(found: dict[str, Any]) -> tuple[str, str]:
    """The headline and a sentence: which run is best, and whether that is beyond chance."""
    best = min(found["runs"], key=lambda run: run["overall"]["adapter"])
    against = [p for p in found["pairs"] if best["name"] in (p["first"], p["second"])]
    unsure = [p["second"] if p["first"] == best["name"] else p["first"] for p in against if p["better"] != best["name"]]
    numbers = f"{best['overall']['adapter']:.3f} nats per supervised token on {found['records']} test records; verdict of its own evaluation: {best['verdict']}."
    if unsure:
        return (
            f"no run is best beyond chance: {verdict.NOT_ENOUGH}",
            f"Lowest is {best['name']}, {numbers} Not worse beyond chance: {', '.join(unsure)}.",
        )
    return f"lowest loss: {best['name']}", f"{numbers} Every other run is worse beyond chance."


def page(found: dict[str, Any]) -> str:
    """The comparison as one HTML file."""
    runs = found["runs"]
    shared = [domain for domain in runs[0]["domains"] if all(domain in run["domains"] for run in runs)]  # runs may name domains otherwise
    by_domain = {domain: {run["name"]: run["domains"][domain] for run in runs} for domain in shared}
    rows = {**by_domain, "all": {run["name"]: run["overall"] for run in runs}}
    headline, words = sentence(found)
    return report.render(
        "comparison", title="Runs compared: " + ", ".join(run["name"] for run in runs), headline=headline, sentence=words, by_domain=by_domain,
        figure=Picture(report.narrow(loss_plots.run_differences(rows))), signs=report.SIGNS,
        rule_names=list(dict.fromkeys(name for run in runs for name in run["rules"])), **found,
    )  # fmt: skip


def write(folders: Sequence[Path], place: Path | None = None) -> tuple[dict[str, Any], Path]:
    """Compare the runs and write the page: to `place`, or beside the runs' own folders in runs/comparisons/. Errors: NotComparableError."""
    found = compare(folders)
    place = place or paths.runs() / "comparisons" / ("_".join(Path(run["name"]).name for run in found["runs"])[:120] + ".html")
    files.write_text(place, page(found))
    return found, place
