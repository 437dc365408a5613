"""The threshold explorer and its sample: a moved slider shows what the data stage would do."""

import pyarrow.parquet as pq
import pytest

from mistral_lib.corpus import exclusions, sources
from mistral_lib.display.threshold_explorer import ThresholdExplorer, figures
from mistral_lib.model import base_model
from mistral_lib.preparation import prepare, trial
from mistral_lib.run import Run, files
from tests.support.corpora import deep_lines, other, rows


@pytest.fixture
def tokenizer(settings):
    return base_model.load_tokenizer(settings.base_model)


@pytest.fixture
def explorer(settings, corpus, tokenizer) -> ThresholdExplorer:
    return ThresholdExplorer(trial.draw(sources.of_settings(settings), settings, rows=10_000), settings, tokenizer)


def test_a_sample_of_all_rows_gives_the_figures_of_the_data_stage(explorer: ThresholdExplorer, settings) -> None:
    assert figures(prepare.prepare(Run.open(settings))) == explorer.before


def test_a_sample_of_all_rows_leaves_out_records_excluded_by_id_and_by_source(settings, corpus, tokenizer) -> None:
    run = Run.open(settings)
    prepare.prepare(run)
    by_id = next(row["record_id"] for row in pq.read_table(run.folder / "data" / "records.parquet").to_pylist())
    entries = {by_id: "", "red.jsonl:7": "", "blue.jsonl:200": "", "green.jsonl:999": "no such row", "red.jsonl.jsonl:1": "no such file"}
    exclusions.write(run.folder / exclusions.NAME, entries)
    explorer = ThresholdExplorer(trial.draw(sources.of_settings(settings), settings, rows=10_000), settings, tokenizer)
    assert figures(prepare.prepare(run)) == explorer.before and explorer.before["rejected: excluded_by_hand"] == 3


def test_a_sample_of_all_rows_takes_domain_and_document_from_file_and_line(settings, corpus, tokenizer) -> None:
    for name in ("red", "green", "blue"):
        plain = [{"prompt": row["prompt"], "completion": row["completion"]} for row in rows(name, 90)]
        files.write_json_lines(corpus / f"{name}.part.jsonl", plain)
        (corpus / f"{name}.jsonl").unlink()
    explorer = ThresholdExplorer(trial.draw(sources.of_settings(settings), settings, rows=10_000), settings, tokenizer)
    assert figures(prepare.prepare(Run.open(settings))) == explorer.before and set(explorer.weights) == {
        "red.part",
        "green.part",
        "blue.part",
    }


def test_a_slider_shows_what_the_data_stage_would_do_with_it(settings, corpus, tokenizer) -> None:
    words = [f"word{n}" for n in range(30)]  # two texts of 26 word 5-grams each; their Jaccard similarity is 21 / 31
    files.write_json_lines(corpus / "twins.jsonl", [{"text": " ".join(words)}, {"text": " ".join([*words[:15], "other", *words[16:]])}])
    explorer = ThresholdExplorer(trial.draw(sources.of_settings(settings), settings, rows=10_000), settings, tokenizer)
    explorer.controls["near_duplicate_threshold"].value = 0.5
    explorer.controls["shortest_answer"].value = 80
    assert "near_duplicate_threshold = 0.5\nshortest_answer = 80" in explorer.message.value
    prepared = prepare.prepare(other(Run.open(settings), near_duplicate_threshold=0.5, shortest_answer=80))
    assert prepared["duplicates_near"] > explorer.before["near-duplicates"] and prepared["rejected"]["answer_too_short"] > 0
    for name in ("near-duplicates", "rejected: answer_too_short", "records kept"):
        row = next(line for line in explorer.table.value.split("<tr>") if f"<td>{name}</td>" in line)
        assert f">{figures(prepared)[name]:,}</td>" in row and "<b>" in row, row


def test_a_weight_changes_only_the_mixture(explorer: ThresholdExplorer) -> None:
    explorer.weights["red"].value = 0.5
    assert "domain_weights = {&#x27;red&#x27;: 0.5}" in explorer.message.value
    changed = [line.split("</td>")[0] for line in explorer.table.value.split("<tr><td>") if "<b>" in line]
    assert "training tokens of red" in changed and "training tokens of blue" not in changed and "records kept" not in changed
    explorer.weights["red"].value = 1.0
    assert explorer.changes() == {} and "Move a slider" in explorer.message.value


def test_a_slider_that_was_not_moved_changes_nothing_whatever_its_digits(settings, corpus, tokenizer) -> None:
    fine = settings.model_copy(update={"operatives_share": 0.3333, "domain_weights": {"red": 0.66667, "blue": 1.0}})
    explorer = ThresholdExplorer(trial.draw(sources.of_settings(fine), fine, rows=300), fine, tokenizer)
    assert explorer.changes() == {} and "Move a slider" in explorer.message.value
    explorer.controls["operatives_share"].value, explorer.weights["green"].value = 0.1 + 0.2, 2.0
    assert explorer.changes() == {"operatives_share": 0.3, "domain_weights": {"red": 0.66667, "blue": 1.0, "green": 2.0}}
    explorer.weights["red"].value = 1.0
    assert explorer.changes()["domain_weights"] == {"blue": 1.0, "green": 2.0}


