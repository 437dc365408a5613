"""`run`: code, parameters, corpus and base model into the run's bucket, the hub's token into an encrypted parameter, and the job last.

Whatever ends this computer in between, the machine sees a complete job or none, and the same command resumes: what the bucket has with the
same hash is not sent again. The machine looks for its job every 20 seconds, so that nothing has to be started there, and waits while this
command works.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from mistral_lib.aws import buckets, machines, names, parameters
from mistral_lib.instance import records
from mistral_lib.instance.records import Record, RecordError
from mistral_lib.on_machine.job import Job
from mistral_lib.rented_run import packing, payload, sign_of_life, watching
from mistral_lib.rented_run.packing import Code
from mistral_lib.rented_run.payload import Payload
from mistral_lib.run import files
from mistral_lib.run.progress import bar, say
from mistral_lib.run.settings import Settings

JOB, CODE, PARAMS = "job.json", "code.tar.gz", "params.yaml"  # below the run's prefix
LIVE = ("pending", "running")
TAKEN = ("setting up", "running", "uploading", "ended")  # phases of a machine that has read its job
OF_THE_MACHINE = ("attempt", "ends_at", "max_usd", "usd_per_hour", "spot")  # in a job; a new machine may have resumed the earlier one's


class UploadError(RuntimeError):
    """A run that cannot be sent; the message says what to do."""


@dataclass(frozen=True)
class RunOptions:
    """Of `run`."""

    dirty: bool = False  # send the tracked files as they are, also with uncommitted changes
    upload_model: Path | None = None  # a local base model
    token_file: Path | None = None  # with the hub's token; else HF_TOKEN, or what `hf auth login` stored
    only: list[str] = field(default_factory=list)  # notebook numbers; empty: all
    idle_minutes: float = 30.0
    hang_minutes: float = 60.0
    usd_before: float | None = None  # what earlier machines of the run have cost; None: not known


@dataclass(frozen=True, slots=True)
class Piece:
    """A file of this computer and its key below the run's prefix."""

    key: str
    path: Path
    sha256: str


def run(settings: Settings, options: RunOptions) -> Job:
    """Send everything that the run needs; the job that the machine then does.

    Errors: RecordError or UploadError without a running machine; PackingError, PayloadError, AwsError, and FileNotFoundError for a token
    file that is not there.
    """
    record = ready(settings.run_name)
    sent, code = payload.of(settings, record.type, options.upload_model), packing.code(options.dirty)
    for line in (f"code: {code}", *sent.notes):
        say(line)
    token = hub_token(options.token_file) if sent.needs_token else None
    parameter = names.of(record.run).parameter if token else None
    with tempfile.TemporaryDirectory() as folder, sign_of_life.given(record):
        pieces = list(_pieces(sent, code, Path(folder)))
        job = job_of(record, sent, code, pieces, parameter, options)
        if _is_there(record, job):
            say(f"{record.machine} has this job already; `python -m mistral_lib instance watch {record.run}` shows what it does")
            return job
        upload(record, pieces)
    if token:
        parameters.put_token(record.run, record.region, token)
    buckets.put_json(job.to_dict(), record.bucket, record.prefix + JOB, record.region)
    say(f"{record.machine} has its job; `python -m mistral_lib instance watch {record.run}` shows what it does")
    return job


def ready(run: str) -> Record:
    """The record of a run whose machine runs. Errors: RecordError, UploadError, AwsError."""
    record = records.required(run)
    if not record.complete:
        raise RecordError(
            f"the launch of {run} ended after the step {record.step!r}: repeat `python -m mistral_lib instance up <file>`, which resumes it"
        )
    machine = machines.get(record.region, record.machine)
    state = machine.state if machine else "gone"
    if state not in LIVE:
        remedy = (
            f"instance start <file> {record.machine}` starts it"
            if state in ("stopping", "stopped")
            else "instance up <file>` launches another"
        )
        raise UploadError(
            f"{record.machine} ({record.type}, {record.region}) is {state}, expected running: `python -m mistral_lib {remedy}"
        )
    if record.ends_at and record.ends_at <= datetime.now(UTC):
        raise UploadError(
            f"the time of {record.machine} is over since {record.ends_at:%Y-%m-%d %H:%M} UTC: `instance down {run}`, then `instance up`"
        )
    return record


