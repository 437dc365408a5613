"""What a run needs on its machine: the same relative paths, every fault at once, nothing that the machine could not find."""

from pathlib import Path

import pytest

from mistral_lib.rented_run import payload
from mistral_lib.rented_run.payload import PayloadError
from mistral_lib.run import files
from mistral_lib.run.settings import Settings


def test_corpus_files_keep_their_paths_below_the_home_and_addresses_stay(corpus: Path) -> None:
    files.write_text(corpus / ".hidden", "not read")
    settings = Settings(run_name="a", corpus_paths=[str(corpus), "optional:s3://somewhere/corpus", "optional:corpora/absent"],
                        retention_paths=["demo:retention"])  # fmt: skip
    sent = payload.of(settings, "g4dn.xlarge")
    assert sent.corpus == {f"corpora/small/{name}.jsonl": corpus / f"{name}.jsonl" for name in ("blue", "green", "red")}
    assert sent.settings.corpus_paths == ["corpora/small", "optional:s3://somewhere/corpus", "optional:corpora/absent"]
    assert b"corpus_paths: [corpora/small," in sent.params and sent.extras == ("s3",) and not sent.needs_token
    assert sent.notes[1:] == (
        "bucket somewhere: the machine reads it itself; allow its role mistral-workbook-a s3:ListBucket and s3:GetObject there",
    )


def test_every_fault_is_listed_at_once(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "a.jsonl").write_text("{}")
    settings = Settings(run_name="a", corpus_paths=[str(outside), "corpora/none"], base_model="models/mine", report_to="wandb",
                        exclude_file="no.txt", lm_eval_tasks=["mine.yaml"])  # fmt: skip
    with pytest.raises(PayloadError) as raised:
        payload.of(settings, "g4dn.xlarge")
    text = str(raised.value)
    assert f"ln -s {outside} {home}/corpora/{outside.name}, then write corpora/{outside.name} instead" in text
    assert "'corpora/none': no file there" in text and "--upload-model models/mine" not in text.splitlines()[0]
    for key in ("corpus_paths", "exclude_file", "lm_eval_tasks", "report_to"):
        assert any(line.startswith(key) for line in text.splitlines()), key


def test_a_link_below_the_home_is_a_place_below_the_home(home: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "a.jsonl").write_text("{}")
    (home / "corpora").mkdir()
    (home / "corpora" / "mine").symlink_to(outside)
    assert list(payload.of(Settings(corpus_paths=["corpora/mine"]), "g4dn.xlarge").corpus) == ["corpora/mine/a.jsonl"]


def test_a_local_base_model_is_sent_only_if_asked_for_and_without_consolidated_weights(home: Path) -> None:
    extra = home / "models" / "mine"
    extra.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "consolidated.safetensors", "README.md", "pytorch_model.bin"):
        (extra / name).write_text(name)
    with pytest.raises(PayloadError, match=r"is a folder on this computer \(.* bytes\): give --upload-model models/mine"):
        payload.of(Settings(base_model="models/mine"), "g5.xlarge")
    sent = payload.of(Settings(base_model="mistralai/Mistral-7B-v0.3"), "g5.xlarge", Path("models/mine"))
    assert list(sent.base_model) == ["config.json", "model.safetensors"] and sent.settings.base_model == "models/mine"
    assert "is models/mine on the machine" in sent.notes[0] and not sent.needs_token


def test_extras_and_the_instance_follow_the_machine(home: Path) -> None:
    sent = payload.of(Settings(base_model="mistralai/Mistral-7B-v0.3", instance="g4dn.xlarge", report_to="tensorboard"), "g5.xlarge")
    assert sent.settings.instance == "g5.xlarge" and sent.extras == ("gpu", "tensorboard") and sent.needs_token
    assert "instance: g4dn.xlarge is g5.xlarge" in sent.notes[0]
    on_cpu = payload.of(Settings(instance="cpu"), "g5.xlarge")
    assert on_cpu.settings.instance == "cpu" and "give --set instance=g5.xlarge" in on_cpu.notes[0]


def test_what_was_excluded_in_notebook_01_reaches_the_machine(home: Path) -> None:
    files.write_text(home / "runs" / "a" / "excluded.txt", "red.jsonl:1\n")
    assert "runs/a/excluded.txt" in payload.of(Settings(run_name="a"), "g5.xlarge").corpus
