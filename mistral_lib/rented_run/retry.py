"""`run --retry N`: when AWS takes a spot machine away, a new one resumes the run from the checkpoints in the bucket.

The limits of time and money that were given for the first machine hold for all of them together. This computer has to stay on for it;
if it does not, `up` and `run` do the same by hand.
"""

from dataclasses import replace
from pathlib import Path

from mistral_lib.aws import buckets, machines, names
from mistral_lib.instance import launch, records
from mistral_lib.instance.launch_options import UpOptions
from mistral_lib.instance.records import Record
from mistral_lib.rented_run import uploading, watching
from mistral_lib.rented_run.uploading import RunOptions
from mistral_lib.rented_run.watching import EXIT_CODES, Look
from mistral_lib.run.progress import say
from mistral_lib.run.settings import Settings

LEAST_HOURS = 0.2  # with less time left a new machine would end before it has set itself up
WAIT_MINUTES = 60.0  # for capacity
GONE_SECONDS = 600  # until a machine that AWS takes away is terminated


def run(params_file: Path, settings: Settings, options: RunOptions, retries: int, seconds: float = 20.0) -> int:
    """Send the run to its machine, stay, and after each spot notice launch another one, at most `retries` times. Repeating the command
    continues where it was. Returns one of watching.EXIT_CODES.

    seconds: between two looks. Errors: as `up`, `run` and `watch`, for instance NoCapacityError.
    """
    name = settings.run_name
    record = records.load(name)
    if record is not None and record.attempt > 1 and not record.complete:  # a retry that was cut, or found no capacity
        launch.up(params_file, settings, like(record, record.max_hours, record.max_usd))
    if record is None or not record.complete or watching.look(name).word != "interrupted":
        uploading.run(settings, options)
    for left in range(retries, -1, -1):
        code = watching.watch(name, seconds=seconds)
        if code != EXIT_CODES["interrupted"] or not left or not _resumed(params_file, settings, options):
            break
        say(f"{name}: {left - 1} retries left")
    return code


def _resumed(params_file: Path, settings: Settings, options: RunOptions) -> bool:
    """Whether another machine resumes the run; False, with the reason printed, if the limits or the old machine do not allow it."""
    seen = watching.look(settings.run_name)
    record, again = seen.record, next_options(seen)
    if again is None:
        say(f"{record.run}: no new machine: the limit of {record.max_hours:g} hours or {record.max_usd:g} USD is nearly used up")
        return False
    if not machines.wait(record.region, record.machine, "terminated", GONE_SECONDS):
        say(f"{record.machine} is not terminated after {GONE_SECONDS} s; repeat the command when it is (`instance list`)")
        return False
    say(f"{record.run}: AWS took {record.machine} away; another machine resumes from the last uploaded checkpoint")
    buckets.delete(record.bucket, [record.prefix + uploading.JOB], record.region)  # the new machine waits for its own
    launch.up(params_file, settings, again)
    uploading.run(settings, replace(options, usd_before=seen.usd))
    return True


def next_options(seen: Look) -> UpOptions | None:
    """Options for the next machine: like the last one, with what remains of its time and money. None if too little remains."""
    record = seen.record
    here = seen.usd - (seen.status or {}).get("usd_before", 0.0)  # what this machine has cost
    hours, usd = record.max_hours - seen.hours, record.max_usd - here if record.max_usd else 0.0
    if hours < LEAST_HOURS or (record.max_usd and usd < LEAST_HOURS * record.usd_per_hour_of_all):
        return None
    return like(record, hours, usd)


def like(record: Record, hours: float, usd: float) -> UpOptions:
    """Options for a machine like the one of the record, with these limits. usd: 0 is none."""
    own = names.of(record.run)
    profile = None if record.profile in ("", own.profile) else record.profile  # `up` finds the run's own; others an administrator made
    timer_role = None if record.timer_role.endswith(f"/{own.timer_role}") else record.timer_role or None
    return UpOptions(
        region=record.region, type=record.type, spot=record.spot, max_hours=hours, max_usd=usd or None, bucket=record.bucket or None,
        profile_name=profile, timer_role=timer_role, disk_gib=record.volume_gib or None, wait_minutes=WAIT_MINUTES, ignore_fit=True,
        idle_minutes=record.idle_minutes, nodes=record.nodes,
    )  # fmt: skip
