"""Uploads to a server that takes them as the hub does: what is sent, what is refused, and what a cut leaves."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mistral_lib.evaluation import evaluate
from mistral_lib.export import export_card, hub_upload
from mistral_lib.export.hub_upload import NoTokenError, Upload, UploadCutError, UploadError
from mistral_lib.preparation import stage_inputs
from mistral_lib.preparation.stage_inputs import StaleStageError
from mistral_lib.run import Run, files
from mistral_lib.run.params import ParameterError
from tests.support import hub_uploads
from tests.support.corpora import other
from tests.support.hub_uploads import Uploads

FORMS = {"merged": "merged", "q8_0": "gguf/merged-q8_0.gguf", "lora_gguf": "gguf/adapter-lora.gguf"}
BASE = "gguf/base-f16.gguf"
LARGE = [
    "adapter/adapter_model.safetensors",
    "gguf/adapter-lora.gguf",
    "gguf/base-f16.gguf",
    "gguf/merged-q8_0.gguf",
    "merged/model.safetensors",
]
SMALL = ["README.md", "adapter/README.md", "adapter/adapter_config.json", "adapter/provenance.json", "Modelfile", "merged/config.json",
         "merged/tokenizer_config.json"]  # fmt: skip
TEXT = "What does red.tensor_0 do?"  # of the corpus


def fill_export(run: Run, folder: Path) -> dict[str, Any]:
    """The files of an export, in place of models a few bytes each."""
    for name in (FORMS["q8_0"], FORMS["lora_gguf"], BASE, "merged/model.safetensors"):
        files.write_bytes(folder / name, f"weights of {name} ".encode() * 50)
    files.write_json(folder / "merged" / "config.json", {"model_type": "mistral"})
    files.write_json(folder / "merged" / "tokenizer_config.json", {"eos_token": "</s>", "chat_template": "{{ messages }}"})
    files.write_json(folder / "merged" / "merge.json", {"shards": {}})
    files.write_json(folder / "merged" / "complete.json", {})
    files.write_text(folder / "Modelfile", f"FROM ./{FORMS['q8_0']}\n")
    files.write_json(folder / "probe.json", {"records": [TEXT]})
    files.write_text(folder / "README.md", f"serve {run.folder}")
    sizes = {form: {"file": file, "bytes": 900} for form, file in FORMS.items()}
    sizes["lora_gguf"] |= {"base": BASE, "base_bytes": 900}
    digest = files.sha256(run.folder / "training" / "adapter" / "adapter_model.safetensors")
    files.write_json(folder / "result.json", {"forms": sizes, "merged_into": "16bit", "why": "", "adapter_sha256": digest})
    return {}


def finding(form: str, **changes: Any) -> dict[str, Any]:
    """As parity writes it."""
    measured = {"kept_low": 0.96, "kept_high": 1.01, "form": -2.0, "base": -2.5}
    evidence = {"likelihood": measured, "stops": {"form": 8, "adapter": 8}, "tokens_per_second": 20.0}
    made = {"form": form, "outcome": "quantised, keeps 98%", "kept": 0.984, "passed": True, "sentence": "keeps 98.4%", "evidence": evidence}
    return {**made, **changes}


def record_parity(run: Run, findings: list[dict[str, Any]]) -> None:
    def fill(folder: Path) -> dict[str, Any]:
        result = {"findings": findings, "passed": all(one["passed"] for one in findings), "records": 24, "answer_tokens": 400}
        files.write_json(folder / "result.json", result)
        return {}

    with run.lock("stage parity"), run.recording("parity", stage_inputs.hashes(run, "parity")):
        place = files.fresh_folder(run.folder / "parity")
        run.complete("parity", fill(place))


@pytest.fixture(scope="module")
def exported_home(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained run with its evaluation, an export, and what parity found."""
    place = tmp_path_factory.mktemp("exported") / "home"
    shutil.copytree(trained_home, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRAL_WORKBOOK_HOME", str(place))
        run = other(Run.existing(place / "runs" / "small"), general_prompts=0, sample_count=2, export_forms=list(FORMS))
        evaluate.evaluate(run)
        run.run_stage("export", stage_inputs.hashes(run, "export"), lambda folder: fill_export(run, folder))
        record_parity(run, [finding(form) for form in FORMS])
    return place


@pytest.fixture
def run(exported_home: Path, home: Path) -> Run:
    shutil.copytree(exported_home, home, dirs_exist_ok=True)
    return Run.existing(home / "runs" / "small")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uploads]:
    """A hub that takes uploads, with the token of one who may write; retries do not wait."""
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    monkeypatch.setenv("HF_TOKEN", "good")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path_factory.mktemp("no") / "token"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)
    with hub_uploads.receiving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        yield server


