"""The export stage: files that are complete or not there, taken over when nothing of them changed, made again when something did."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from mistral_lib.commands import export_command, own_claims, run_outcome
from mistral_lib.export import base_in_forms, export, export_tables, parity
from mistral_lib.export import probe as probes
from mistral_lib.export.export_pieces import Pieces
from mistral_lib.gguf_files import gguf_conversion, gguf_quantization
from mistral_lib.merging import merged_weights
from mistral_lib.preparation.audit import WEIGHTS
from mistral_lib.run import Run, files
from mistral_lib.run.disk import DiskFullError
from mistral_lib.run.params import ParameterError
from tests.support.corpora import other


def facts(run: Run) -> dict[str, Any]:
    return files.read_json(run.folder / "export" / "result.json")


def inodes(run: Run, *names: str) -> list[int]:
    return [(run.folder / "export" / name).stat().st_ino for name in names]


# -- the stage ----------------------------------------------------------------------------------------------------------


def test_what_the_result_says_is_on_disk(exported: Run) -> None:
    result, folder = facts(exported), exported.folder / "export"
    assert list(result["forms"]) == ["merged", "f16", "q8_0", "lora_gguf"]
    for form, of_form in result["forms"].items():
        assert of_form["file"] == export.file_of(form) and of_form["bytes"] == export.size(folder / of_form["file"]) > 0
    assert result["forms"]["lora_gguf"]["base_bytes"] == (folder / result["forms"]["lora_gguf"]["base"]).stat().st_size
    assert result["adapter_sha256"] == files.sha256(exported.folder / "training" / "adapter" / WEIGHTS)
    assert f"FROM ./{export.file_of('q8_0')}" in (folder / "Modelfile").read_text()
    assert exported.status("export") == "complete" and not exported.damages("export")
    assert not (exported.folder / export.WORK / "weights").exists()


def test_a_further_form_takes_over_what_is_there(exported: Run, own_copy: Run, capsys: pytest.CaptureFixture[str]) -> None:
    kept = ("merged/model.safetensors", "gguf/merged-f16.gguf", "gguf/merged-q8_0.gguf")
    before = inodes(own_copy, *kept)
    more = other(own_copy, export_forms=["merged", "f16", "q8_0", "q4_k_m"])
    result = export.export(more)
    assert list(result["forms"]) == ["merged", "f16", "q8_0", "q4_k_m"] and inodes(more, *kept) == before
    said = capsys.readouterr().err
    assert "merged is taken over" in said and "merged-q4_k_m" not in said
    assert not (more.folder / "export" / export.LORA).exists() and list((more.folder / "previous").glob("export-*"))


def test_an_export_that_ended_on_a_full_disk_resumes_with_the_file_that_is_missing(
    own_copy: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    again = other(own_copy, merge_into="nf4", export_forms=["q8_0"])  # other weights: nothing can be taken over

    def full(*_: object) -> None:
        raise DiskFullError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(gguf_quantization, "quantize", full)
        with pytest.raises(DiskFullError):
            export.export(again)
    assert again.status("export") != "complete"
    assert [path.name for path in (again.folder / export.WORK / "weights" / "gguf").iterdir()] == ["merged-f16.gguf"]
    capsys.readouterr()
    monkeypatch.setattr(merged_weights, "merge", lambda *_: pytest.fail("merged a second time"))
    monkeypatch.setattr(gguf_conversion, "convert", lambda *_: pytest.fail("converted a second time"))
    assert export.export(again)["merged_into"] == "nf4"
    assert "merged-f16.gguf was made before and is used" in capsys.readouterr().err
    assert not (again.folder / "export" / export.F16).exists(), "a file in between was kept as if it were a form"


def test_an_altered_file_is_not_taken_over(own_copy: Run, capsys: pytest.CaptureFixture[str]) -> None:
    place = own_copy.folder / "export" / "gguf" / "merged-q8_0.gguf"
    good = place.read_bytes()
    place.unlink()  # a new file: the first one is shared with the fixture's
    place.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    export.export(other(own_copy, export_forms=["q8_0"]))
    assert place.read_bytes() == good and "taken over" not in capsys.readouterr().err


def test_auto_takes_the_weights_on_which_the_adapter_predicts_better(exported: Run) -> None:
    probe = probes.load(exported.folder / "export" / probes.FILE)
    (name,) = probe.likelihoods  # trained without quantization: there is no choice
    assert export.merge_into(probe, "auto") == ("16bit", "the adapter was trained and evaluated on them") and name == "16bit"
    both = probe.likelihoods[name]
    worse = type(both)(base=both.base, adapter=[[value - 1 for value in row] for row in both.adapter])
    for likelihoods, better in (({"nf4": both, "16bit": worse}, "nf4"), ({"nf4": worse, "16bit": both}, "16bit")):
        into, why = export.merge_into(probe.__class__(**{**vars_of(probe), "likelihoods": likelihoods}), "auto")
        assert into == better and "nats per token" in why
    assert export.merge_into(probe, "nf4")[0] == "nf4"


def vars_of(probe: probes.Probe) -> dict[str, Any]:
    return {name: getattr(probe, name) for name in probe.__dataclass_fields__}


# -- its pieces ---------------------------------------------------------------------------------------------------------


def make(content: str) -> Any:
    return lambda place: place.write_text(content)


def test_a_piece_of_another_key_is_made_again(tmp_path: Path) -> None:
    assert Pieces(tmp_path / "work", "one").piece("a/b", make("first")).read_text() == "first"
    assert Pieces(tmp_path / "work", "one").piece("a/b", make("second")).read_text() == "first"
    assert Pieces(tmp_path / "work", "two").piece("a/b", make("second")).read_text() == "second"


def test_a_disk_without_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.EPERM, "no links on this disk")

    monkeypatch.setattr(os, "link", none)
    pieces = Pieces(tmp_path / "work", "one")
    (pieces.piece("folder", Path.mkdir) / "weights").write_text("weights")
    pieces.piece("file", make("content"))
    pieces.publish(tmp_path / "export", "folder", "file")
    pieces.discard()
    assert (tmp_path / "export" / "folder" / "weights").read_text() == "weights"
    assert (tmp_path / "export" / "file").read_text() == "content"


# -- tables, claims, command --------------------------------------------------------------------------------------------


def test_recommended_is_the_smallest_form_that_passes() -> None:
    exported = {"forms": {"merged": {"bytes": 900}, "q8_0": {"bytes": 500}, "q4_k_m": {"bytes": 300}, "lora_gguf": {"bytes": 10, "base_bytes": 900}}}  # fmt: skip

    def found(**passed: bool) -> dict[str, Any]:
        names = {"merged": "same", "q8_0": "quantised, keeps 97%", "q4_k_m": "quantised, keeps 84%", "lora_gguf": "same"}
        return {"findings": [{"form": form, "outcome": outcome, "kept": 0.9, "passed": passed.get(form, False), "evidence": {}}
                             for form, outcome in names.items()]}  # fmt: skip

    assert export_tables.recommended(exported, found(merged=True, q8_0=True, lora_gguf=True)) == "q8_0"
    assert export_tables.recommended(exported, found(merged=True, lora_gguf=True)) == "merged"  # an adapter needs its base model too
    assert export_tables.recommended(exported, found()) is None


def test_how_many_answers_end_is_counted_of_those_that_the_adapter_ends() -> None:
    exported = {"forms": {"q8_0": {"bytes": 500}}}

    def ended(**stops: int) -> str:
        found = {"form": "q8_0", "outcome": "same", "kept": 1.0, "passed": True, "evidence": {"stops": stops}}
        return export_tables.rows(exported, {"findings": [found]})["q8_0"]["ended"]

    assert ended(form=5, adapter=6, asked=8) == "5 of 6" and ended(form=1, adapter=0, asked=2) == "the adapter ends none of 2"


def test_the_base_model_is_measured_in_each_form_on_the_weights_that_it_was_made_on(exported: Run, own_copy: Run) -> None:
    probe = probes.load(exported.folder / "export" / probes.FILE)
    measured = base_in_forms.log_likelihoods(exported, probe, ["merged", "f16", "q8_0", "lora_gguf"])
    exact = base_in_forms.mean(probe.likelihoods["16bit"].base)
    assert measured["merged"] == exact and measured["f16"] == measured["lora_gguf"]
    assert all(value == pytest.approx(exact, abs=0.02) for value in measured.values())
    place = own_copy.folder / "export" / "result.json"
    changed = {**files.read_json(place), "merged_into": "nf4"}
    place.unlink()
    files.write_json(place, changed)
    on_nf4 = base_in_forms.log_likelihoods(own_copy, probe, ["q8_0"])
    assert on_nf4["q8_0"] != measured["q8_0"], "the base model on its NF4 weights is another one"
    if "nf4" in probe.likelihoods:
        assert on_nf4["q8_0"] == pytest.approx(base_in_forms.mean(probe.likelihoods["nf4"].base), abs=0.05)
    assert not list(own_copy.folder.glob(".base.*")), "files of the measurement were left"


def test_the_claims_of_a_run_are_what_is_on_disk(exported: Run) -> None:
    claimed = own_claims.of_run(exported, "http://127.0.0.1:8001", Path("key"))
    assert [claim["kind"] for claim in claimed] == ["run", "adapter", "corpus", "model", "gguf", "gguf", "gguf", "endpoint"]
    adapter = exported.folder / "training" / "adapter" / WEIGHTS
    assert claimed[1]["bytes"] == adapter.stat().st_size and claimed[1]["sha256"] == files.sha256(adapter)
    assert own_claims.with_other_size(claimed) == [{**claimed[1], "bytes": adapter.stat().st_size + 1}]
    assert claimed[1]["bytes"] == adapter.stat().st_size, "the true claims were changed as well"


def test_names_of_as_are_forms_or_groups_of_them() -> None:
    assert export_command.chosen(["merged", "gguf", "q8-0"]) == ["merged", "q8_0", "q4_k_m"]
    assert export_command.chosen(["lora-gguf", "ollama"]) == ["lora_gguf", "q4_k_m"]
    with pytest.raises(ParameterError, match=r"--as gptq awq: no such form; expected merged, f16.*ollama"):
        export_command.chosen(["gptq", "merged", "awq"])


def test_export_on_the_command_line_says_what_was_written_and_found(exported: Run) -> None:
    said = export_command.export(exported)
    assert "q8_0: runs/small/export/gguf/merged-q8_0.gguf" in said
    assert "lora_gguf: same — " in said and said.count("\n") == 7


def test_the_last_lines_of_a_run_name_report_findings_what_serves_it_and_what_is_next(exported: Run) -> None:
    parity.parity(exported)
    lines = run_outcome.text(exported).splitlines()
    assert "report: runs/small/evaluation/report.html" in lines
    assert any(line.startswith("q8_0: same — ") for line in lines)
    assert lines[-2] == "serve: python -m mistral_lib serve runs/small --form q8_0"
    assert lines[-1].startswith("next: python -m mistral_lib ask runs/small ")


def test_a_stale_export_is_not_among_the_results(own_copy: Run) -> None:
    parity.parity(own_copy)
    text = run_outcome.text(other(own_copy, merge_into="nf4"))
    assert "export is stale: merge_into" in text and "parity is stale" in text and "serve:" not in text and "same" not in text
    assert "--only 05` to make it again" in text and "report: runs/small" in text
