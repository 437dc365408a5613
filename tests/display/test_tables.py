"""The notebooks' tables: no text is cut off, the plain form has the same values, and each table shows what its data hold."""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from mistral_lib.corpus import sources
from mistral_lib.display import tables
from mistral_lib.display.tables import TextTable
from mistral_lib.preparation import explore, prepare
from mistral_lib.run import Run, files, params
from mistral_lib.run.settings import Settings
from tests.support.corpora import rows, short_run

ROWS = [
    {"reason": "near_duplicate", "rows": 1258, "its answer": "a <b> of\nmany words " * 20},
    {"reason": "not_json", "rows": 1, "its answer": ""},
]


def test_no_text_is_cut_and_none_becomes_markup() -> None:
    shown = TextTable(ROWS)._repr_mimebundle_()["text/html"]
    assert shown.count("a &lt;b&gt; of\nmany words") == 20 and "<b>" not in shown and shown.count("<tr>") == 3
    assert ">1,258</td>" in shown and shown.count("text-align:right") == 3, "the header and the cells of the only column of numbers"


def test_its_plain_form_has_every_value_that_is_not_empty() -> None:
    assert TextTable(ROWS).plain.splitlines() == [
        "near_duplicate", "  rows: 1,258", f"  its answer: {('a <b> of many words ' * 20).strip()}", "not_json", "  rows: 1",
    ]  # fmt: skip
    assert TextTable([], "no <run>")._repr_mimebundle_() == {"text/plain": "no <run>", "text/html": "<i>no &lt;run&gt;</i>"}


def test_a_small_file_has_a_size(settings: Settings, corpus: Path) -> None:
    (corpus / "note.txt").write_text("A note of 21 letters.")
    table = tables.source_files(sources.of_settings(settings)).set_index("file")
    assert table["size"]["note.txt"] == "21 bytes" and table["size"]["red.jsonl"].endswith(" KiB")


def test_the_tables_of_parameters_have_values_and_meanings(settings: Settings) -> None:
    decided = {row["parameter"]: row for row in tables.decisions(settings).rows}
    assert decided["max_tokens"] == {
        "parameter": "max_tokens", "decides": "scope", "value": "128", "meaning": "tokens per packed block, and of the longest record",
    }  # fmt: skip
    other = settings.model_copy(update={"run_name": "rented", "max_steps": 0})
    changed = tables.differences(settings, other).rows
    assert [(row["parameter"], row["this run"], row["rented"]) for row in changed] == [
        ("run_name", "small", "rented"),
        ("max_steps", "8", "0"),
    ]
    assert "max_tokens = 128" in tables.chosen(settings)
    assert tables.chosen(short_run()) == f"nothing differs from {params.base_name(short_run())}"
    assert tables.chosen(Settings(corpus_paths=["corpora/mine"])).splitlines() == [
        "corpus_paths = ['corpora/mine']",
        "all others: the defaults",
    ]
    folded = tables.all_parameters(settings)._repr_mimebundle_()["text/html"]
    assert f"all {len(Settings.names())} parameters" in folded and "max_tokens: 128  # tokens per packed block" in folded


def test_the_tables_of_a_corpus_show_shapes_problems_repeats_and_lengths(settings: Settings, corpus: Path) -> None:
    files.write_json_lines(corpus / "strange.jsonl", [{"color": "blue", "size": 12}, *rows("red", 2)])
    run = Run.open(settings)
    counted, found = explore.explore(run), sources.of_settings(settings)
    assert tables.first_rows(found).rows[-1] == {"file": "strange.jsonl", "fields and their characters": "color 4 · size 2"}
    assert tables.inventory(counted["files"]).rows[-1] == {
        "file": "strange.jsonl", "origin": "corpus", "rows": 3, "shapes": "prompt_completion 2", "problems": "unknown_shape 1",
    }  # fmt: skip
    assert tables.repeats(counted["files"]).rows == [
        {"file": "strange.jsonl", "its rows": 3, "rows that repeat": 2, "seen before in": "red.jsonl"}
    ]
    assert tables.problems(counted["files"]).rows == [{"reason": "unknown_shape", "rows": 1, "files": "strange.jsonl 1"}]
    assert tables.problems([{"name": f"{n}.jsonl", "problems": {"bad": n}} for n in range(1, 14)], most=2).rows == [
        {"reason": "bad", "rows": 91, "files": "13.jsonl 13, 12.jsonl 12 and 11 files more"}
    ]
    assert tables.problems([]).plain == "none found: every row is a record"
    lengths = pd.DataFrame({name: [*range(1, 101), 1000] for name in ("characters", "tokens", "mistral_tokens")})
    assert tables.length_quantiles(lengths)["tokens"].to_dict() == {
        "10 % have at most": 11, "half have at most": 51, "90 % have at most": 91, "99 % have at most": 100, "the longest has": 1000,
    }  # fmt: skip


