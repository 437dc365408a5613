"""A result is refused as a base for another one as soon as it is not what today's parameters and inputs would give."""

from pathlib import Path
from typing import Any

import pytest

from mistral_lib.commands import run_outcome
from mistral_lib.corpus import sources
from mistral_lib.model import base_model
from mistral_lib.preparation import audit, stage_inputs
from mistral_lib.preparation.stage_inputs import StaleStageError
from mistral_lib.run import Run, files
from mistral_lib.run.folder import FORMAT
from mistral_lib.run.settings import STAGES, Settings, stages_of
from tests.support.corpora import other

CHOICES = {"objective": "answers", "order": "operatives_last", "long_records": "reject", "script": "greek", "quantization": "none",
           "dtype": "float32", "merge_into": "16bit", "report_to": "tensorboard", "engine": "ray", "instance": "g5.xlarge", "normalized": "off", "unescaped_newlines": "off"}  # fmt: skip


def changed(name: str, value: Any) -> Any:
    """Another valid value of a parameter."""
    if name == "more_personal_data":
        return ["ip_address"]
    if name == "export_forms":
        return ["f16"]
    if name in CHOICES:
        return CHOICES[name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value / 2 if value else 0.5
    if isinstance(value, int):
        return value - 1 if value > 1 else value + 1
    if isinstance(value, list):
        return [*value, "optional:nowhere"]
    if isinstance(value, dict):
        return {"text": "python"} if name == "answer_formats" else {"text": 0.5} if name == "domain_weights" else {"text": "body"}
    return "flag" if value in ("redact", "reject", "off") else "off" if value == "flag" else f"{value}2"


@pytest.fixture
def run(home: Path, tiny_model: str) -> Run:
    """A run whose stages are all recorded as complete, without having been run."""
    (home / "c").mkdir()
    (home / "c" / "a.jsonl").write_text('{"text": "one"}\n')
    opened = Run.open(Settings(run_name="r", corpus_paths=["c"], operatives_paths=[], retention_paths=[], base_model=tiny_model))
    recorded = {
        "corpus": ["corpus/inventory.json"],
        "data": ["data/train/a.arrow", "data/validation/a.arrow", "data/test/a.arrow", "data/records.parquet"],
        "training": ["training/adapter/adapter_model.safetensors"],
        "evaluation": ["evaluation/report.html", "evaluation/losses.parquet"],
        "export": ["export/result.json"],
        "parity": ["parity/result.json"],
    }
    for stage, names in recorded.items():
        with opened.lock("test"), opened.recording(stage, stage_inputs.hashes(opened, stage)):
            for name in names:
                files.write_text(opened.folder / name, f"<h1>{name}</h1>{''.join(stage_inputs.STALE_NOTE)}")
            opened.complete(stage, {})
    return opened


def refusal(run: Run, stage: str) -> str:
    """Why `stage` alone refuses to run; "" if it runs."""
    before = {"training": "data", "evaluation": "training", "export": "evaluation", "parity": "export"}[stage]
    try:
        stage_inputs.require_current(run, before)
    except StaleStageError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", [name for name in Settings.names() if name not in ("run_name", "base_model")])
def test_a_changed_parameter_and_each_later_stage_alone(run: Run, name: str) -> None:
    """What ends well may not contradict the manifest: a stage runs only if the parameter belongs to none before it."""
    later = STAGES[2:]
    assert {refusal(run, stage) for stage in later} == {""}
    now = run.settings.model_copy(update={name: changed(name, getattr(run.settings, name))})
    assert Settings.model_validate(now.model_dump()) == now != run.settings
    run = Run(run.folder, now)
    for stage in later:
        earlier = [one for one in STAGES[1 : STAGES.index(stage)] if one in stages_of(name)]
        found = refusal(run, stage)
        assert bool(found) == bool(earlier), (name, stage, found)
        if earlier:
            assert f"runs/r: {earlier[0]} is stale" in found and f"{name}: " in found
            assert f"python -m mistral_lib run runs/r/params.yaml --only {stage_inputs.NOTEBOOKS[earlier[0]][:2]}" in found
    stale = stage_inputs.stale_stages(run)
    first = min((STAGES.index(stage) for stage in stages_of(name)), default=len(STAGES))
    built_on_it = [stage for stage in STAGES[1:] if any(one in stages_of(name) for one in (*stage_inputs.BUILT_ON[stage], stage))]
    assert [stage for stage in stale if stage != "corpus"] == built_on_it, "staleness passes on through all later stages"
    assert (not stale) == (first == len(STAGES))


def test_a_changed_source_an_exclusion_and_data_prepared_again_are_refused_too(run: Run, home: Path) -> None:
    source = home / "c" / "a.jsonl"
    source.write_text('{"text": "two"}\n')
    assert "data is stale, and with it training: input corpus/a.jsonl changed" in refusal(run, "evaluation")
    source.write_text('{"text": "one"}\n')
    assert refusal(run, "evaluation") == ""
    (run.folder / "excluded.txt").write_text("a.jsonl:1\n")
    assert "input exclusions is new" in refusal(run, "training")
    (run.folder / "excluded.txt").unlink()
    files.write_text(run.folder / "data" / "train" / "a.arrow", "prepared again")
    with run.lock("test"):
        run.complete("data", {})
    assert refusal(run, "training") == "" and "training is stale: input data/train/a.arrow changed" in refusal(run, "evaluation")


def test_sources_that_are_elsewhere_are_not_compared_and_that_is_said(run: Run, home: Path, capsys: pytest.CaptureFixture) -> None:
    """Data may be prepared on one machine and trained on another."""
    (home / "c" / "a.jsonl").rename(home / "elsewhere.jsonl")
    assert refusal(run, "evaluation") == "" and "data: its sources cannot be compared" in capsys.readouterr().err
    assert refusal(other(run, seed=7), "training"), "but its parameters are"


def test_an_incomplete_stage_is_named_before_a_stale_one(run: Run) -> None:
    with run.lock("test"):
        run.record("data", status="failed")
    with pytest.raises(RuntimeError, match="stage data is failed, expected complete; run notebook 02_prepare_data first"):
        stage_inputs.require_current(other(run, seed=7), "training")


def test_a_report_says_that_it_is_stale_and_stops_saying_it(run: Run) -> None:
    page = run.folder / "evaluation" / "report.html"
    fresh = page.read_text()
    stage_inputs.note_in_report(run)
    assert page.read_text() == fresh
    changed_run = other(run, seed=7)
    stage_inputs.note_in_report(changed_run)
    assert "Stale: this page is not about the run as it is now." in page.read_text() and "seed: 42 became 7" in page.read_text()
    recorded = {finding.artefact: finding.status for finding in audit.audit(run.folder)}
    assert recorded["r/evaluation/report.html"] == "verified", "the note is recorded"
    stage_inputs.note_in_report(other(run, seed=42))
    assert page.read_text() == fresh
    page.write_text("<h1>a page of an older version</h1>")
    stage_inputs.note_in_report(other(run, seed=7))
    assert page.read_text() == "<h1>a page of an older version</h1>"


def test_the_closing_lines_of_a_run_print_no_verdict_that_is_stale(run: Run) -> None:
    files.write_json(run.folder / "evaluation" / "result.json", {"sentence": "ship: all 7 rules passed"})
    lines = run_outcome.text(other(run, seed=7))
    assert "ship" not in lines and "stages complete: corpus" in lines
    assert "data is stale: seed: 42 became 7" in lines and "evaluation is stale: data is stale; training is stale" in lines
    assert "python -m mistral_lib run runs/r/params.yaml --only 02 03 04 05" in lines


def made_by_an_older_version(run: Run, *stages: str) -> None:
    with run.lock("test"):
        for stage in stages:
            run.record(stage, format=FORMAT[stage] - 1)


def test_an_adapter_of_an_older_version_stays_usable(run: Run, capsys: pytest.CaptureFixture) -> None:
    made_by_an_older_version(run, "data", "training")
    assert refusal(run, "training") == refusal(run, "evaluation") == "" and stage_inputs.stale_stages(run) == {}
    found = {finding.artefact: finding for finding in audit.audit(run.folder) if finding.status == "older"}
    assert set(found) == {"r/data", "r/training"} and "an older version of the library made it" in found["r/training"].reason
    for stage in ("data", "training"):
        assert run.reasons_to_run(stage, stage_inputs.hashes(run, stage)) == []
        assert [f for f in audit.unverified(run, stage) if f.status == "older"] == []
    run.run_stage("data", stage_inputs.hashes(run, "data"), lambda folder: pytest.fail("prepared again"))
    assert "made by an older version of the library, is used" in capsys.readouterr().err


def test_data_of_an_older_version_that_nothing_was_trained_on_are_prepared_again(run: Run) -> None:
    made_by_an_older_version(run, "data", "evaluation", "corpus")
    for stage in ("corpus", "evaluation"):
        assert "older version" in str(run.reasons_to_run(stage, stage_inputs.hashes(run, stage)))
    with run.lock("test"):
        run.record("training", status="interrupted")
    assert "older version" in str(run.reasons_to_run("data", stage_inputs.hashes(run, "data")))


def test_a_parameter_that_the_library_did_not_have_then_is_no_change(run: Run) -> None:
    parameters = run.entry("data")["parameters"]
    with run.lock("test"):
        run.record("data", parameters={name: value for name, value in parameters.items() if name != "strict"})
    assert refusal(run, "training") == ""
    assert "strict: False became True" in refusal(other(run, strict=True), "training")


def test_the_hashes_are_those_of_the_sources(run: Run) -> None:
    assert run.entry("data")["inputs"]["corpus/a.jsonl"] == sources.inputs(sources.of_settings(run.settings))["corpus/a.jsonl"]


def test_an_adapter_that_was_altered_is_not_evaluated(run: Run) -> None:
    weights = run.folder / "training" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    assert "training is stale: training/adapter/adapter_model.safetensors was altered" in refusal(run, "evaluation")
    weights.unlink()
    assert "training/adapter/adapter_model.safetensors is missing" in refusal(run, "evaluation")


def test_each_stage_reads_what_it_is_built_on_and_nothing_else(run: Run, home: Path) -> None:
    retention = home / "kept.txt"
    retention.write_text("A text that should still be predicted well.")
    run = Run(run.folder, run.settings.model_copy(update={"retention_paths": [str(retention)]}))
    files.write_text(run.folder / "excluded.txt", "a.jsonl:1\n")
    files.write_text(run.folder / "training" / "record_ids.parquet", "ids")
    files.write_text(run.folder / "data" / "report.json", "{}")
    with run.lock("test"):
        run.complete("training", {})
        run.complete("data", {})
    read = {stage: set(stage_inputs.hashes(run, stage)) for stage in STAGES}
    assert read["corpus"] == {"corpus/a.jsonl", "tokenizer"} and read["data"] == {"corpus/a.jsonl", "exclusions", "tokenizer"}
    assert read["training"] == {"data/train/a.arrow", "data/validation/a.arrow", "base_model"}
    evaluated = {"training/adapter/adapter_model.safetensors", "training/record_ids.parquet", "data/test/a.arrow", "data/train/a.arrow",
                 "data/records.parquet"}  # fmt: skip
    trained = {"training/adapter/adapter_model.safetensors"}
    assert read["export"] == {*trained, "data/test/a.arrow", "evaluation/losses.parquet", "base_model"}
    assert read["parity"] == {*trained, "export/result.json"}
    assert read["evaluation"] == evaluated | set(sources.inputs(sources.of_retention(run.settings))) and len(read["evaluation"]) == 6
    files.write_text(run.folder / stage_inputs.VOTES, "{}\n")
    hashed = stage_inputs.hashes(run, "evaluation")
    assert set(hashed) == read["evaluation"] | {"votes.jsonl"} and hashed["votes.jsonl"] == files.sha256(run.folder / "votes.jsonl")
    assert hashed["data/test/a.arrow"] == files.sha256(run.folder / "data" / "test" / "a.arrow")
    assert stage_inputs.hashes(run, "corpus", source_files=[]) == {"tokenizer": hashed_tokenizer(run)}, "files that the caller found"


def hashed_tokenizer(run: Run) -> str:
    return base_model.tokenizer_hash(base_model.load_tokenizer(run.settings.base_model))


def test_a_base_model_that_is_not_fetched_keeps_the_hash_that_was_recorded(run: Run) -> None:
    absent = Run(run.folder, run.settings.model_copy(update={"base_model": "nobody/has-this-model"}))
    for stage, key in (("corpus", "tokenizer"), ("data", "tokenizer"), ("training", "base_model"), ("export", "base_model")):
        recorded = run.entry(stage)["inputs"][key]
        assert stage_inputs.base(absent, stage, fetch=False) == {key: recorded} == stage_inputs.base(run, stage, fetch=False)
        assert stage_inputs.base(run, stage, fetch=True)[key] != ""
        with run.lock("test"):
            run.record(stage, inputs={})
        assert stage_inputs.base(absent, stage, fetch=False) == {}
    assert stage_inputs.base(absent, "evaluation", fetch=False) == {} == stage_inputs.base(run, "evaluation", fetch=True)
    assert not [one for one in stage_inputs.outdated(absent, "training") if "read again" in one], "nothing was looked for on the hub"
    weights = base_model.fingerprint(run.settings.base_model, weights=True)
    assert stage_inputs.base(run, "training", fetch=True) == {"base_model": weights}
    assert stage_inputs.base(run, "data", fetch=True) == {"tokenizer": hashed_tokenizer(run)}


def test_sources_that_are_elsewhere_make_a_result_stale_where_nothing_is_built_on_it(run: Run, home: Path) -> None:
    (home / "c" / "a.jsonl").unlink()
    for stage in ("corpus", "data"):
        (reason,) = [one for one in stage_inputs.outdated(run, stage) if "read again" in one]
        assert reason.startswith("its inputs cannot be read again: ")
    assert "data is stale" in stage_inputs.outdated(run, "training") and "training is stale" in stage_inputs.outdated(run, "evaluation")


def test_the_refusal_names_all_stale_stages_and_how_to_run_them(run: Run) -> None:
    found = refusal(other(run, seed=7), "evaluation")
    assert found.startswith("runs/r: data is stale, and with it training: seed: 42 became 7; seed: 42 became 7. ")
    assert "params.yaml --only 02 03` (or notebook 02_prepare_data) first" in found
    alone = refusal(other(run, seed=42, lora_rank=run.settings.lora_rank + 1), "evaluation")
    assert alone.startswith("runs/r: training is stale: lora_rank: ") and "--only 03` (or notebook 03_train_adapter) first" in alone
    assert [stage_inputs.NOTEBOOKS[stage][:2] for stage in STAGES] == ["01", "02", "03", "04", "05", "05"]


def test_a_page_is_not_changed_while_another_process_works_or_before_it_is_complete(run: Run) -> None:
    page = run.folder / "evaluation" / "report.html"
    fresh, changed_run = page.read_text(), other(run, seed=7)
    with run.lock("another process"):
        stage_inputs.note_in_report(changed_run)
    assert page.read_text() == fresh
    with run.lock("test"):
        run.record("evaluation", status="failed")
    stage_inputs.note_in_report(changed_run)
    assert page.read_text() == fresh
    with run.lock("test"):
        run.record("evaluation", status="complete")
    stage_inputs.note_in_report(changed_run)
    noted, recorded = page.read_text(), run.entry("evaluation")["outputs"]
    assert "evaluation: data is stale; training is stale; seed: 42 became 7" in noted and noted.startswith(
        "<h1>evaluation/report.html</h1><!--"
    )
    assert recorded["evaluation/report.html"] == {"sha256": files.sha256(page), "bytes": page.stat().st_size}
    other(run, seed=42, corpus_paths=["c", "optional:nowhere"])
    only_corpus = Run.existing(run.folder)
    with run.lock("test"):
        run.record("data", parameters={**run.entry("data")["parameters"], "corpus_paths": ["c", "optional:nowhere"]})
    assert list(stage_inputs.stale_stages(only_corpus)) == ["corpus"]
    stage_inputs.note_in_report(only_corpus)
    assert page.read_text() == fresh, "the corpus stage is not what the page is about"
    page.unlink()
    stage_inputs.note_in_report(changed_run)
    assert not page.exists()


def test_only_complete_stages_are_stale(run: Run) -> None:
    changed_run = other(run, seed=7)
    with run.lock("test"):
        run.record("training", status="failed")
    assert set(stage_inputs.stale_stages(changed_run)) == {"data", "evaluation", "export", "parity"}
    assert stage_inputs.outdated(changed_run, "data") == ["seed: 42 became 7"]
