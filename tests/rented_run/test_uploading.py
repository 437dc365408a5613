"""What `run` sends: everything that the job names, the job last, no secret where it can be read, and after a fault only the rest."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from mistral_lib.aws import buckets, session
from mistral_lib.aws.errors import AwsError
from mistral_lib.instance import records
from mistral_lib.instance.records import RecordError
from mistral_lib.on_machine.job import Job
from mistral_lib.on_machine.preparation import UPLOADING
from mistral_lib.rented_run import packing, payload, sign_of_life, uploading
from mistral_lib.rented_run.packing import Code
from mistral_lib.rented_run.uploading import RunOptions, UploadError
from mistral_lib.run import files
from mistral_lib.run.settings import Settings
from tests.support import rented
from tests.support.aws_stand_in import REGION, FalseAws

TOKEN = "hf_" + "kT9x" * 8


@pytest.fixture
def settings(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A run of a model on the hub, whose code is packed already and whose user has a token."""
    monkeypatch.setattr(packing, "code", lambda dirty: Code(b"code", "c" * 40))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return Settings(run_name="small", corpus_paths=["corpora/small"], base_model="mistralai/Mistral-7B-v0.3", instance="g4dn.xlarge")


def sent(aws: FalseAws) -> list[str]:
    """Keys of the objects that were put, oldest first, without the signs of life meanwhile."""
    keys = [one.path.split("/runs/small/", 1)[1] for one in aws.asked("s3", "PutObject") if "/runs/small/" in one.path]
    return [key for key in keys if key != UPLOADING]


def test_the_job_is_last_and_names_what_was_sent_with_its_hashes(aws: FalseAws, settings: Settings) -> None:
    record = rented.rent()
    job = uploading.run(settings, RunOptions(only=["02", "03"]))
    assert Job.from_json(rented.get(record, "job.json")) == job and sent(aws)[-1] == "job.json"
    for key, digest in {
        "code.tar.gz": job.code_sha256,
        "params.yaml": job.params_sha256,
        **{f"corpus/{n}": h for n, h in job.corpus.items()},
    }.items():
        assert sha256(rented.get(record, key)).hexdigest() == digest, key
    assert set(job.corpus) == {f"corpora/small/{name}.jsonl" for name in ("red", "green", "blue")}
    assert job.stages == ["02", "03"] and job.ends_at == record.ends_at.isoformat() and job.attempt == 1 and not job.spot


def test_the_token_is_an_encrypted_parameter_and_stands_nowhere_else(
    aws: FalseAws, settings: Settings, capfd: pytest.CaptureFixture
) -> None:
    rented.rent()
    job = uploading.run(settings, RunOptions())
    assert job.token_parameter == "/mistral-workbook/small/hf-token"
    holding = [one for one in aws.requests if TOKEN in one.text or TOKEN in one.path or TOKEN in json.dumps(one.headers)]
    assert [(one.service, one.action) for one in holding] == [("ssm", "PutParameter")] and holding[0].parameters["Type"] == "SecureString"
    assert TOKEN not in "".join(capfd.readouterr())
    assert not [path for path in records.folder().rglob("*") if path.is_file() and TOKEN in path.read_text(errors="replace")]


def test_a_second_call_changes_nothing_and_another_job_for_this_machine_is_refused(aws: FalseAws, settings: Settings) -> None:
    rented.rent()
    job, before = uploading.run(settings, RunOptions()), len(sent(aws))
    assert uploading.run(settings, RunOptions()) == job and len(sent(aws)) == before
    with pytest.raises(UploadError, match="another hang_minutes, params_sha256"):
        uploading.run(settings.model_copy(update={"seed": 1}), RunOptions(hang_minutes=5))
    assert len(sent(aws)) == before


def test_a_new_machine_of_the_run_gets_the_job_without_sending_the_files_again(aws: FalseAws, settings: Settings) -> None:
    record = rented.rent()
    uploading.run(settings, RunOptions())
    rented.end(record)
    before, record = len(sent(aws)), rented.rent(attempt=2)
    assert uploading.run(settings, RunOptions()).attempt == 2 and sent(aws)[before:] == ["job.json"]


