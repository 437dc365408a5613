"""Records taken out by hand: the file, and what the data stage does with it."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mistral_lib.corpus import exclusions
from mistral_lib.corpus.records import map_row
from mistral_lib.preparation import prepare
from mistral_lib.run import Run, files
from tests.support.corpora import other


def test_a_file_is_written_and_read_again(tmp_path: Path) -> None:
    entries = {"0123456789abcdef": "red.jsonl:3", "guides.zip!a b.pdf#2": ""}
    exclusions.write(tmp_path / "excluded.txt", entries)
    assert exclusions.read(tmp_path / "excluded.txt") == entries


def test_comments_and_other_lines_of_the_file_are_kept(tmp_path: Path) -> None:
    place = tmp_path / "excluded.txt"
    place.write_text("# licence unclear\nred.jsonl:1  # asked Jane\n\n  # of no use\nred.jsonl:2\n")
    exclusions.write(place, {"red.jsonl:1": "asked Jane", "blue.jsonl:7": "twice"})
    assert place.read_text() == "# licence unclear\nred.jsonl:1  # asked Jane\n\n  # of no use\nblue.jsonl:7  # twice\n"


def test_an_id_excludes_every_copy_and_a_source_one_row() -> None:
    one, copy, third = (map_row({"text": text}, source) for text, source in (("a", "x.jsonl:1"), ("a", "y.jsonl:9"), ("b", "x.jsonl:2")))
    by_id, by_source = exclusions.Exclusions(frozenset({one.record_id})), exclusions.Exclusions(frozenset({one.source}))
    assert [bool(by_id.entry(record)) for record in (one, copy, third)] == [True, True, False]
    assert [bool(by_source.entry(record)) for record in (one, copy, third)] == [True, False, False]
    assert exclusions.Exclusions(frozenset({third.record_id})).entry(one, None, third) == third.record_id, (
        "either form of a record is enough"
    )


def test_the_data_stage_applies_the_file_and_runs_again_when_it_changes(prepared: Run) -> None:
    before = files.read_json(prepared.folder / "data" / "report.json")
    place = exclusions.place(prepared.settings)
    record_id = pq.read_table(prepared.folder / "data" / "ledger.parquet").to_pylist()[0]["record_id"]
    exclusions.write(place, {record_id: "", "blue.jsonl:7": "by source", "blue.jsonl:7777": "there is no such row"})
    after = prepare.prepare(prepared)
    ledger = pq.read_table(prepared.folder / "data" / "ledger.parquet").to_pandas()
    assert after["rejected"] == {**before["rejected"], "excluded_by_hand": 2}
    assert after["excluded"] == {record_id: 1, "blue.jsonl:7": 1}
    assert after["records_kept"] == before["records_kept"] - 2 and after["records_read"] == before["records_read"]
    assert set(ledger[ledger["reason"] == "excluded_by_hand"]["source"]) == {"blue.jsonl:1", "blue.jsonl:7"}
    assert exclusions.load(prepared.settings).unmatched(after) == ["blue.jsonl:7777"]
    lines = files.read_json_lines(prepared.folder / "data" / "rejected.jsonl")
    assert {"source": "blue.jsonl:7", "reason": "excluded_by_hand"} in lines
    exclusions.write(place, {})
    assert prepare.prepare(prepared)["records_kept"] == before["records_kept"]


def test_a_note_or_another_order_does_not_run_the_stage_again(settings) -> None:
    place = exclusions.place(settings)
    exclusions.write(place, {"a.jsonl:1": "", "b.jsonl:2": ""})
    first = exclusions.inputs(settings)
    exclusions.write(place, {"b.jsonl:2": "a note", "a.jsonl:1": ""})
    assert exclusions.inputs(settings) == first != {}


def test_what_was_excluded_does_not_count_as_lost(prepared: Run) -> None:
    exclusions.write(exclusions.place(prepared.settings), {"blue.jsonl:7": ""})
    strict = other(prepared, strict=True, max_rejected_share=0.0)
    assert prepare.prepare(strict)["rejected"] == {"excluded_by_hand": 1}


def test_a_named_file_must_be_there_and_be_text(prepared: Run, home: Path) -> None:
    named = other(prepared, exclude_file="mine.txt")
    with pytest.raises(exclusions.ExclusionError, match=r"mine\.txt.*no such file"):
        prepare.prepare(named)
    (home / "mine.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(exclusions.ExclusionError, match="cannot be read as text"):
        prepare.prepare(named)
    (home / "mine.txt").unlink()
    exclusions.write(home / "mine.txt", {"blue.jsonl:7": ""})
    assert prepare.prepare(named)["rejected"] == {"excluded_by_hand": 1}
