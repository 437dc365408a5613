"""Losses weigh what they hold: refused files count all their rows, what is passed over counts as none, and reports say what decides."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mistral_lib.curation import rejections
from mistral_lib.preparation import explore, prepare
from mistral_lib.run import Run, files
from mistral_lib.run.settings import Settings
from tests.support.containers import json_lines, zipped
from tests.support.corpora import other, rows, short_run


@pytest.fixture
def chosen(corpus: Path, tiny_model: str) -> Settings:
    return short_run(run_name="losses", corpus_paths=["corpora/small"], base_model=tiny_model, max_tokens=128, max_validation_tokens=1024,
                     max_test_tokens=1024)  # fmt: skip


def reconciled(report: dict, run: Run) -> bool:
    ledger = pq.read_table(run.folder / "data" / "ledger.parquet").to_pylist()
    dropped = sum(report["rejected"].values()) + report["duplicates_exact"] + report["duplicates_near"]
    weights = sum(row["lines"] for row in ledger if row["fate"] == "rejected")
    return report["records_read"] == sum(row["lines"] for row in ledger) == report["records_kept"] + dropped and weights == sum(
        report["rejected"].values()
    )


def test_a_refused_file_stops_the_run_that_lost_most_of_its_rows(corpus: Path, chosen: Settings) -> None:
    (corpus / "large.csv").write_bytes(b'"prompt,completion\n' + b"never,read\n" * 7000)
    with pytest.raises(prepare.TooMuchLostError, match=r"7000 of 7600 rows.*csv_header_unreadable.*max_rejected_share"):
        prepare.prepare(Run.open(chosen))
    run = Run.open(chosen.model_copy(update={"max_rejected_share": 1.0}))
    report = prepare.prepare(run)
    assert report["records_read"] == report["lines_read"] == 7600 and report["rejected"] == {"csv_header_unreadable": 7000}
    assert reconciled(report, run)
    first = next(iter(report))
    assert first == "large_rejections"
    assert [(one["source"], one["reason"], one["rejected"], one["rows"]) for one in report[first]] == [
        (rejections.ALL_SOURCES, "csv_header_unreadable", 7000, 7600), ("large.csv", "csv_header_unreadable", 7000, 7000)
    ]  # fmt: skip
    inventory = explore.explore(run)
    assert inventory["totals"]["rows"] == 7600 and inventory["totals"]["problems"] == {"csv_header_unreadable": 7000}


def test_pictures_and_hidden_files_are_left_out_and_stop_nothing(corpus: Path, chosen: Settings) -> None:
    for number in range(2000):
        (corpus / f"{number}.png").write_bytes(b"x")
    (corpus / ".hidden.jsonl").write_bytes(b"{}")
    (corpus / "more.zip").write_bytes(zipped({"a.png": b"x", ".x/b.jsonl": b"{}", "__MACOSX/c": b"x"}))
    run = Run.open(chosen)
    report, totals = prepare.prepare(run), explore.explore(run)["totals"]
    left_out = {"hidden files": 2, "pictures": 2001, "system files": 1}
    assert report["left_out"] == totals["left_out"] == left_out
    assert report["records_read"] == 601 and report["rejected"] == {"empty_file": 1} and reconciled(report, run)


def test_glued_objects_are_one_line_and_several_records(corpus: Path, chosen: Settings) -> None:
    (corpus / "glued.jsonl").write_text('{"text": "one text of its own kind"}{"text": "and another text"}{"text": "cut o\n')
    run = Run.open(chosen)
    report = prepare.prepare(run)
    assert (report["lines_read"], report["records_read"]) == (601, 603) and reconciled(report, run)


def test_the_parameter_that_decides_is_named(corpus: Path, chosen: Settings) -> None:
    files.write_json_lines(corpus / "short.jsonl", [{"prompt": f"Is it {n}?", "completion": f"no {n}"} for n in range(100)])
    report = prepare.prepare(Run.open(chosen.model_copy(update={"shortest_answer": 20, "most_repeated_pattern": 0})))
    (one,) = (one for one in report["large_rejections"] if one["source"] != rejections.ALL_SOURCES)
    assert (one["source"], one["reason"], one["rejected"]) == ("short.jsonl", "answer_too_short", 100) and "shortest_answer" in one[
        "parameters"
    ]
    assert "short.jsonl: 100 of 100 rows (100%) are rejected as answer_too_short (shortest_answer" in rejections.sentences([one])[0]


def test_encodings_are_in_the_inventory(corpus: Path, chosen: Settings) -> None:
    (corpus / "wide.jsonl").write_bytes(json_lines(rows("wide", 20)).decode().encode("utf-16"))
    inventory = explore.explore(Run.open(chosen))
    assert inventory["totals"]["encodings"] == {"utf-16-le": 20}
    assert {one["name"]: one["encodings"] for one in inventory["files"]}["wide.jsonl"] == {"utf-16-le": 20}


def test_what_is_left_out_is_counted_once_however_often_a_preparation_is_resumed(corpus: Path, chosen: Settings) -> None:
    (corpus / "a.zip").write_bytes(zipped({"0.png": b"x", "a.jsonl": (corpus / "red.jsonl").read_bytes(), "z.png": b"x"}))
    run = Run.open(chosen)
    report = prepare.prepare(run)
    again = prepare.prepare(other(run, run_name="again"))
    assert report["left_out"] == again["left_out"] == {"pictures": 2}