def upload(record: Record, pieces: list[Piece]) -> None:
    """Send what the bucket does not have. Errors: AwsError."""
    sizes, new = {piece.key: piece.path.stat().st_size for piece in pieces}, []
    for piece in bar(pieces, "to the bucket", unit="file"):
        if buckets.upload(piece.path, record.bucket, record.prefix + piece.key, piece.sha256, record.region):
            new.append(piece.key)
    sent = files.size_text(sum(sizes[key] for key in new))
    say(f"s3://{record.bucket}/{record.prefix}: {len(new)} of {len(pieces)} files sent ({sent}), the others were there already")


def _pieces(sent: Payload, code: Code, folder: Path) -> Iterator[Piece]:
    """Every file to send, with its hash. folder: for those that are made here."""
    for name, data in ((CODE, code.data), (PARAMS, sent.params)):
        (folder / name).write_bytes(data)
        yield Piece(name, folder / name, sha256(data).hexdigest())
    named = {f"corpus/{name}": path for name, path in sent.corpus.items()}
    named |= {f"base_model/{name}": path for name, path in (sent.base_model or {}).items()}
    for key, path in bar(sorted(named.items()), "hashing", unit="file"):
        yield Piece(key, path, files.sha256(path))


def job_of(record: Record, sent: Payload, code: Code, pieces: list[Piece], parameter: str | None, options: RunOptions) -> Job:
    """What the machine has to do."""
    hashes = {piece.key: piece.sha256 for piece in pieces}
    model, budget = None, record.max_usd
    if record.attempt > 1 and budget:  # the machine counts earlier ones as well; if they are not known, ends_at alone limits the cost
        budget = 0.0 if options.usd_before is None else budget + options.usd_before
    if sent.base_model is not None:
        model = {"path": sent.settings.base_model, "files": {name: hashes[f"base_model/{name}"] for name in sent.base_model}}
    return Job(
        run=record.run, bucket=record.bucket, prefix=record.prefix, region=record.region, code_sha256=code.sha256,
        params_sha256=hashes[PARAMS], corpus={name: hashes[f"corpus/{name}"] for name in sent.corpus}, base_model=model,
        token_parameter=parameter, ends_at=record.ends_at.isoformat(), idle_minutes=options.idle_minutes,
        hang_minutes=options.hang_minutes, max_usd=budget, usd_per_hour=record.usd_per_hour_of_all, spot=record.spot,
        attempt=record.attempt, extras=extras_of(sent.extras, record.nodes), stages=list(options.only),
    )  # fmt: skip


def extras_of(extras: tuple[str, ...], nodes: int) -> list[str]:
    """The optional packages of each machine; several machines work with Ray, and share their parts in the bucket."""
    return list(dict.fromkeys([*extras, *(["ray", "s3"] if nodes > 1 else [])]))


def hub_token(file: Path | None) -> str | None:
    """The hub's token from the file, HF_TOKEN or what `hf auth login` stored; None, which is said, if there is none.

    Errors: FileNotFoundError; UploadError if the file holds no token.
    """
    if file is not None:
        token = file.expanduser().read_text().strip()
        if not token or any(character.isspace() for character in token):
            raise UploadError(f"--token-file {file}: expected one line with the hub's token")
        return token
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        say("no token of the hub on this computer (HF_TOKEN, `hf auth login`, --token-file): the machine can read public repositories only")
    return token


def _is_there(record: Record, job: Job) -> bool:
    """Whether the machine has this very job. Errors: UploadError if it has another one, which it reads once: the files of that job would be
    replaced under its hands."""
    there: dict[str, Any] | None = buckets.get_json(record.bucket, record.prefix + JOB, record.region)
    status = watching.own_status(record) or {}
    own = there is not None and (there.get("attempt"), there.get("ends_at")) == (job.attempt, job.ends_at)
    taken = status.get("phase") in TAKEN
    if there is None or not (own or taken) or (status.get("trouble") and not taken):
        return False  # none, that of an earlier machine, or one that this machine could not use
    different = sorted(key for key, value in job.to_dict().items() if there.get(key) != value and (own or key not in OF_THE_MACHINE))
    if different:
        raise UploadError(
            f"{record.machine} has its job already, with another {', '.join(different)}: `python -m mistral_lib instance watch {record.run}`. "
            f"For this one, end it with `instance down {record.run}` (uploaded results stay), then `instance up` and `instance run` again"
        )
    return True
