"""The results of an earlier machine on a new one: verified, and whole or not there."""

from pathlib import Path

import pytest

from mistral_lib.on_machine.bucket import restore
from mistral_lib.on_machine.bucket.object_store import Store, StoreError, sha256_of
from mistral_lib.on_machine.bucket.results_list import FOLDER, Results
from mistral_lib.on_machine.bucket.uploads import Uploads
from mistral_lib.training import checkpoints
from tests.support.aws_stand_in import FalseAws
from tests.support.run_folders import run_folder


@pytest.fixture
def folder(store: Store, tmp_path: Path) -> Path:
    """The run folder of the first machine, uploaded."""
    folder = run_folder(tmp_path / "first" / "quick")
    Uploads(store, folder).round()
    return folder


def test_a_new_machine_gets_the_same_files(store: Store, folder: Path, tmp_path: Path) -> None:
    new = tmp_path / "second" / "quick"
    found = restore.restore(store, new)
    names = Results.from_json(store.read("results.json")).files
    assert (found.files, found.damaged, found.checkpoint) == (len(names), (), "checkpoint-8")
    assert {name: sha256_of(new / name) for name in names} == {name: sha256_of(folder / name) for name in names}
    assert checkpoints.last_complete(new / "training" / "checkpoints").name == "checkpoint-8"


def test_results_without_a_checkpoint_say_that_a_training_starts_over(store: Store, tmp_path: Path) -> None:
    Uploads(store, run_folder(tmp_path / "first" / "quick", steps=())).round()
    found = restore.restore(store, tmp_path / "second" / "quick")
    assert found.checkpoint is None and str(found).endswith("without a checkpoint: a training starts over")


def test_nothing_to_restore_leaves_the_folder_alone(store: Store, tmp_path: Path) -> None:
    run_folder(tmp_path / "quick")
    assert restore.restore(store, tmp_path / "quick") is None
    assert (tmp_path / "quick" / "manifest.json").exists()


def test_what_is_missing_is_told_from_what_may_not_be_read(store: Store, aws: FalseAws) -> None:
    """S3 answers AccessDenied for a missing object to a role that may list its own prefix alone."""
    store.write("job.json.old", b"another one with the same beginning")
    aws.fail("s3", "GetObject", "AccessDenied", 403, times=None)
    assert store.read("job.json") is None
    store.write("job.json", b"{}")
    with pytest.raises(StoreError, match="AccessDenied"):
        store.read("job.json")


def test_a_run_folder_that_is_there_is_moved_aside(store: Store, folder: Path, tmp_path: Path) -> None:
    new = run_folder(tmp_path / "second" / "quick", steps=(2,))
    (new / "own.txt").write_text("only here")
    restore.restore(store, new)
    assert not (new / "own.txt").exists()
    assert next((tmp_path / "second").glob(".quick.*.earlier/own.txt")).read_text() == "only here"


def test_a_cut_download_is_continued_with_what_was_verified(store: Store, folder: Path, aws: FalseAws, tmp_path: Path) -> None:
    new = tmp_path / "second" / "quick"
    aws.fail("s3", "GetObject", "SlowDown", 503, times=None, when=lambda asked: "complete.json" in str(asked))
    aws.cut("s3", "GetObject", 100, times=None, when=lambda asked: "checkpoint-8" in str(asked))
    with pytest.raises(StoreError):
        restore.restore(store, new)
    assert not new.exists()
    aws.recover()
    before = len(aws.asked("s3", "GetObject"))
    assert restore.restore(store, new).damaged == ()
    assert len(aws.asked("s3", "GetObject")) - before < len(Results.from_json(store.read("results.json")).files)


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_damaged_checkpoint_is_left_out_whole_and_the_one_before_is_used(store: Store, folder: Path, tmp_path: Path, damage: str) -> None:
    name = FOLDER + "training/checkpoints/checkpoint-8/adapter_model.safetensors"
    if damage == "altered":
        store.write(name, b"other")
    else:
        store.delete(name)
    new = tmp_path / "second" / "quick"
    found = restore.restore(store, new)
    assert len(found.damaged) == 3 and str(found).endswith("its newest checkpoint is checkpoint-4")
    assert [path.name for path in (new / "training" / "checkpoints").iterdir()] == ["checkpoint-4"]
    assert checkpoints.last_complete(new / "training" / "checkpoints").name == "checkpoint-4"


def test_a_small_file_that_was_replaced_before_the_list_is_taken_in_its_newer_version(store: Store, folder: Path, tmp_path: Path) -> None:
    store.write(FOLDER + "training/log.jsonl", b'{"event":"step","step":9}\n')
    new = tmp_path / "second" / "quick"
    assert restore.restore(store, new).damaged == ()
    assert (new / "training" / "log.jsonl").read_bytes() == b'{"event":"step","step":9}\n'


def test_a_file_that_agrees_with_neither_hash_is_left_out(store: Store, folder: Path, tmp_path: Path) -> None:
    store.client.put_object(Bucket=store.bucket, Key=store.prefix + FOLDER + "params.yaml", Body=b"other", Metadata={"sha256": "0" * 64})
    new = tmp_path / "second" / "quick"
    assert restore.restore(store, new).damaged == ("params.yaml",)
    assert not (new / "params.yaml").exists() and (new / "manifest.json").exists()