def test_a_file_that_lost_most_of_its_rows_comes_first_whatever_its_origin_lost(settings: Settings, corpus: Path) -> None:
    short = [{"prompt": f"Is it {n}?", "completion": "yes"} for n in range(28)]
    files.write_json_lines(corpus / "chats.jsonl", [*rows("gray", 6), *short, {"color": "blue"}, rows("blue", 1)[0]])
    (corpus / "half.txt").write_bytes(b"\0")
    run, found = Run.open(settings), sources.of_settings(settings)
    report = prepare.prepare(run)
    ledger = pq.read_table(run.folder / "data" / "ledger.parquet").to_pandas()
    table = tables.losses_by_file(ledger, found)
    assert list(table.index) == ["half.txt", "chats.jsonl", "blue.jsonl", "green.jsonl", "red.jsonl"]
    assert table.loc["chats.jsonl"].to_dict() == {
        "rows": 36, "kept": 6, "rejected": 29, "rejected mostly as": "answer_too_short (28)", "duplicates": 1, "lost": "83.3%",
    }  # fmt: skip
    assert table.loc["half.txt", "rejected mostly as"] == "nul_bytes (1)" and table.loc["red.jsonl", "lost"] == "0.0%"
    assert table[["rows", "kept"]].sum().to_list() == [report["records_read"], report["records_kept"]]
    by_origin = tables.fates_by_origin(ledger)
    assert by_origin.loc["combined", "rejected"] == 30 and by_origin.loc["corpus", "combined"] == 637
    assert ("rejected", "answer_too_short", 28) in tables.noticed(report).itertuples(index=False, name=None)
    assert tables.splits(report)["split_sizes"].to_dict() == report["split_sizes"]


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("a.jsonl:3", "a.jsonl"),
        ("a.jsonl:3.2", "a.jsonl"),
        ("a.jsonl.gz:3", "a.jsonl.gz"),
        ("notes.zip!in it/b#c.pdf#4", "notes.zip"),
        ("odd:name#1.txt", "odd:name#1.txt"),
        ("gone.jsonl:3", "gone.jsonl:3"),
    ],
)
def test_the_file_of_a_row_is_the_one_that_its_source_begins_with(source: str, file: str) -> None:
    assert tables._file(source, {"a.jsonl", "a.jsonl.gz", "notes.zip", "odd:name#1.txt", "odd"}) == file


def test_leaks_are_counted_for_both_ways_of_splitting() -> None:
    report = {
        "leaked_exact": 1, "leaked_near": None, "leaked_prompt": 6, "leaked_document": 2, "split_sizes": {"train": 9, "validation": 3, "test": 4},
        "leaked_by_a_random_split": {"held_out": 5, "exact": 1, "prompt": 7, "answer": 2, "near": 3, "document": 4},
    }  # fmt: skip
    found = tables.leaks(report)
    assert found["random 80/20"] == {
        "held_out": 5,
        "same text or answer": 3,
        "same prompt": 7,
        "near-duplicate": 3,
        "same source document": 4,
    }
    assert found["this split"] == {
        "held_out": 7,
        "same text or answer": 1,
        "same prompt": 6,
        "near-duplicate": 0,
        "same source document": 2,
    }


def test_the_graded_tokens_of_a_block_are_counted() -> None:
    block = {"record_ids": ["a", "b"], "input_ids": [1, 2, 3, 4], "labels": [-100, 2, 3, -100], "domains": ["red", "blue", "red"]}
    assert tables.blocks([block]).iloc[0].to_list() == [2, 4, 2, "blue, red"]


def test_label_domains_are_named_with_their_counts_and_the_baseline() -> None:
    long = "Thank you for your message, which we have read with great care. "
    found = {"mail": {"labels": {f"{long}Yes.": 6, f"{long}No.": 4}, "majority_share": 0.6},
             "many": {"labels": {f"name {n}": 1000 for n in range(12)}, "majority_share": 1 / 12}}  # fmt: skip
    mail, many = tables.label_domains(found).splitlines()
    assert mail.startswith("mail: 10 rows with 2 labels: Thank you") and " … 6, Thank you" in mail and "right in 60.0% of the rows" in mail
    assert "many: 12,000 rows with 12 labels: name 0 1,000, name 1 1,000" in many and "name 9 1,000 and 2 more; " in many
    assert tables.label_domains({}).startswith("no label domains")