def denied(aws: FalseAws) -> None:
    aws.fail("s3", "PutObject", "AccessDenied", 403, when=lambda parameters: "code.tar.gz" in str(parameters))


def throttled(aws: FalseAws) -> None:
    aws.fail("s3", "PutObject", "SlowDown", 503, times=30)


def cut(aws: FalseAws) -> None:
    aws.cut("s3", "PutObject", 10, times=30, when=lambda parameters: "green" in str(parameters))


def no_parameter(aws: FalseAws) -> None:
    aws.deny("ssm", "PutParameter", times=1)


def no_answer(aws: FalseAws) -> None:
    aws.fail("s3", "HeadObject", "InternalError", 500, times=30)


@pytest.mark.parametrize("fault", [denied, throttled, cut, no_parameter, no_answer])
def test_after_a_fault_there_is_no_job_and_the_same_command_sends_the_rest(
    aws: FalseAws, settings: Settings, fault: Callable[[FalseAws], None]
) -> None:
    record = rented.rent()
    fault(aws)
    with pytest.raises(AwsError):
        uploading.run(settings, RunOptions())
    assert "job.json" not in sent(aws)
    aws.recover()
    there = {key for key in sent(aws) if buckets.sha256_of(record.bucket, record.prefix + key, record.region) is not None}
    before = len(sent(aws))
    uploading.run(settings, RunOptions())
    again = sent(aws)[before:]
    assert again[-1] == "job.json" and not there & set(again)


def test_while_files_are_sent_the_machine_gets_a_sign_of_life_every_minute(
    aws: FalseAws, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = rented.rent()
    monkeypatch.setattr(uploading.sign_of_life, "given", partial(sign_of_life.given, seconds=0.1))
    seen: list[bytes] = []

    def sending(record: records.Record, pieces: list[uploading.Piece]) -> None:
        until = time.monotonic() + 20
        while len(set(seen)) < 3 and time.monotonic() < until:
            with suppress(session.client("s3", REGION).exceptions.NoSuchKey):
                seen.append(rented.get(record, UPLOADING))
            time.sleep(0.05)

    monkeypatch.setattr(uploading, "upload", sending)
    uploading.run(settings, RunOptions())
    assert len(set(seen)) >= 3 and all(b'"at"' in one for one in seen)
    time.sleep(0.3)
    last = rented.get(record, UPLOADING)
    time.sleep(0.3)
    assert rented.get(record, UPLOADING) == last, "none after the job is there"


def test_without_a_running_machine_the_next_step_is_named(aws: FalseAws, settings: Settings) -> None:
    with pytest.raises(RecordError, match="instance up <file>` launches one"):
        uploading.run(settings, RunOptions())
    rented.rent(step="machine")
    with pytest.raises(RecordError, match="ended after the step 'machine': repeat"):
        uploading.run(settings, RunOptions())
    record = rented.rent()
    rented.end(record)
    with pytest.raises(UploadError, match=r"is terminated, expected running: `python -m mistral_lib instance up <file>` launches another"):
        uploading.run(settings, RunOptions())
    assert not sent(aws)


def test_a_base_model_is_sent_if_asked_for(aws: FalseAws, settings: Settings, home: Path) -> None:
    files.write_text(home / "models" / "mine" / "config.json", "{}")
    record = rented.rent()
    job = uploading.run(settings, RunOptions(upload_model=Path("models/mine")))
    assert job.base_model == {"path": "models/mine", "files": {"config.json": sha256(b"{}").hexdigest()}} and job.token_parameter is None
    assert rented.get(record, "base_model/config.json") == b"{}" and b"base_model: models/mine" in rented.get(record, "params.yaml")


def test_a_token_file_is_read_and_its_faults_are_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert uploading.hub_token(tmp_path / "token") == TOKEN
    (tmp_path / "token").write_text("two words")
    with pytest.raises(UploadError, match="expected one line"):
        uploading.hub_token(tmp_path / "token")


def test_every_fault_of_the_run_is_found_before_anything_is_sent(aws: FalseAws, settings: Settings) -> None:
    rented.rent()
    with pytest.raises(payload.PayloadError, match="corpora/none"):
        uploading.run(settings.model_copy(update={"corpus_paths": ["corpora/none"]}), RunOptions())
    assert not sent(aws)
