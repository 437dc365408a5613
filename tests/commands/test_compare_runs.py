"""Comparing runs: paired on the same records, correct on made-up losses, refused if the comparison would mean nothing."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistral_lib.commands import compare_runs
from mistral_lib.evaluation import paired_difference, verdict
from mistral_lib.model.likelihood import RecordLoss
from mistral_lib.preparation import stage_inputs
from mistral_lib.run import Run, files
from mistral_lib.run.params import Settings
from tests.evaluation.test_evaluate import refuse_outside_requests


@pytest.fixture
def evaluated(home: Path, tiny_model: str) -> Callable[..., Path]:
    """Makes evaluated runs on a corpus and a model that are on this machine, as the inputs of their stages are compared."""
    files.write_json_lines(home / "corpora" / "small" / "rows.jsonl", [{"prompt": "What is it?", "completion": "It is a row."}])
    return partial(evaluated_run, corpus_paths=["corpora/small"], base_model=tiny_model)


def evaluated_run(name: str, gain: float, seed: int = 0, first: int = 0, tokens: int = 20, domain: str = "d", **more: object) -> Path:
    """A run folder whose evaluation is complete: 120 test records of 40 documents, measured `gain` nats per token below the base."""
    run = Run.open(Settings(run_name=name, retention_paths=[], **more))
    base = np.random.default_rng(1).uniform(1, 4, 120)
    adapter = base - gain + np.random.default_rng(seed).normal(0, 0.1, 120)
    rows = [{"record_id": f"r{i + first:03}", "domain": f"{domain if i % 3 else 'd'}{i % 3}", "document": f"doc{i // 3}", "supervised_tokens": tokens,
             "base_nats": float(base[i]) * tokens, "adapter_nats": float(adapter[i]) * tokens} for i in range(120)]  # fmt: skip
    with run.lock("test"):
        folder = run.folder / "evaluation"
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "losses.parquet")
        one, two = ([RecordLoss(r["record_id"], r["domain"], r[f"{who}_nats"], tokens) for r in rows] for who in ("base", "adapter"))
        documents = {row["record_id"]: row["document"] for row in rows}
        overall, domains = paired_difference.compare(one, two, 0, documents), paired_difference.by_domain(one, two, 0, documents)
        rules = [verdict.overall(overall), verdict.domains(domains)]
        files.write_json(folder / "result.json", {"overall": overall, "domains": domains, "rules": rules, "verdict": "ship"})
        for stage in ("data", "training", "evaluation"):
            with run.recording(stage, stage_inputs.hashes(run, stage)):
                run.complete(stage, {})
    return run.folder


def test_the_better_run_is_found_and_the_page_requests_nothing_from_outside(home: Path, evaluated: Callable[..., Path]) -> None:
    folders = [
        evaluated("low", 0.1, learning_rate=1e-4),
        evaluated("high", 0.3, 1, learning_rate=1e-3),
        evaluated("twin", 0.3, 2, learning_rate=1e-3),
    ]
    found, place = compare_runs.write(folders)
    by_pair = {(p["first"], p["second"]): p for p in found["pairs"]}
    assert by_pair["low", "high"]["difference"] == pytest.approx(-0.2, abs=0.04) and by_pair["low", "high"]["better"] == "high"
    assert by_pair["high", "twin"]["better"] == "not enough evidence"
    assert found["settings"] == {"learning_rate": [1e-4, 1e-3, 1e-3]}
    assert "no run is best beyond chance" in compare_runs.sentence(found)[0]
    assert compare_runs.sentence(compare_runs.compare(folders[:2]))[0] == "lowest loss: high"
    page = place.read_text()
    assert (
        "learning_rate" in page and "no run is best beyond chance" in page and place == home / "runs" / "comparisons" / "low_high_twin.html"
    )
    refuse_outside_requests(page)


def test_runs_with_different_domain_names_are_compared_on_the_domains_they_share(home: Path, evaluated: Callable[..., Path]) -> None:
    found, place = compare_runs.write([evaluated("a", 0.1), evaluated("b", 0.3, domain="other")])
    assert found["records"] == 120 and ">d0<" in place.read_text() and "other1" not in place.read_text()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"first": 7}, r"different test records: 120 and 120, 113 of them the same \(not in both: r000, r001, r002 …\)"),
        ({"tokens": 21}, r"120 of 120 test records have other tokens \(r000: 20 and 21 supervised\)"),
    ],
)
def test_another_test_set_is_refused_with_the_reason(home: Path, change: dict, reason: str, evaluated: Callable[..., Path]) -> None:
    with pytest.raises(compare_runs.NotComparableError, match=reason):
        compare_runs.compare([evaluated("one", 0.1), evaluated("two", 0.1, **change)])


def test_a_run_that_is_not_verified_is_refused(home: Path, evaluated: Callable[..., Path]) -> None:
    one, two = evaluated("one", 0.1), evaluated("two", 0.2)
    with pytest.raises(compare_runs.NotComparableError, match="expected two or more different ones"):
        compare_runs.compare([one, one])
    never = Run.open(Settings(run_name="never")).folder
    with pytest.raises(compare_runs.NotComparableError, match="runs/never: its evaluation is not started"):
        compare_runs.compare([one, never])
    files.write_json(two / "evaluation" / "result.json", {"verdict": "ship"})
    with pytest.raises(compare_runs.NotComparableError, match=r"is not verified: altered .*result\.json"):
        compare_runs.compare([one, two])


def test_the_command_writes_the_page_or_says_why_not(home: Path, evaluated: Callable[..., Path]) -> None:
    one, two, other = evaluated("one", 0.1), evaluated("two", 0.3, 1), evaluated("other", 0.3, first=50)
    command = [sys.executable, "-m", "mistral_lib", "compare", str(one)]
    done = subprocess.run([*command, str(two), "--out", str(home / "page.html")], capture_output=True, text=True)
    assert done.returncode == 0 and "lowest loss: two" in done.stdout and (home / "page.html").stat().st_size > 10_000
    refused = subprocess.run([*command, str(other)], capture_output=True, text=True)
    assert refused.returncode == 1 and "different test records" in refused.stderr