def test_an_impossible_combination_is_reported_and_the_last_table_stays(explorer: ThresholdExplorer) -> None:
    before = explorer.table.value
    explorer.controls["max_tokens"].value = 8192
    assert (
        "These values are not possible" in explorer.message.value
        and "max_tokens = 8192" in explorer.message.value
        and explorer.table.value == before
    )


def test_a_sample_that_cannot_be_prepared_is_reported(settings, corpus, tokenizer) -> None:
    few = trial.draw(sources.of_settings(settings), settings, rows=2)
    explorer = ThresholdExplorer(few, settings, tokenizer)
    assert "the sample cannot be prepared" in explorer.message.value and "the sample cannot be prepared" in explorer.plain


def test_complete_documents_are_sampled_in_any_order_of_the_files(settings, corpus) -> None:
    found = sources.of_settings(settings)
    one, two = (trial.draw(files_, settings, rows=100) for files_ in (found, found[::-1]))
    assert {file.name: file.data for file in one.files} == {file.name: file.data for file in two.files}
    modules = [line.split('"module":"')[1].split('"')[0] for file in one.files for line in file.data.decode().splitlines()]
    assert one.rows == len(modules) == 100 and len(set(modules)) == 10, "ten documents of ten rows"


def test_a_trial_keeps_documents_whose_key_is_a_usual_one(settings, corpus, tokenizer) -> None:
    for path in corpus.iterdir():
        renamed = [{**row, "ticketId": row.pop("module")} for row in files.read_json_lines(path)]
        files.write_json_lines(path, renamed)
    usual = settings.model_copy(update={"group_key": ""})
    sample = trial.draw(sources.of_settings(usual), usual, rows=10_000)
    tried, real = trial.report(sample, usual, tokenizer), prepare.prepare(Run.open(usual))
    for name in ("split_sizes", "documents", "leaked_by_a_random_split"):
        assert tried[name] == real[name], name
    assert real["source_documents"] == [{"key": "ticket_id", "records": 600, "documents": 60}]


def test_unreadable_rows_are_counted_and_not_sampled(settings, corpus) -> None:
    files.write_bytes(corpus / "odd.jsonl", b'{"color": "blue"}\n{"prompt": "half')
    sample = trial.draw(sources.of_settings(settings), settings, rows=10_000)
    assert (sample.rows, sample.looked_at, sample.unreadable) == (600, 602, 2)


def test_a_deeply_nested_value_drops_only_its_own_row(settings, corpus, tokenizer) -> None:
    in_a_message = b'{"messages": [{"role": "user", "content": "a", "x": %s}, {"role": "assistant", "content": "b"}]}' % (
        b"[" * 300 + b"]" * 300
    )
    files.write_bytes(corpus / "deep.jsonl", deep_lines() + in_a_message)
    sample = trial.draw(sources.of_settings(settings), settings, rows=10_000)
    assert (sample.rows, sample.unreadable) == (601, 2)
    assert trial.report(sample, settings, tokenizer)["records_kept"] == 601


def test_nothing_of_the_sample_stays_on_disk(settings, corpus, tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    sample = trial.draw(sources.of_settings(settings), settings, rows=10_000)
    assert trial.report(sample, settings, tokenizer)["records_kept"] > 500
    assert not list((tmp_path / "scratch").iterdir()) and not (tmp_path / "runs").exists()


def test_headless_it_shows_the_figures_of_the_sample(explorer: ThresholdExplorer) -> None:
    plain = explorer._repr_mimebundle_()["text/plain"]
    assert (
        plain.startswith("600 of 600 rows, complete source documents\nrows: 600\n")
        and f"records kept: {explorer.before['records kept']:,}" in plain
    )


def test_of_many_domains_the_largest_are_in_the_table(settings, corpus, tokenizer) -> None:
    for n in range(60):
        (corpus / f"notes{n}").mkdir()
        (corpus / f"notes{n}" / "note.md").write_text(f"Note {n}. " + " ".join(f"word{n}_{k}" for k in range(20 + n % 30)))
    explorer = ThresholdExplorer(trial.draw(sources.of_settings(settings), settings, rows=10_000), settings, tokenizer)
    assert not explorer.weights and sum(name.startswith("training tokens of ") for name in explorer.before) == 20
    explorer.controls["shortest_answer"].value = 90
    assert "others</td>" in explorer.table.value and "shortest_answer = 90" in explorer.message.value
