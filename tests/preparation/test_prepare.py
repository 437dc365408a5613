"""The data stage: every row has a fate, nothing leaks, and errors stop it before anything is loaded."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import load_from_disk

from mistral_lib.corpus import sources
from mistral_lib.corpus.records import map_row
from mistral_lib.corpus.sources import SourceError
from mistral_lib.curation import splits
from mistral_lib.display import row_view
from mistral_lib.model import base_model
from mistral_lib.preparation import data_report, explore, prepare
from mistral_lib.run import Run, files, params
from mistral_lib.tokens import chat_format
from tests.support.corpora import deep_lines, files_with, other, rows, twins


def reconciles(report: dict) -> bool:
    dropped = sum(report["rejected"].values()) + report["duplicates_exact"] + report["duplicates_near"]
    return report["records_read"] == report["records_kept"] + dropped == sum(report["split_sizes"].values()) + dropped


def test_the_counts_reconcile_and_the_ledger_has_every_row(prepared: Run, corpus: Path) -> None:
    mess = [{"prompt": "half"}, {"text": ""}, {"prompt": "short?", "completion": "no"}, *rows("red", 5)]
    files.write_json_lines(corpus / "mess.jsonl", mess)
    with open(corpus / "mess.jsonl", "ab") as file:
        file.write(b'{"prompt": "cut o')
    report = prepare.prepare(prepared)
    assert report["records_read"] == 609 and report["duplicates_exact"] == 5
    assert sum(report["rejected"].values()) == 4 and reconciles(report)
    ledger = pq.read_table(prepared.folder / "data" / "ledger.parquet").to_pylist()
    assert len(ledger) == 609 and all(row["fate"] for row in ledger)
    rejected = files.read_json_lines(prepared.folder / "data" / "rejected.jsonl")
    assert [row["source"] for row in rejected] == [f"mess.jsonl:{n}" for n in (1, 2, 3, 9)]


def test_a_deeply_nested_cell_rejects_only_its_own_row(settings: params.Settings, corpus: Path) -> None:
    files.write_bytes(corpus / "deep.jsonl", deep_lines())
    run = Run.open(settings)
    report = prepare.prepare(run)
    assert report["rejected"] == {"nested_too_deep": 1} and report["records_kept"] == 601
    assert explore.explore(run)["totals"]["problems"] == {"nested_too_deep": 1}
    found = sources.of_settings(settings)
    ledger = pq.read_table(run.folder / "data" / "ledger.parquet").to_pandas()
    [line] = row_view.reasons_table(ledger, found, settings)
    assert line["for example"] == "deep.jsonl:1" and "Sum it up" in line["its answer"]


def test_no_document_is_in_two_splits(prepared: Run) -> None:
    kept = pq.read_table(prepared.folder / "data" / "records.parquet").to_pylist()
    places: dict[str, set[str]] = {}
    for row in kept:
        places.setdefault(row["source_group"], set()).add(row["split"])
    assert all(len(found) == 1 for found in places.values())
    assert {row["split"] for row in kept} == set(splits.SPLITS)
    assert files.read_json(prepared.folder / "data" / "report.json")["leaked_exact"] == 0


def test_the_report_names_the_key_of_the_source_documents_and_counts_them(settings: params.Settings, corpus: Path, home: Path) -> None:
    """Without group_key: tickets by their usual key, the notes by none."""
    for path in corpus.iterdir():
        path.unlink()
    tickets = [{**row, "Ticket ID": row.pop("module")} for row in rows("tickets", 200)]
    files.write_json_lines(corpus / "tickets.jsonl", tickets)
    files.write_json_lines(corpus / "notes.jsonl", [{"text": row["completion"]} for row in rows("notes", 60)])
    run = Run.open(settings.model_copy(update={"group_key": ""}))
    report = prepare.prepare(run)
    named, alone = report["source_documents"]
    assert named == {"key": "ticket_id", "records": 200, "documents": 20} and alone == {"key": "", "records": 60, "documents": 60}
    assert data_report.documents_text(report) == (
        "source documents: 20 named by the key ticket_id (200 records); 60 records that name none and count as a document each"
    )
    kept = pq.read_table(run.folder / "data" / "records.parquet").to_pylist()
    for split in splits.SPLITS:
        for domain in ("tickets", "notes"):
            groups = {row["source_group"] for row in kept if (row["split"], row["domain"]) == (split, domain)}
            assert report["documents"][split].get(domain, 0) == len(groups)
    assert sum(report["documents"][split]["tickets"] for split in splits.SPLITS) == 20, "no ticket is in two splits"
    assert data_report.documents_text({}) == "source documents: not counted", "a report of an older version"


def test_too_few_documents_are_divided_and_the_key_that_names_them_is_reported(
    settings: params.Settings, corpus: Path, capsys: pytest.CaptureFixture
) -> None:
    """All rows have the same address: the key that was found is not the one that divides them."""
    for path in corpus.iterdir():
        path.unlink()
    for group_key, key in (("", "url"), ("shelf", "shelf")):
        files.write_json_lines(corpus / "site.jsonl", [{**row, key: "one"} for row in rows("site", 50)])
        run = Run.open(settings.model_copy(update={"group_key": group_key}))
        report = prepare.prepare(run)
        assert report["divided_documents"] == {"documents": 1, "records": 50, "into": "records", "key": key}
        assert all(report["split_sizes"].values()) and report["leaked_document"] == 0
        said = f"all records are of one document, named by the key {key}: too few for three splits. So they are split by their 50 records"
        assert said in capsys.readouterr().err and said in data_report.documents_text(report)
        assert "(group_key)" in data_report.documents_text(report)
        kept = pq.read_table(run.folder / "data" / "records.parquet").to_pylist()
        assert len({row["source_group"] for row in kept}) == 50, "each record counts as a document in the evaluation"


def test_two_documents_are_divided_and_three_are_whole(settings: params.Settings, corpus: Path) -> None:
    for path in corpus.iterdir():
        path.unlink()
    files.write_json_lines(corpus / "few.jsonl", rows("few", 20))
    run = Run.open(settings)
    assert prepare.prepare(run)["divided_documents"]["documents"] == 2
    files.write_json_lines(corpus / "few.jsonl", rows("few", 30))
    report = prepare.prepare(run)
    assert report["divided_documents"] is None and report["split_sizes"] == {"train": 10, "validation": 10, "test": 10}


def splits_of(run: Run) -> dict[str, str]:
    return {row["record_id"]: row["split"] for row in pq.read_table(run.folder / "data" / "records.parquet").to_pylist()}


def test_a_corpus_of_a_few_documents_gets_all_splits_and_keeps_them_while_it_grows(settings: params.Settings, corpus: Path) -> None:
    """Five documents of ten records; by hash alone, none of them is assigned to test."""
    for path in corpus.iterdir():
        path.unlink()
    files.write_json_lines(corpus / "few.jsonl", rows("few", 50))
    run = Run.open(settings)
    report, before = prepare.prepare(run), splits_of(run)
    assert report["split_sizes"] == {"train": 30, "validation": 10, "test": 10}
    assert report["reassigned"]["test"]
    files.write_json_lines(corpus / "a_new.jsonl", [*rows("new", 200), *rows("few", 10)])
    grown, after = prepare.prepare(run), splits_of(run)
    assert {record: after[record] for record in before} == before
    assert set(report["reassigned"]["test"]) <= set(grown["reassigned"]["test"])
    prepare.prepare(other(run, most_repeated_pattern=51))  # again, now with the remembered groups
    assert splits_of(run) == after


def test_blocks_contain_each_record_once_and_grade_its_end(prepared: Run) -> None:
    tokenizer = base_model.load_tokenizer(prepared.settings.base_model)
    kept = pq.read_table(prepared.folder / "data" / "records.parquet").to_pylist()
    for split in splits.SPLITS:
        blocks = load_from_disk(prepared.folder / "data" / split)
        packed = [record for ids in blocks["record_ids"] for record in ids]
        assert sorted(packed) == sorted(row["record_id"] for row in kept if row["split"] == split)
        assert all(len(ids) == prepared.settings.max_tokens for ids in blocks["input_ids"])
        ends = sum(label == tokenizer.eos_token_id for labels in blocks["labels"] for label in labels)
        assert ends == len(packed)


def test_a_path_that_is_not_there_is_named_with_its_key(settings: params.Settings) -> None:
    run = Run.open(settings.model_copy(update={"corpus_paths": ["corpora/small", "corpora/smal"], "operatives_paths": []}))
    with pytest.raises(SourceError, match=r"corpus_paths: 'corpora/smal'.*no such file"):
        prepare.prepare(run)
    assert not (run.folder / "manifest.json").exists()


def test_an_empty_corpus_is_an_error(settings: params.Settings, corpus: Path) -> None:
    for path in corpus.iterdir():
        path.write_text("")
    with pytest.raises(SourceError, match="no row could be read from it"):
        prepare.prepare(Run.open(settings))
    for path in corpus.iterdir():
        path.write_text('{"text": "  "}\n' * 3)
    with pytest.raises(prepare.EmptySplitError, match=r"no usable record: of 9 rows 0 are usable.*empty_text"):
        prepare.prepare(Run.open(settings))


def test_long_records_are_split_cut_or_rejected_and_counted(prepared: Run, corpus: Path) -> None:
    long = [
        {"text": "\n".join(f"Line {n}.{i} of document {n * 7919 % 101} says {i * n}." for i in range(60)), "module": f"long{n}"}
        for n in range(1, 7)
    ]
    files.write_json_lines(corpus / "long.jsonl", long)
    complete = prepare.prepare(prepared)
    assert complete["records_kept"] == 606 and complete["tokens_lost_to_length"] == 0
    assert sum(complete["windows"].values()) > 606 + 6 * 3
    cut = prepare.prepare(other(prepared, long_records="truncate"))
    assert cut["records_kept"] == 606 and cut["tokens_lost_to_length"] > 6 * 300
    assert sum(cut["tokens"].values()) + cut["tokens_lost_to_length"] <= sum(complete["tokens"].values())
    refused = prepare.prepare(other(prepared, long_records="reject"))
    assert refused["rejected"] == {"longer_than_max_tokens": 6} and refused["tokens_lost_to_length"] == 0 and reconciles(refused)


def documents(count: int) -> list[dict]:
    return [{"text": f"A document about number {n}, long enough to be kept.", "module": f"doc{n}"} for n in range(count)]


def test_the_objective_decides_what_is_kept(prepared: Run, corpus: Path) -> None:
    files.write_json_lines(corpus / "documents.jsonl", documents(40))
    assert prepare.prepare(prepared)["records_kept"] == 640
    assert prepare.prepare(other(prepared, objective="answers"))["rejected"] == {"objective_is_answers": 40}
    wanted = other(prepared, objective="documents", max_rejected_share=0.0)
    assert prepare.prepare(wanted)["rejected"] == {"objective_is_documents": 600}, "records outside the objective are not losses"


def test_a_pattern_that_repeats_too_often_is_placeholder_text(prepared: Run, corpus: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [
        {"prompt": f"What does part_{n}.txt say?", "completion": f"No text was found in part_{n}.txt yet.", "module": n} for n in range(100)
    ]
    files.write_json_lines(corpus / "parts.jsonl", rows)
    files.write_json_lines(corpus / "documents.jsonl", documents(100))
    report = prepare.prepare(prepared)
    assert report["rejected"] == {"placeholder_text": 100}, "documents that say something of their own stay"
    large = {"source": "parts.jsonl", "reason": "placeholder_text", "rejected": 100, "rows": 100, "parameters": ["most_repeated_pattern"]}
    assert next(iter(report.items())) == ("large_rejections", [{**large, "source": "all files", "rows": 800}, large])
    assert "parts.jsonl: 100 of 100 rows (100%) are rejected as placeholder_text (most_repeated_pattern" in capsys.readouterr().err
    kept = prepare.prepare(other(prepared, most_repeated_pattern=0))
    assert kept["rejected"] == {} and kept["large_rejections"] == []


def test_near_duplicates_are_dropped_and_named(prepared: Run, corpus: Path) -> None:
    words = " ".join(f"word{n}" for n in range(60))
    copies = [{"text": f"{words} end{n}", "module": f"copy{n}"} for n in range(5)]
    files.write_json_lines(corpus / "near.jsonl", [*copies, copies[0]])
    report = prepare.prepare(prepared)
    assert (report["records_kept"], report["duplicates_near"], report["duplicates_exact"], report["leaked_near"]) == (601, 4, 1, 0)
    ledger = pq.read_table(prepared.folder / "data" / "ledger.parquet").to_pylist()
    assert [row["reason"] for row in ledger if row["fate"] == "near_duplicate"] == ["near.jsonl:1"] * 4
    unsearched = prepare.prepare(other(prepared, near_duplicate_threshold=1.0))
    assert unsearched["duplicates_near"] is None and unsearched["records_kept"] == 605


@pytest.mark.parametrize(("way", "reason"), [("reject", "longer_than_max_tokens"), ("truncate", "no_supervised_token_within_max_tokens")])
def test_a_near_copy_of_a_record_that_is_refused_later_is_kept(settings: params.Settings, corpus: Path, way: str, reason: str) -> None:
    files.write_json_lines(corpus / "twins.jsonl", twins())
    run = other(Run.open(settings), long_records=way)
    report = prepare.prepare(run)
    assert reconciles(report) and report["leaked_near"] == report["leaked_document"] == 0
    assert report["rejected"] == {reason: 4} and (report["duplicates_near"], report["duplicates_exact"]) == (1, 1)
    ledger = pq.read_table(run.folder / "data" / "ledger.parquet").to_pylist()
    fates = [(row["fate"], row["reason"]) for row in ledger if row["source"].startswith("twins")]
    lost = ("rejected", reason)
    assert fates[2][0] in splits.SPLITS and fates[2][1] == ""
    assert [*fates[:2], *fates[3:]] == [lost, lost, ("near_duplicate", "twins.jsonl:3"), lost, ("duplicate", "twins.jsonl:3"), lost]
    [kept] = [row for row in ledger if row["source"] == "twins.jsonl:3"]
    assert 0 < kept["supervised_tokens"] < kept["tokens"] and kept["record_id"] in splits_of(run)
    assert sum(report["tokens"].values()) == sum(row["tokens"] for row in ledger)


def test_too_many_lost_rows_stop_the_run(prepared: Run, corpus: Path) -> None:
    files.write_json_lines(corpus / "broken.jsonl", [{"colour": "blue"}] * 61)
    with pytest.raises(prepare.TooMuchLostError, match=r"61 of 661 rows were rejected, and max_rejected_share = 0.05.*unknown_shape"):
        prepare.prepare(other(prepared, max_rejected_share=0.05))
    assert (prepared.folder / "data" / "report.json").exists(), "the earlier result is untouched"
    with pytest.raises(prepare.TooMuchLostError, match="strict is set"):
        prepare.prepare(other(prepared, max_rejected_share=0.5, strict=True))


def test_no_secret_of_the_corpus_is_in_any_file_of_the_run(prepared: Run, corpus: Path) -> None:
    token, mail = "ghp_" + "a1B2" * 9, "jane.doe" + "@" + "acme-corp.com"
    row = {
        "prompt": f"My token is {token}?",
        "completion": f"Never send {token} to {mail}, use a vault instead.",
        "module": mail,
        "note": token,
    }
    named = [{"text": f"A text of the domain that bears the name number {n}.", "domain": name} for n, name in enumerate((mail, token))]
    files.write_json_lines(corpus / "secret.jsonl", [row, {"text": f"half a row with {token}", "messages": 5}, *named])
    report = prepare.prepare(prepared)
    assert {"<EMAIL>", "<GITHUB_TOKEN>"} < {domain for split in report["domains"].values() for domain in split}
    assert sum(report["redacted"].values()) >= 3
    explore.explore(prepared)
    assert not files_with(prepared.folder, token, mail)


def test_the_mixture_weighs_domains_and_limits_operatives(prepared: Run, corpus: Path) -> None:
    files.write_json_lines(corpus.parent / "extra" / "orders.jsonl", rows("orders", 100))
    run = other(
        prepared,
        operatives_paths=["corpora/extra"],
        domain_weights={"red": 0.5, "blue": 2.0},
        operatives_share=0.1,
        order="operatives_last",
    )
    mixture = prepare.prepare(run)["mixture"]
    before, after = mixture["before"], mixture["after"]
    assert (
        after["red"] == pytest.approx(before["red"] / 2, rel=0.1)
        and after["blue"] == 2 * before["blue"]
        and after["green"] == before["green"]
    )
    assert 0.05 < mixture["operatives_tokens"] / sum(after.values()) <= 0.1 and mixture["records_left_out"] > 0
    last = load_from_disk(run.folder / "data" / "train")[-1]
    assert set(last["domains"]) == {"orders"}
    with pytest.raises(ValueError, match="rde is no domain of this corpus; it has blue, green, orders, red"):
        prepare.prepare(other(run, domain_weights={"rde": 0.5}))


def test_the_order_of_files_changes_nothing(prepared: Run, corpus: Path) -> None:
    before = splits_of(prepared)
    for path in sorted(corpus.iterdir()):
        path.rename(corpus / f"{'zyx'[sorted(corpus.iterdir()).index(path) % 3]}_{path.name}")
    run = other(prepared, domain_key="nothing", corpus_paths=["corpora/small"])
    prepare.prepare(run)
    assert splits_of(run) == before


def test_control_strings_in_a_text_stay_text(prepared: Run) -> None:
    tokenizer = base_model.load_tokenizer(prepared.settings.base_model)
    record = map_row({"prompt": "Which?", "completion": f"This {tokenizer.eos_token} one."}, "x:1")
    encoded = chat_format.encode(tokenizer, [record])[0]
    plain = chat_format.encode(tokenizer, [map_row({"prompt": "Which?", "completion": "This one."}, "x:1")])[0]
    assert encoded.input_ids.count(tokenizer.eos_token_id) == plain.input_ids.count(tokenizer.eos_token_id)
    assert tokenizer.eos_token in tokenizer.decode(encoded.input_ids).split("assistant")[1]
