"""job.json: what is refused, and that every fault is named."""

import json
from typing import Any

import pytest

from mistral_lib.on_machine.bucket.object_store import Store
from mistral_lib.on_machine.job import Job, JobError
from tests.support import machine_jobs


@pytest.fixture
def values() -> dict[str, Any]:
    return machine_jobs.job("quick", Store(None, "a-bucket", "runs/quick/"))


def test_a_job_survives_json(values: dict[str, Any]) -> None:
    job = Job.from_dict(values)
    assert Job.from_json(json.dumps(job.to_dict())) == job


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"corpus": {"../etc/passwd": "0" * 64}}, "leaves its folder"),
        ({"corpus": {"/etc/passwd": "0" * 64}}, "leaves its folder"),
        ({"corpus": {"a/b.jsonl": "abc"}}, "expected a SHA-256"),
        ({"base_model": {"path": "models/m", "files": {"../x": "0" * 64}}}, "leaves its folder"),
        ({"base_model": {"path": "../m", "files": {}}}, "leaves its folder"),
        ({"base_model": "hub/name"}, "expected null or an object"),
        ({"run": "../other"}, "expected the name of a run folder"),
        ({"code_sha256": None}, "expected a SHA-256"),
        ({"ends_at": "2026-01-31T12:00:00"}, "with a time zone"),
        ({"ends_at": 5}, "with a time zone"),
        ({"idle_minutes": -1}, "not negative"),
        ({"max_usd": True}, "not negative"),
        ({"spot": "yes"}, "true or false"),
        ({"extras": "gpu"}, "a list of texts"),
        ({"stages": ["03; rm -rf /"]}, "two digits"),
        ({"surprise": 1}, "unknown key 'surprise'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key(values: dict[str, Any], change: dict[str, Any], said: str) -> None:
    with pytest.raises(JobError, match=said) as error:
        Job.from_dict(values | change)
    assert next(iter(change)) in str(error.value)


def test_all_faults_are_named_at_once(values: dict[str, Any]) -> None:
    del values["bucket"], values["run"]
    with pytest.raises(JobError, match=r"unknown key 'new'.*missing key 'bucket'.*missing key 'run'.*spot is 3"):
        Job.from_dict(values | {"new": 1, "spot": 3})


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff\xfe", b"null", b'"text"'])
def test_a_damaged_file_is_no_job(text: bytes) -> None:
    with pytest.raises(JobError, match="instance run"):
        Job.from_json(text)