# -- what arrives --------------------------------------------------------------------------------------------------------


def test_it_arrives_private_in_one_commit_that_names_the_adapter(run: Run, hub: Uploads) -> None:
    lines = hub_upload.push(run, "me/tiny")
    made = hub.repositories["me/tiny"]
    digest = files.sha256(run.folder / "training" / "adapter" / "adapter_model.safetensors")
    assert made.private and [commit.title for commit in made.commits] == [
        "initial commit",
        f"Adapter {digest[:12]}: adapter, merged, q8_0, lora_gguf",
    ]
    assert digest in made.commits[-1].description and "Verdict of its evaluation: " in made.commits[-1].description
    there = made.commits[-1].files
    assert (
        sorted(there) == sorted([".gitattributes", *LARGE, *SMALL]) and sorted(p for p, c in there.items() if isinstance(c, str)) == LARGE
    )
    assert hub.content("me/tiny", BASE) == (run.folder / "export" / BASE).read_bytes()
    assert hub.content("me/tiny", "adapter/README.md") == (run.folder / "training" / "adapter" / "README.md").read_bytes()
    assert lines[0] == f"{hub.address}/me/tiny, private" and lines[1] == f"{made.commits[-1].title}. {made.commits[-1].description}"
    assert "  merged/config.json, 30 bytes" in lines
    assert re.fullmatch(rf"uploaded: 12 files, .+, as commit {made.commits[-1].id}", lines[-2]) and lines[-1].startswith(
        "verified: the hub lists all 12"
    )
    (recorded,) = files.read_json_lines(run.folder / "uploads.jsonl")
    assert [recorded[key] for key in ("repository", "public", "commit")] == ["me/tiny", False, made.commits[-1].id]
    assert recorded["files"][BASE]["sha256"] == there[BASE]


def test_public_has_to_be_requested(run: Run, hub: Uploads) -> None:
    assert hub_upload.push(run, "me/tiny", public=True)[0].endswith("public: everybody can read it")
    assert not hub.repositories["me/tiny"].private


def test_nothing_private_leaves_the_machine(run: Run, hub: Uploads, home: Path) -> None:
    hub_upload.push(run, "me/tiny")
    texts = {path: hub.content("me/tiny", path).decode() for path in SMALL}
    for path, text in texts.items():
        assert str(home) not in text and TEXT not in text and "corpora" not in text, path
    assert not re.search(r"\b(red|green|small)\b", texts["README.md"]), "domains are named for files, and the run for anything"


def test_the_card_says_what_it_is_and_what_was_found(run: Run, hub: Uploads) -> None:
    hub_upload.push(run, "me/tiny")
    card = hub.content("me/tiny", "README.md").decode()
    _, head, body = card.split("---\n", 2)
    metadata, result = yaml.safe_load(head), files.read_json(run.folder / "evaluation" / "result.json")
    assert "base_model" not in metadata, "the hub refuses a base model that it does not have"
    assert metadata["tags"] == ["lora", "gguf"] and metadata["model-index"][0]["name"] == "tiny"
    headings = re.findall(r"^## (.+)$", body, re.M)
    assert headings == ["Rules", "Training", "Test loss by domain, nats per supervised token", "Base model", "Data",
                        "Forms, and what each keeps of the adapter", "Use", "Files", "Limits"]  # fmt: skip
    assert body.startswith("\n# tiny: a LoRA adapter of tiny\n\n**Verdict: " + result["verdict"])
    assert "| domain 1 |" in body and "| domain 2 |" in body and "its license and its conditions hold for them as well" in body
    report = files.read_json(run.folder / "data" / "report.json")
    assert f"{report['records_read']:,} rows were read: {report['records_kept']:,} records were kept" in body
    assert (
        "| `q8_0` | 900 bytes | 98.4% (96.0% to 101.0%) | quantised, keeps 98% |" in body
        and "on 24 test records with 400 answer tokens" in body
    )
    assert (
        f"llama-server -m {BASE} --lora gguf/adapter-lora.gguf --jinja" in body and "ollama create" in body and "No Ollama was run" in body
    )
    assert f"`{files.sha256(run.folder / 'export' / BASE)}`" in body


