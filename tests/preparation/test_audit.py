"""The audit compares what is claimed with what is on disk."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mistral_lib.commands import notebook_runs
from mistral_lib.corpus import exclusions
from mistral_lib.model import base_model
from mistral_lib.preparation import audit, prepare
from mistral_lib.run import Run, files
from mistral_lib.run.folder import FORMAT, OLDER
from mistral_lib.run.settings import Settings
from tests.support.corpora import other


def statuses(findings: list[audit.Finding]) -> dict[str, str]:
    return {finding.artefact: finding.status for finding in findings}


def adapter(folder: Path, b: torch.Tensor) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    save_file({"x.lora_A.weight": torch.ones(2, 3), "x.lora_B.weight": b}, folder / "adapter_model.safetensors")
    files.write_json(folder / "provenance.json", {"weights_sha256": files.sha256(folder / "adapter_model.safetensors")})
    return folder


def test_a_trained_adapter_alone_is_verified(tmp_path: Path) -> None:
    assert set(statuses(audit.audit(adapter(tmp_path / "a", torch.ones(3, 2)))).values()) == {"verified"}


@pytest.mark.parametrize(
    ("b", "status", "word"),
    [(torch.zeros(3, 2), "missing", "nothing was trained"), (torch.full((3, 2), float("nan")), "altered", "NaN")],
)
def test_an_untrained_or_broken_adapter_is_not_verified(tmp_path: Path, b: torch.Tensor, status: str, word: str) -> None:
    found = audit.audit(adapter(tmp_path / "a", b))[0]
    assert found.status == status and word in found.reason


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "provenance.json"])
def test_each_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = adapter(tmp_path / "a", torch.ones(3, 2))
    (folder / name).unlink()
    assert statuses(audit.audit(folder))[f"a/{name}"] == "missing"


def test_a_changed_byte_is_altered(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", torch.ones(3, 2))
    data = bytearray((folder / "adapter_model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "adapter_model.safetensors").write_bytes(data)
    assert "altered" in statuses(audit.audit(folder)).values()


def test_in_a_folder_without_an_adapter_everything_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "STATUS.txt").write_text("training COMPLETED")
    names = ("adapter_config.json", "adapter_model.safetensors", "provenance.json")
    assert statuses(audit.audit(tmp_path / "a")) == {f"a/{name}": "missing" for name in names}
    assert audit.audit(tmp_path / "nowhere") == [audit.Finding(str(tmp_path / "nowhere"), "missing", "no such folder")]
    assert audit.audit_adapter(tmp_path / "nowhere") == [audit.Finding("nowhere", "missing", "no such folder")]


@pytest.fixture
def run(home: Path) -> Run:
    opened = Run.open(Settings(run_name="r", corpus_paths=["c"], operatives_paths=[]))
    (home / "c").mkdir()
    (home / "c" / "a.jsonl").write_text('{"text": "one"}\n')
    from mistral_lib.corpus import sources

    opened.run_stage("data", sources.inputs(sources.of_settings(opened.settings)), lambda f: {"n": (f / "out.txt").write_text("x")})
    return opened


def test_a_run_is_verified_file_by_file(run: Run) -> None:
    assert statuses(audit.audit(run.folder)) == {"r/data/out.txt": "verified"}


def test_a_changed_parameter_or_source_makes_it_stale(run: Run, home: Path) -> None:
    other(run, max_tokens=64)
    assert statuses(audit.audit(run.folder))["r/data"] == "stale"
    other(run, max_tokens=512)
    assert "r/data" not in statuses(audit.audit(run.folder))
    (home / "c" / "a.jsonl").write_text('{"text": "two"}\n')
    assert statuses(audit.audit(run.folder))["r/data"] == "stale"


def test_a_claim_without_a_manifest_or_with_a_broken_one_is_reported(run: Run) -> None:
    (run.folder / "manifest.json").write_text("{")
    assert audit.audit(run.folder)[0].status == "altered"
    (run.folder / "manifest.json").unlink()
    assert audit.audit(run.folder)[0].status == "missing"


def test_a_run_without_any_stage_is_reported_with_what_to_do(home: Path) -> None:
    named = Run.open(Settings(run_name="only_named"))
    (finding,) = audit.audit(named.folder)
    assert finding.status == "missing" and "ever started: run it, or delete its folder" in finding.reason
    (named.folder / "training").mkdir()
    (finding,) = audit.audit(named.folder)
    assert "without it nothing in this folder can be verified" in finding.reason, "a stage without its record is not an empty folder"


def stale(run: Run) -> str:
    """Why the audit calls stages of the run stale."""
    return "; ".join(finding.reason for finding in audit.audit(run.folder) if finding.status == "stale")


def test_a_record_left_out_by_hand_afterwards_makes_the_data_stale(prepared: Run) -> None:
    assert stale(prepared) == ""
    exclusions.write(prepared.folder / exclusions.NAME, {"red.jsonl:1": ""})
    assert stale(prepared) == "input exclusions is new"
    (prepared.folder / exclusions.NAME).write_bytes(b"\xff\xfe\xff")
    assert "its inputs cannot be read again" in stale(prepared) and "expected a record id" in stale(prepared)


def test_another_tokenizer_makes_the_data_stale_and_a_missing_base_model_does_not(prepared: Run, home: Path, tiny_model: str) -> None:
    mine = other(prepared, base_model=str(shutil.copytree(tiny_model, home / "models" / "mine")))
    prepare.prepare(mine)
    template = home / "models" / "mine" / "chat_template.jinja"
    template.write_text(template.read_text() + "{# of another day #}")
    base_model.load_tokenizer.cache_clear()
    assert stale(mine) == "input tokenizer changed"
    shutil.rmtree(home / "models" / "mine")
    assert stale(mine) == "", "an audit fetches nothing, and the run may have been copied here without its base model"


def test_a_hub_model_is_looked_for_only_in_the_cache(home: Path) -> None:
    assert not base_model.is_local("nobody/has-this-model") and not base_model.is_local("s3://no-such-bucket/model")
    assert not base_model.is_local("./models/nowhere")


def test_a_stage_is_done_only_if_its_record_says_so(prepared: Run) -> None:
    """As `run` decides it: without an intact manifest no stage is verified, and neither is one that never ran."""
    notebook = next(path for path in notebook_runs.select() if path.name.startswith("02"))
    copy = prepared.folder / "notebooks" / notebook.name
    files.write_text(copy, '{"metadata": {}}')
    assert not notebook_runs.is_done(prepared, notebook), "the copy was not run to its end"
    notebook_runs.mark_complete(copy, notebook_runs.key(prepared, notebook))
    assert notebook_runs.is_done(prepared, notebook) and audit.unverified(prepared, "data") == []
    assert [finding.reason for finding in audit.unverified(prepared, "training")] == ["not complete: not started"]
    exclusions.write(prepared.folder / exclusions.NAME, {"red.jsonl:1": ""})
    assert not notebook_runs.is_done(prepared, notebook), "a record excluded by hand: the data are prepared again"
    (prepared.folder / exclusions.NAME).unlink()
    for damage in ("{", "{}", None):
        manifest = prepared.folder / "manifest.json"
        manifest.write_text(damage) if damage else manifest.unlink()
        assert audit.unverified(prepared, "data") and not notebook_runs.is_done(prepared, notebook)


def reasons(findings: list[audit.Finding]) -> dict[str, str]:
    return {finding.artefact: f"{finding.status}: {finding.reason}" for finding in findings}


def test_an_adapter_is_trained_if_any_lora_b_is_not_zero(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", torch.ones(3, 2))
    tensors = {f"{n}.lora_{part}.weight": torch.full((2, 2), float(n if part == "B" else 1)) for n in range(3) for part in "AB"}
    save_file(tensors, folder / "adapter_model.safetensors")
    sha = files.sha256(folder / "adapter_model.safetensors")
    files.write_json(folder / "provenance.json", {"weights_sha256": sha})
    assert reasons(audit.audit(folder)) == {"a/adapter_model.safetensors": "verified: 6 finite tensors, 2 trained lora_B",
                                            "a/provenance.json": f"verified: weights have sha256 {sha[:12]}"}  # fmt: skip
    assert str(audit.audit(folder)[0]) == "verified  a/adapter_model.safetensors: 6 finite tensors, 2 trained lora_B"


@pytest.mark.parametrize(
    ("text", "artefact", "words"),
    [("{", "provenance.json", "altered: cannot be read"), ("{}", "provenance.json", "altered: cannot be read: 'weights_sha256'"),
     ("[]", "provenance.json", "altered: cannot be read"),
     ('{"weights_sha256": "00"}', "adapter_model.safetensors", "altered: its content is not what training wrote")],
)  # fmt: skip
def test_a_provenance_of_other_weights_or_none_is_altered(tmp_path: Path, text: str, artefact: str, words: str) -> None:
    folder = adapter(tmp_path / "a", torch.ones(3, 2))
    (folder / "provenance.json").write_text(text)
    assert reasons(audit.audit(folder)[1:])[f"a/{artefact}"].startswith(words)


def test_weights_that_cannot_be_read_are_altered_and_no_file_is_judged_twice(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", torch.ones(3, 2))
    (folder / "adapter_model.safetensors").write_bytes(b"no tensors")
    files.write_json(folder / "provenance.json", {"weights_sha256": files.sha256(folder / "adapter_model.safetensors")})
    first, second = audit.audit(folder)
    assert (first.status, second.status) == ("altered", "verified") and first.reason.startswith("cannot be read: ")
    (folder / "adapter_model.safetensors").unlink()
    assert reasons(audit.audit(folder)) == {"a/adapter_model.safetensors": "missing: an adapter cannot be loaded without it"}


def test_each_output_of_a_run_has_its_status_and_reason(run: Run, home: Path) -> None:
    sha = files.sha256(run.folder / "data" / "out.txt")
    assert reasons(audit.audit(Path("r"))) == {"r/data/out.txt": f"verified: sha256 {sha[:12]}"}
    (run.folder / "data" / "out.txt").write_text("X")
    assert reasons(audit.audit(run.folder)) == {"r/data/out.txt": "altered: its content is not what the stage wrote"}
    assert [finding.status for finding in audit.unverified(run, "data")] == ["altered"]
    (run.folder / "data" / "out.txt").unlink()
    assert reasons(audit.audit(run.folder)) == {"r/data/out.txt": "missing: recorded as complete, but not on disk"}
    with run.lock("test"):
        run.record("data", status="failed", error="ValueError: no")
    assert reasons(audit.audit(run.folder)) == {"r/data": "missing: not complete: failed (ValueError: no)"}
    with run.lock("test"):
        run.record("data", error=None)
    assert reasons(audit.audit(run.folder)) == {"r/data": "missing: not complete: failed"}


def test_a_manifest_without_stages_or_parameters_is_reported(run: Run) -> None:
    (run.folder / "manifest.json").write_text('{"stages": {}}')
    assert reasons(audit.audit(run.folder)) == {"r": "missing: no stage was ever started"}
    (run.folder / "manifest.json").write_text("{}")
    assert reasons(audit.audit(run.folder)) == {"r": "altered: its record cannot be read: 'stages'"}
    assert reasons(audit.unverified(run, "data")) == {"r/data": "altered: the run's record cannot be read: 'stages'"}
    (run.folder / "params.yaml").unlink()
    assert reasons(audit.audit(run.folder)) == {"r/params.yaml": "missing: without it nothing in this folder can be verified"}
    (run.folder / "manifest.json").unlink()
    assert reasons(audit.audit_run(run.folder)) == {"r/params.yaml": "missing: without it nothing in this folder can be verified"}


def test_a_training_is_audited_with_its_adapter(run: Run) -> None:
    adapter(run.folder / "training" / "adapter", torch.zeros(3, 2))
    with run.lock("test"):
        run.record("training", status="complete", inputs={}, parameters=run.settings.stage("training"), format=FORMAT["training"])
        run.complete("training", {})
    found = reasons(audit.audit(run.folder))
    assert found["r/training/adapter/adapter_model.safetensors"].startswith("missing: every lora_B is zero")
    assert "r/training/adapter/provenance.json" in found and found["r/training/adapter/provenance.json"].startswith("verified: sha256")


def test_the_table_counts_findings_and_repeats_what_each_run_claims(run: Run, home: Path) -> None:
    with run.lock("test"):
        run.record("training", status="failed", error="x")
    other(run, max_tokens=64)
    none = Run.open(Settings(run_name="none"))
    with none.lock("test"):
        files.write_json(none.folder / "manifest.json", {"stages": {}})
    (home / "runs" / "broken").mkdir()
    (home / "runs" / "broken" / "params.yaml").write_text("[")
    (home / "runs" / "broken" / "manifest.json").write_text("{}")
    counts = {"verified": 1, "missing": 1, "altered": 0, "stale": 1, "older": 0}
    assert audit.table([run.folder, none.folder, home / "runs" / "broken"]) == [
        {"run": "r", "claimed": "data complete, training failed", **counts},
        {"run": "none", "claimed": "nothing", **dict.fromkeys(audit.STATUSES, 0), "missing": 1},
        {"run": "broken", "claimed": "unreadable", **dict.fromkeys(audit.STATUSES, 0), "altered": 1},
    ]


def test_a_result_of_an_older_version_is_older_and_not_stale(run: Run) -> None:
    with run.lock("test"):
        run.record("data", format=FORMAT["data"] - 1)
    assert reasons(audit.audit(run.folder))["r/data"] == f"older: {OLDER}; it is usable as it is"
    assert [finding.status for finding in audit.unverified(run, "data")] == ["older"], "nothing was trained on it, so it is made again"
    other(run, max_tokens=64)
    assert reasons(audit.audit(run.folder))["r/data"].startswith("stale: max_tokens: 512 became 64")
