"""What this computer knows about a run's machine, in `runs/.instances/<run>.json`, written after each step of a launch.

The account itself is always asked as well: a record may be missing, or be older than what happened there.
"""

from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mistral_lib.aws import session
from mistral_lib.run import files, paths

STEPS = ("region", "quota", "bucket", "archive", "role", "group", "machine", "schedule")  # of a launch, in this order
COMPLETE = STEPS[-1]  # after this step a machine runs and the outside timer is set
TIMES = ("launched", "ends_at", "fetched")


class RecordError(RuntimeError):
    """A record that cannot be read, or none where one is needed."""


@dataclass(frozen=True)
class Record:
    """A run's machine. Times are aware, in UTC."""

    run: str
    region: str
    type: str
    spot: bool
    usd_per_hour: float  # the largest price that one machine can cost: on demand, or the highest spot bid
    max_hours: float  # from launch to the end at the latest
    max_usd: float  # 0: no limit besides max_hours
    account: str = ""  # the number of the AWS account that it was launched in; empty in records of before this was written
    idle_minutes: float = 30.0  # how long the machine waits for its job
    bucket: str = ""
    prefix: str = ""
    machine: str = ""  # the instance id
    volume_gib: int = 0
    profile: str = ""  # the name of its instance profile
    timer_role: str = ""  # the ARN of the outside timer's role
    group: str = ""  # the id of its security group
    archive_sha256: str = ""  # of machine.tar.gz in the bucket
    token: str = ""  # of this launch: AWS makes one machine for it, however often it is sent
    adopted: bool = False  # the machine was there before the run: it is stopped at its end, never terminated
    image: str = ""  # that `start` made of a machine to move it
    launched: datetime | None = None
    ends_at: datetime | None = None
    attempt: int = 1  # rises with each new machine for the same run
    step: str = ""  # the last one of STEPS that is done; empty: nothing is launched, or it was removed
    fetched: datetime | None = None  # when the complete results were fetched and verified
    nodes: int = 1  # machines of the run: its head, which is `machine`, and workers
    workers: list[str] = field(default_factory=list)  # their instance ids
    placement: str = ""  # the name of the cluster placement group

    @property
    def complete(self) -> bool:
        """Whether the launch went through all steps."""
        return self.step == COMPLETE

    @property
    def usd_per_hour_of_all(self) -> float:
        """Of all its machines together."""
        return round(self.nodes * self.usd_per_hour, 6)

    @property
    def all_machines(self) -> list[str]:
        """The instance ids, that of the head first."""
        return [self.machine, *self.workers]

    def reached(self, step: str) -> bool:
        """Whether a step of a launch is done."""
        return bool(self.step) and STEPS.index(self.step) >= STEPS.index(step)

    def with_step(self, step: str, **changes: Any) -> "Record":
        """The record after a step, with its results, saved. A step that is repeated does not undo later ones."""
        record = replace(self, step=self.step if self.reached(step) else step, **changes)
        save(record)
        return record


def folder() -> Path:
    return paths.runs() / ".instances"


def place(run: str) -> Path:
    return folder() / f"{run}.json"


def save(record: Record) -> None:
    values = asdict(record)
    files.write_json(place(record.run), values | {name: values[name] and values[name].isoformat() for name in TIMES})


def load(run: str) -> Record | None:
    """The record of a run, None if there is none. Errors: RecordError if the file was altered."""
    path = place(run)
    if not path.is_file():
        return None
    try:
        values = files.read_json(path)
        return Record(**values | {name: values[name] and datetime.fromisoformat(values[name]) for name in TIMES})
    except (ValueError, TypeError, KeyError) as error:
        expected = ", ".join(one.name for one in fields(Record))
        raise RecordError(
            f"{paths.short(path)} cannot be read ({error}); expected the keys {expected}. `instance list` shows what is in the account; "
            "delete this file, then run the command again"
        ) from None


def of_this_account(run: str) -> Record | None:
    """The record of a run, None if there is none. Errors: as `load`; RecordError if the credentials are of another account than the record;
    AwsError if AWS does not say which account they are of."""
    record = load(run)
    if record is not None and is_foreign(record):
        raise RecordError(
            f"{paths.short(place(run))} is of AWS account {record.account}, and the present credentials are of account "
            f"{session.account(record.region)}: set AWS_PROFILE to a profile of {record.account}; if nothing of {run} is there any more, "
            "delete the file"
        )
    return record


def mine(run: str) -> Record | None:
    """The record of a run in the account of the present credentials, None if there is none. Errors: as `load`; AwsError."""
    record = load(run)
    return None if record is None or is_foreign(record) else record


def is_foreign(record: Record) -> bool:
    """Whether the machine is in another account than that of the present credentials. Errors: AccessError, AwsError."""
    return bool(record.account) and record.account != session.account(record.region)


def required(run: str) -> Record:
    """The record of a run whose machine was launched, also if it is gone. Errors: as `of_this_account`; RecordError if there is none."""
    record = of_this_account(run)
    if record is None or not record.machine:
        raise RecordError(f"no machine of {run} is known on this computer: `python -m mistral_lib instance up <file>` launches one")
    return record


def all_records() -> list[Record]:
    return [record for path in sorted(folder().glob("[!.]*.json")) if (record := load(path.stem))]


def delete(run: str) -> None:
    """Delete the record. That there was one stays known: `down` of a run that is gone already is no misspelled name."""
    if place(run).exists():
        files.write_text(_gone(run), "")
    place(run).unlink(missing_ok=True)


def is_known(run: str) -> bool:
    """Whether this computer has launched or fetched a run of this name."""
    return place(run).exists() or _gone(run).exists() or (paths.runs() / run).exists()


def known() -> list[str]:
    """The runs for which `is_known`."""
    noted = [path.stem.removeprefix(".") for pattern in ("*.json", ".*.gone") for path in folder().glob(pattern)]
    fetched = [path.name for path in paths.runs().glob("[!.]*") if path.is_dir()]
    return sorted({*noted, *fetched} - {"regions"})


def _gone(run: str) -> Path:
    return folder() / f".{run}.gone"
