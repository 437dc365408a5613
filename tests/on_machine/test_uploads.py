"""Uploads of the run folder: nothing half is ever listed, whatever fails or changes meanwhile."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mistral_lib.on_machine.bucket.object_store import Store, StoreError
from mistral_lib.on_machine.bucket.results_list import FOLDER, Results, ResultsError
from mistral_lib.on_machine.bucket.uploads import Uploads
from tests.on_machine.conftest import BUCKET, PREFIX
from tests.support.aws_stand_in import FalseAws
from tests.support.run_folders import LARGE, checkpoint, run_folder

STEP_4, STEP_8 = ("training/checkpoints/checkpoint-4/", "training/checkpoints/checkpoint-8/")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return run_folder(tmp_path / "runs" / "quick")


def listed(store: Store) -> set[str]:
    return set(Results.from_json(store.read("results.json")).files)


def objects(store: Store) -> set[str]:
    found = store.client.list_objects_v2(Bucket=BUCKET, Prefix=PREFIX + FOLDER).get("Contents", [])
    return {item["Key"].removeprefix(PREFIX + FOLDER) for item in found}


def all_verified(store: Store, target: Path) -> set[str]:
    """Download everything that is listed, strictly by its listed hash."""
    results = Results.from_json(store.read("results.json"))
    for name, entry in results.files.items():
        store.download(FOLDER + name, target / name, entry.sha256)
    return set(results.files)


def test_what_is_whole_is_uploaded_and_listed_with_its_hash(store: Store, folder: Path, tmp_path: Path) -> None:
    found = Uploads(store, folder).round(complete=True)
    names = all_verified(store, tmp_path / "fetched")
    assert found.changed == () and found.bytes == sum((folder / name).stat().st_size for name in names)
    assert {"manifest.json", "params.yaml", "data/records.parquet", ".evaluation.measured/test.jsonl", STEP_8 + "complete.json"} <= names
    assert not [name for name in names if ".partial" in name or name.endswith((".lock", ".progress.json"))]
    assert names == objects(store) and Results.from_json(store.read("results.json")).complete


def test_a_second_round_uploads_only_what_changed(store: Store, folder: Path, aws: FalseAws) -> None:
    uploads = Uploads(store, folder)
    uploads.round()
    before, sent = len(aws.asked("s3", "PutObject")), uploads.uploaded_bytes
    uploads.round()
    assert len(aws.asked("s3", "PutObject")) == before and uploads.uploaded_bytes == sent
    with open(folder / "training" / "log.jsonl", "a") as log:
        log.write('{"event":"step","step":2}\n')
    uploads.round()
    assert len(aws.asked("s3", "PutObject")) == before + 2, "the log and results.json"


def test_an_agent_that_is_started_again_does_not_upload_again(store: Store, folder: Path, aws: FalseAws) -> None:
    Uploads(store, folder).round()
    before = len(aws.asked("s3", "PutObject"))
    Uploads(store, folder).round()
    assert len(aws.asked("s3", "PutObject")) == before


@pytest.mark.parametrize("damage", ["no list", "missing file", "cut file", "altered file"])
def test_a_checkpoint_that_is_not_complete_is_never_uploaded(store: Store, folder: Path, damage: str) -> None:
    weights = folder / STEP_8 / "adapter_model.safetensors"
    if damage == "no list":
        (folder / STEP_8 / "complete.json").unlink()
    elif damage == "missing file":
        weights.unlink()
    else:
        content = weights.read_bytes()
        weights.write_bytes(content[:-1] if damage == "cut file" else content[:-1] + bytes([content[-1] ^ 1]))
    Uploads(store, folder).round()
    assert not [name for name in listed(store) | objects(store) if name.startswith(STEP_8)]
    assert STEP_4 + "complete.json" in listed(store)


def test_checkpoints_that_were_tidied_away_leave_the_list_before_their_objects_are_deleted(
    store: Store, folder: Path, aws: FalseAws
) -> None:
    uploads = Uploads(store, folder)
    uploads.round()
    shutil.rmtree(folder / STEP_4)
    checkpoint(folder, 12)
    lists: list[set[str]] = []
    aws.before("s3", "DeleteObject", lambda asked: lists.append(listed(store)), times=None)
    uploads.round()
    assert lists and not any(name.startswith(STEP_4) for at_that_time in lists for name in at_that_time)
    assert not [name for name in objects(store) if name.startswith(STEP_4)]
    assert "training/checkpoints/checkpoint-12/complete.json" in listed(store)


def test_the_last_checkpoint_stays_in_the_bucket_until_a_newer_one_is_there(store: Store, folder: Path, aws: FalseAws) -> None:
    uploads = Uploads(store, folder)
    uploads.round()
    for old in (STEP_4, STEP_8):
        shutil.rmtree(folder / old)
    checkpoint(folder, 12)
    aws.deny("s3", "PutObject", times=None)
    with pytest.raises(StoreError):
        uploads.round()
    assert STEP_8 + "complete.json" in listed(store) & objects(store)
    aws.recover()
    uploads.round()
    assert "training/checkpoints/checkpoint-12/complete.json" in listed(store) & objects(store)
    assert not [name for name in listed(store) | objects(store) if name.startswith((STEP_4, STEP_8))]


def test_an_upload_that_fails_at_any_request_lists_nothing_half_and_the_next_round_completes_it(
    store: Store, folder: Path, aws: FalseAws, tmp_path: Path
) -> None:
    store.client.meta.config.retries = {"total_max_attempts": 1}
    for number in range(40):
        checkpoint(folder, 100 + number, size=50)
        shutil.rmtree(folder / "training" / "checkpoints" / f"checkpoint-{99 + number}", ignore_errors=True)
        uploads = Uploads(store, folder)
        seen = [0]

        def this_one(_: Any, seen: list[int] = seen, number: int = number) -> bool:
            seen[0] += 1
            return number < seen[0]

        aws.fail("s3", "*", "AccessDenied", 403, times=None, when=this_one)
        try:
            uploads.round()
            failed = False
        except StoreError:
            failed = True
        aws.recover()
        if store.read("results.json"):
            all_verified(store, tmp_path / f"after-{number}")
        uploads.round()
        assert f"training/checkpoints/checkpoint-{100 + number}/complete.json" in all_verified(store, tmp_path / f"done-{number}")
        if not failed:
            break
    assert not failed and number > 3, f"every request of a round failed once; {number} of them"


def test_a_cut_upload_is_tried_again(store: Store, folder: Path, aws: FalseAws, tmp_path: Path) -> None:
    (folder / "data" / "large.bin").write_bytes(os.urandom(LARGE))
    aws.cut("s3", "PutObject", 500, times=2)
    aws.fail("s3", "PutObject", "SlowDown", 503, times=1)
    uploads = Uploads(store, folder)
    for _ in range(5):
        try:
            uploads.round(complete=True)
            break
        except StoreError:
            continue
    assert "data/large.bin" in all_verified(store, tmp_path / "fetched")


def test_a_large_file_that_is_written_during_its_upload_is_listed_only_when_it_rests(store: Store, folder: Path, aws: FalseAws) -> None:
    large = folder / "data" / "large.bin"
    large.write_bytes(os.urandom(LARGE))
    aws.before("s3", "PutObject", lambda asked: large.write_bytes(os.urandom(LARGE)) if "large.bin" in str(asked) else None, times=None)
    uploads = Uploads(store, folder)
    found = uploads.round(complete=True)
    assert found.changed == ("data/large.bin",)
    assert "data/large.bin" not in listed(store) and not Results.from_json(store.read("results.json")).complete
    aws.recover()
    assert uploads.round(complete=True).changed == ()
    assert "data/large.bin" in listed(store)


def test_a_large_file_that_changes_back_unseen_is_never_listed_with_bytes_that_it_has_not(
    store: Store, folder: Path, aws: FalseAws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Hashed as one content, sent as another, and the first again with its old time: size, inode and time say nothing."""
    large = folder / "data" / "large.bin"
    large.write_bytes(os.urandom(LARGE))
    right, facts, upload = large.read_bytes(), large.stat(), Store.upload

    def set_to(content: bytes) -> None:
        large.write_bytes(content)
        os.utime(large, ns=(facts.st_atime_ns, facts.st_mtime_ns))

    def disturbed(store: Store, name: str, path: Path, sha256: str) -> None:
        if path == large:
            set_to(b"?" + right[1:])
        try:
            upload(store, name, path, sha256)
        finally:
            set_to(right)

    monkeypatch.setattr(Store, "upload", disturbed)
    uploads = Uploads(store, folder)
    assert uploads.round(complete=True).changed == ("data/large.bin",)
    assert "data/large.bin" not in all_verified(store, tmp_path / "first") | objects(store)
    monkeypatch.undo()
    assert uploads.round(complete=True).changed == () and "data/large.bin" in all_verified(store, tmp_path / "second")