def test_without_forms_it_is_the_adapter_and_its_card(run: Run, hub: Uploads) -> None:
    run = other(run, export_forms=[])

    def fill(folder: Path) -> dict[str, Any]:
        digest = files.sha256(run.folder / "training" / "adapter" / "adapter_model.safetensors")
        files.write_json(folder / "result.json", {"forms": {}, "merged_into": "16bit", "why": "", "adapter_sha256": digest})
        return {}

    run.run_stage("export", stage_inputs.hashes(run, "export"), fill)
    hub_upload.push(run, "me/tiny")
    assert {path.partition("/")[0] for path in hub.repositories["me/tiny"].commits[-1].files} == {".gitattributes", "README.md", "adapter"}
    assert "## Forms" not in hub.content("me/tiny", "README.md").decode()


def test_the_command_uploads_with_the_environment_alone(run: Run, hub: Uploads, home: Path) -> None:
    """A process of its own: HF_ENDPOINT and HF_TOKEN are read as everywhere. Export and parity are complete and used as they are."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment = {**kept, "HF_ENDPOINT": hub.address, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "mistral_lib", "export", "runs/small", "--push", "me/tiny"]
    without = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert without.returncode == 1 and "NoTokenError: nothing was uploaded: there is no token" in without.stderr and not hub.repositories
    done = subprocess.run(command, capture_output=True, text=True, env={**environment, "HF_TOKEN": "good"}, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"{hub.address}/me/tiny, private" in done.stdout and "verified: the hub lists all 12 files" in done.stdout


# -- a repository that is there already ----------------------------------------------------------------------------------


def test_files_that_differ_are_replaced_by_name_and_kept_in_the_history(run: Run, hub: Uploads) -> None:
    there = hub.make("me/tiny", private=True)
    there.add("by hand", "", {"README.md": b"by hand", "gguf/merged-q4_k_m.gguf": b"of another adapter"})
    lines = hub_upload.push(run, "me/tiny")
    assert "replaced on the hub, the old ones stay in its history: README.md" in lines
    assert "on the hub, but not of this upload: gguf/merged-q4_k_m.gguf" in lines
    assert [commit.files.get("README.md") for commit in there.commits[:2]] == [None, b"by hand"] and len(there.commits) == 3
    assert "merged-q4_k_m" not in hub.content("me/tiny", "README.md").decode()


def test_a_second_upload_sends_nothing(run: Run, hub: Uploads) -> None:
    hub_upload.push(run, "me/tiny")
    lines = hub_upload.push(run, "me/tiny")
    newest = hub.repositories["me/tiny"].commits[-1].id
    assert lines[-1] == f"nothing to send: the hub has all 12 files as they are here, at commit {newest}"
    assert len(hub.repositories["me/tiny"].commits) == 2 and len(hub.received) == 5


@pytest.mark.parametrize("private", [False, True])
def test_a_repository_with_the_other_visibility_is_refused(run: Run, hub: Uploads, private: bool) -> None:
    there = hub.make("me/tiny", private=private)
    seen, meant = ("private", "public") if private else ("public", "private")
    with pytest.raises(UploadError, match=f"nothing was uploaded: me/tiny is {seen} on the hub, expected {meant}; .*--public"):
        hub_upload.push(run, "me/tiny", public=private)
    assert len(there.commits) == 1 and not hub.received


def test_a_commit_of_somebody_else_meanwhile_is_not_overwritten(run: Run, hub: Uploads) -> None:
    hub.meanwhile = True
    with pytest.raises(UploadError, match=r"somebody else changed the repository meanwhile.*\(412\)\. Nothing was committed"):
        hub_upload.push(run, "me/tiny")
    assert [commit.title for commit in hub.repositories["me/tiny"].commits] == ["initial commit", "of somebody else"]
    hub_upload.push(run, "me/tiny")
    assert len(hub.received) == 5 and "note.txt" in hub.repositories["me/tiny"].commits[-1].files


# -- the network, and the hub's answers ----------------------------------------------------------------------------------


def test_a_cut_leaves_the_repository_as_it_was_and_the_same_command_resumes(run: Run, hub: Uploads) -> None:
    hub.cut_after = 2
    with pytest.raises(UploadCutError, match=r"cut after \d of 12 files \(\w+Error: .+\)\. Nothing was committed: .*resumes"):
        hub_upload.push(run, "me/tiny")
    assert len(hub.repositories["me/tiny"].commits) == 1 and len(hub.received) == 2 and not (run.folder / "uploads.jsonl").exists()
    hub.cut_after, hub.is_down = None, False
    hub_upload.push(run, "me/tiny")
    assert len(hub.received) == len(set(hub.received)) == 5, "no large file was sent twice"


def test_a_commit_whose_answer_is_lost_is_not_reported_as_none(run: Run, hub: Uploads) -> None:
    hub.commit_lost = True
    with pytest.raises(UploadCutError, match=r"the hub did not confirm the commit .* Whether it was made is not known"):
        hub_upload.push(run, "me/tiny")
    assert hub_upload.push(run, "me/tiny")[-1].startswith("nothing to send: the hub has all 12 files")


def test_what_the_hub_lists_otherwise_is_no_success(run: Run, hub: Uploads) -> None:
    hub.falsified = BASE
    with pytest.raises(
        UploadError, match=rf"the hub lists other files than were sent: {BASE} has 1,\d+ bytes, expected 1,\d+; use nothing"
    ):
        hub_upload.push(run, "me/tiny")
    assert not (run.folder / "uploads.jsonl").exists()


def test_without_a_token_it_lists_what_it_would_upload(run: Run, hub: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(NoTokenError) as refused:
        hub_upload.push(run, "me/tiny")
    text = str(refused.value)
    assert text.startswith("nothing was uploaded: there is no token") and f"{hub.address}/me/tiny, private" in text
    assert all(f"\n  {path}, " in text for path in [*LARGE, *SMALL]) and "`hf auth login`, or set the environment variable HF_TOKEN" in text
    assert not hub.repositories and not hub.received


@pytest.mark.parametrize(
    ("token", "name", "fault"),
    [
        ("bad", "me/tiny", r"the hub refuses the token; make a new one .* HF_TOKEN does not hold an old one \(401\)"),
        ("good", "them/tiny", r"a token with write access to repositories of them \(403\)"),
        ("reader", "me/open", r"a token with write access to repositories of me \(403\)"),
        ("reader", "me/hidden", r"a token with write access to repositories of me \(403\)"),
    ],
)
def test_a_token_without_the_right_to_write_is_named(run: Run, hub: Uploads, monkeypatch: pytest.MonkeyPatch, token, name, fault) -> None:
    hub.make("me/open", private=False)
    hub.make("me/hidden", private=True)
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(UploadError, match=f"{fault}. Nothing was committed"):
        hub_upload.push(run, name, public=name == "me/open")
    assert not hub.received


def test_a_card_that_the_hub_would_refuse_is_refused_before_anything_is_sent(hub: Uploads) -> None:
    card = b"---\nbase_model: models/mine/x\n---\n# mine\n"
    with pytest.raises(UploadError, match=r"the hub refuses the metadata of the model card: .*models/mine/x"):
        hub_upload.Repository("me/tiny", False, "good").upload([Upload("README.md", card, len(card), "")], card.decode(), "t", "d")
    assert not hub.repositories


def test_a_hub_that_is_not_there_is_a_cut(run: Run, hub: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UploadCutError, match=r"cut after 0 of 12 files \(ConnectError: "):
        hub_upload.push(run, "me/tiny")


# -- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "me/tiny/x", "me/a--b", "me/tiny.git", ""])
def test_a_name_without_owner_or_against_the_rules_is_refused(name: str) -> None:
    with pytest.raises(ParameterError, match=f"--push {name}: "):
        hub_upload.require_name(name)


@pytest.mark.parametrize(
    "altered", ["export/gguf/merged-q8_0.gguf", "export/merged/config.json", "parity/result.json", "evaluation/result.json"]
)
def test_an_altered_file_is_refused_by_name(run: Run, hub: Uploads, altered: str) -> None:
    (run.folder / altered).write_bytes((run.folder / altered).read_bytes() + b" ")
    with pytest.raises(UploadError, match=f"nothing was uploaded: runs/small: {altered} was altered; make it again"):
        hub_upload.push(run, "me/tiny")
    assert not hub.repositories


def test_an_altered_adapter_is_refused(run: Run, hub: Uploads) -> None:
    place = run.folder / "training" / "adapter" / "adapter_model.safetensors"
    place.write_bytes(place.read_bytes() + b" ")
    with pytest.raises(StaleStageError, match=r"adapter_model\.safetensors was altered"):
        hub_upload.push(run, "me/tiny")
    assert not hub.repositories


def test_a_form_that_is_not_the_adapter_is_refused_by_name(run: Run, hub: Uploads) -> None:
    failed = finding("q8_0", passed=False, outcome="not this adapter", sentence="it answers as the base model does")
    record_parity(run, [finding("merged"), failed])
    with pytest.raises(UploadError) as refused:
        hub_upload.push(run, "me/tiny")
    text = str(refused.value)
    assert "  q8_0: not this adapter: it answers as the base model does\n" in text
    assert "  lora_gguf: it was not compared with the adapter\n" in text and "\n  merged" not in text
    assert "without them: python -m mistral_lib export runs/small --as merged --push me/tiny\n" in text
    assert not hub.repositories


def test_an_export_after_the_comparison_is_refused(run: Run, hub: Uploads) -> None:
    files.write_text(run.folder / "export" / "Modelfile", "FROM ./other.gguf\n")
    run.complete("export", {})
    with pytest.raises(StaleStageError, match="parity is stale: input export/Modelfile changed"):
        hub_upload.push(run, "me/tiny")


def test_a_path_of_this_machine_in_a_configuration_is_refused_by_name(run: Run, hub: Uploads) -> None:
    place = run.folder / "export" / "merged" / "tokenizer_config.json"
    files.write_json(place, {"extra": [{"name_or_path": "/home/anna/models/base"}]})
    run.complete("export", {})
    record_parity(run, [finding(form) for form in FORMS])
    with pytest.raises(
        UploadError, match=r"merged/tokenizer_config\.json: extra\.0\.name_or_path: /home/anna/models/base: a path of a machine"
    ):
        hub_upload.push(run, "me/tiny")
    assert not hub.repositories


# -- the card's parts ----------------------------------------------------------------------------------------------------


def test_domains_are_numbered_wherever_they_are_named(run: Run) -> None:
    result = files.read_json(run.folder / "evaluation" / "result.json")
    rises = {**result["domains"]["red"], "difference": 0.5, "holm_p": None}
    worse = {**result, "domains": {**result["domains"], "red": rises}}
    masked = export_card.without_names(worse)
    number = next(one["number"] for one in masked["rules"] if one["rule"] == "no domain worse")
    place = list(result["domains"]).index("red") + 1
    assert number.endswith(f"too few documents to judge: domain {place}") and number in masked["sentence"]
    assert set(masked["domains"]) == {"domain 1", "domain 2"} and "red" in result["domains"], "the result itself is left as it was"


def test_a_base_model_of_the_hub_is_named_with_its_commit() -> None:
    provenance = {"base_revision": "c" * 40}
    text = export_card.base("owner/base", provenance)
    assert (
        text.startswith(f"[`owner/base`](https://huggingface.co/owner/base) at commit `{'c' * 40}`. ") and "Read them on its page" in text
    )
    metadata = {"base_model": "owner/base", "tags": ["lora"], "model-index": [{"name": "secret", "results": []}]}
    assert export_card.published(metadata, "me/tiny", {"forms": {"merged": {}}}, provenance)["base_model"] == "owner/base"
