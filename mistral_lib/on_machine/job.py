"""What the machine has to do: the contents of job.json in the run's bucket.

The laptop writes job.json last, after everything that it names. The machine reads it, and refuses what it does not understand.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

SHA256 = re.compile(r"[0-9a-f]{64}")


class JobError(ValueError):
    """job.json is not a job that this version of the machine's program understands."""


@dataclass(frozen=True)
class Job:
    """One run on one machine. Paths in `corpus` are relative to corpus/ in the bucket, and to the workbook's home on the machine."""

    run: str  # run_name of the parameters; the run folder is runs/<run>
    bucket: str
    prefix: str  # of all objects of the run: runs/<run>/
    region: str
    code_sha256: str  # of code.tar.gz
    params_sha256: str  # of params.yaml
    corpus: dict[str, str]  # path → sha256
    base_model: dict[str, Any] | None  # None: base_model of the parameters; else {"path": its folder, "files": path in the folder → sha256}
    token_parameter: str | None  # SSM SecureString with the hub's token
    ends_at: str  # ISO 8601 with time zone: when the machine ends in any case
    idle_minutes: float  # without work, after which the machine ends
    hang_minutes: float  # without progress of the run, after which it is stopped
    max_usd: float  # of this run, all its machines together; 0: no limit
    usd_per_hour: float
    spot: bool
    attempt: int  # 1 for the first machine of the run
    extras: list[str]  # optional dependencies of the library: gpu, s3, …
    stages: list[str]  # notebook numbers for `run --only`; empty: all

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Job":
        """The job of these values. Errors: JobError that names every unknown, missing and wrong value."""
        if not isinstance(values, Mapping):
            raise JobError(f"job.json holds {type(values).__name__}, expected an object with the keys of a job; {ADVICE}")
        known = {field.name for field in fields(cls)}
        faults = [f"unknown key {key!r}" for key in sorted(values.keys() - known)]
        faults += [f"missing key {key!r}" for key in sorted(known - values.keys())]
        faults += [fault for key, check in CHECKS.items() if key in values for fault in check(key, values[key])]
        if faults:
            raise JobError(f"job.json: {'; '.join(faults)}; {ADVICE}")
        return cls(**values)

    @classmethod
    def from_json(cls, text: bytes | str) -> "Job":
        """The job in this text. Errors: JobError."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise JobError(f"job.json is not JSON ({error}); {ADVICE}") from None
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def end(self) -> datetime:
        """When the machine ends in any case (UTC)."""
        return datetime.fromisoformat(self.ends_at).astimezone(UTC)


ADVICE = "upload the job again with the version of the library that launched this machine: `python -m mistral_lib instance run`"


def _text(key: str, value: Any) -> list[str]:
    return [] if isinstance(value, str) and value else [f"{key} is {value!r}, expected a text"]


def _sha256(key: str, value: Any) -> list[str]:
    fine = isinstance(value, str) and SHA256.fullmatch(value)
    return [] if fine else [f"{key} is {value!r}, expected a SHA-256 of 64 hexadecimal digits"]


def _files(key: str, value: Any) -> list[str]:
    """Relative paths that stay below their folder, with their hashes."""
    if not isinstance(value, dict):
        return [f"{key} is {value!r}, expected paths with their SHA-256"]
    paths = [f"{key}: path {path!r} leaves its folder" for path in value if not _stays_below(path)]
    return paths + [fault for path, digest in value.items() for fault in _sha256(f"{key}[{path!r}]", digest)]


def _stays_below(path: str) -> bool:
    return bool(path) and not path.startswith("/") and "\0" not in path and not {"", ".", ".."} & set(path.split("/"))


def _model(key: str, value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, dict) or value.keys() != {"path", "files"}:
        return [f"{key} is {value!r}, expected null or an object with path and files"]
    place = [] if isinstance(value["path"], str) and _stays_below(value["path"]) else [f"{key}: path {value['path']!r} leaves its folder"]
    return place + _files(f"{key}.files", value["files"])


def _moment(key: str, value: Any) -> list[str]:
    try:
        fine = datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        fine = False
    return [] if fine else [f"{key} is {value!r}, expected a date and time with a time zone, as 2026-01-31T12:00:00+00:00"]


def _number(key: str, value: Any) -> list[str]:
    fine = isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
    return [] if fine else [f"{key} is {value!r}, expected a number that is not negative"]


def _flag(key: str, value: Any) -> list[str]:
    return [] if isinstance(value, bool) else [f"{key} is {value!r}, expected true or false"]


def _texts(key: str, value: Any) -> list[str]:
    fine = isinstance(value, list) and all(isinstance(item, str) for item in value)
    return [] if fine else [f"{key} is {value!r}, expected a list of texts"]


def _numbers(key: str, value: Any) -> list[str]:
    fine = isinstance(value, list) and all(isinstance(item, str) and re.fullmatch(r"[0-9]{2}", item) for item in value)
    return [] if fine else [f"{key} is {value!r}, expected a list of notebook numbers of two digits, such as 03"]


def _parameter(key: str, value: Any) -> list[str]:
    return [] if value is None else _text(key, value)


def _run(key: str, value: Any) -> list[str]:
    fine = isinstance(value, str) and _stays_below(value) and "/" not in value
    return [] if fine else [f"{key} is {value!r}, expected the name of a run folder"]


CHECKS = {
    "run": _run, "bucket": _text, "prefix": _text, "region": _text, "code_sha256": _sha256, "params_sha256": _sha256,
    "corpus": _files, "base_model": _model, "token_parameter": _parameter, "ends_at": _moment, "idle_minutes": _number,
    "hang_minutes": _number, "max_usd": _number, "usd_per_hour": _number, "spot": _flag, "attempt": _number,
    "extras": _texts, "stages": _numbers,
}  # fmt: skip