def test_a_large_file_leaves_the_list_before_its_object_is_replaced(store: Store, folder: Path, aws: FalseAws) -> None:
    large = folder / "data" / "large.bin"
    large.write_bytes(os.urandom(LARGE))
    uploads = Uploads(store, folder)
    uploads.round()
    large.write_bytes(os.urandom(LARGE + 1))
    lists: list[bool] = []
    aws.before("s3", "PutObject", lambda asked: lists.append("data/large.bin" in listed(store)) if "large.bin" in str(asked) else None, times=None)  # fmt: skip
    uploads.round()
    assert lists == [False] and "data/large.bin" in listed(store)


def test_the_manifest_is_uploaded_after_the_files_that_it_calls_complete(store: Store, folder: Path, aws: FalseAws) -> None:
    Uploads(store, folder).round()
    order = [str(asked) for asked in aws.asked("s3", "PutObject")]
    manifest = next(number for number, text in enumerate(order) if "manifest.json" in text)
    assert all(number < manifest for number, text in enumerate(order) if "records.parquet" in text or "log.jsonl" in text)


def test_a_damaged_list_in_the_bucket_is_an_error_and_stays(store: Store, folder: Path) -> None:
    store.write("results.json", b'{"files": [')
    with pytest.raises(ResultsError, match="damaged"):
        Uploads(store, folder).round()
    assert store.read("results.json") == b'{"files": ['


def test_a_full_disk_does_not_hinder_the_uploads(store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(Path, "write_text", full)
    assert Uploads(store, folder).round().changed == ()
