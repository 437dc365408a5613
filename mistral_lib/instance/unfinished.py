"""What `down` would end or lose: a run that still works on its machine, and results that were not fetched."""

from dataclasses import dataclass

from mistral_lib.aws import buckets
from mistral_lib.aws.errors import AwsError
from mistral_lib.instance import records
from mistral_lib.instance.resources import Resource
from mistral_lib.on_machine import status_file
from mistral_lib.run import files

RESULTS, RESULTS_LIST = "results/", "results.json"  # below a run's prefix
WORKING = ("setting up", "running", "uploading")  # phases of a machine


@dataclass(frozen=True)
class Unfetched:
    """Results of a run in the bucket that were not fetched since they were written."""

    run: str
    place: str  # s3://bucket/runs/<run>/results/
    objects: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.run}: {self.objects:,} objects, {files.size_text(self.bytes)} in {self.place} were not fetched"


@dataclass(frozen=True)
class Working:
    """A run whose machine says that it is not done."""

    run: str
    machine: str
    doing: str

    def __str__(self) -> str:
        return f"{self.run} on {self.machine}: {self.doing}"


def unfetched_of(objects: Resource) -> Unfetched | None:
    """The run's results, if there are some that were not fetched since. Errors: AwsError."""
    bucket, prefix = place_of(objects)
    sizes = buckets.listing(bucket, prefix + RESULTS, objects.region)
    record = records.mine(objects.run)
    written = buckets.modified(bucket, prefix + RESULTS_LIST, objects.region)
    fetched = record.fetched if record else None
    if not sizes or (fetched is not None and (written is None or written <= fetched)):
        return None
    return Unfetched(objects.run, f"s3://{bucket}/{prefix}{RESULTS}", len(sizes), sum(sizes.values()))


def working_in(found: list[Resource]) -> list[Working]:
    """The runs that still work, as their machines reported to the bucket."""
    alive = [one for one in found if one.kind in ("machine", "adopted machine") and one.state in ("pending", "running")]
    stored = {(one.run, one.region): one for one in found if one.kind == "objects"}
    looks = [_working_on(one, stored[one.run, one.region]) for one in alive if (one.run, one.region) in stored]
    return [one for one in looks if one is not None]


def _working_on(machine: Resource, objects: Resource) -> Working | None:
    bucket, prefix = place_of(objects)
    try:
        status = buckets.get_json(bucket, prefix + status_file.NAME, objects.region) or {}
    except AwsError as error:
        return Working(machine.run, machine.id, f"what it does was not seen ({error})")
    if status.get("phase") not in WORKING or status.get("machine") not in (None, machine.id):
        return None
    return Working(machine.run, machine.id, f"{status['phase']}, {status.get('doing', '')}")


def place_of(objects: Resource) -> tuple[str, str]:
    """Bucket and prefix of `s3://bucket/runs/<run>/`."""
    bucket, _, prefix = objects.id.removeprefix("s3://").partition("/")
    return bucket, prefix
