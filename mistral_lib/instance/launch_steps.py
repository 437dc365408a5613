"""The steps of a launch that `up` and `start` share: quota, bucket, archive, roles and group; the order; the outside timer.

Every step may be repeated: it finds what an earlier call made. The record is saved after each.
"""

import secrets
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from mistral_lib.aws import buckets, machines, names, network, prices, quotas, roles, schedules, session
from mistral_lib.aws.errors import AwsError
from mistral_lib.aws.machines import Machine, Order, QuotaError
from mistral_lib.instance import launch_options, plan, records
from mistral_lib.instance.cluster import placement
from mistral_lib.instance.launch_options import LaunchError, StartOptions, UpOptions
from mistral_lib.instance.records import Record
from mistral_lib.on_machine import user_data
from mistral_lib.run import files
from mistral_lib.run.progress import say
from mistral_lib.run.settings import Settings

SAME_END = timedelta(seconds=2)  # a schedule has whole seconds
GRACE = timedelta(minutes=10)  # after the machine's own end: when the outside timer ends it, if it still runs


@contextmanager
def only_one(run: str) -> Iterator[None]:
    """Errors: LaunchError if another process launches a machine for this run."""
    records.folder().mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(records.folder() / f".{run}.lock", timeout=0):
            yield
    except Timeout:
        raise LaunchError(f"another process launches or starts a machine for {run}; wait for its end") from None


def new_record(settings: Settings, options: UpOptions | StartOptions, region: str, type: str, spot: bool, nodes: int = 1) -> Record:
    """nodes: machines of the run; the limits of time and money hold for all together."""
    if nodes < 1:
        raise LaunchError(f"--nodes is {nodes}, expected 1 or more")
    price = launch_options.usd_per_hour(type, region, spot, options.usd_per_hour)
    hours, account = launch_options.hours(options, nodes * price), session.account(region)
    prefix, token = names.of(settings.run_name).prefix, secrets.token_hex(12)
    return Record(
        settings.run_name, region, type, spot, price, hours, options.max_usd or 0.0, account, options.idle_minutes, prefix=prefix, token=token,
        nodes=nodes,
    )  # fmt: skip


# -- what every machine of the run needs --------------------------------------------------------------------------------


def require_quota(record: Record, count: int | None = None) -> None:
    """Errors: QuotaError if the account may not have these machines now. Without the right to read quotas AWS says it at the launch.

    count: machines; None: all of the run.
    """
    quota, wanted = quotas.vcpus(record.region, record.type, record.spot), count or record.nodes
    if shortage := plan.shortage(quota, wanted * plan.rented()[record.type]["vcpus"]):
        raise QuotaError(record.type, record.spot, record.region, f"{shortage} for {wanted} machines" if wanted > 1 else shortage)
    if quota.note:
        say(f"the quota was not seen: {quota.note}")


def prepared(record: Record, options: UpOptions | StartOptions) -> Record:
    """The record after the steps quota, bucket, archive, role and group."""
    record = record.with_step("quota")
    bucket = buckets.ensure(options.bucket or record.bucket or None, record.run, record.region)
    record = record.with_step("bucket", bucket=bucket)
    record = record.with_step("archive", archive_sha256=_archive_uploaded(record))
    profile = options.profile_name or roles.ensure(record.run, bucket, record.region)
    timer_role = options.timer_role or roles.ensure_timer(record.run, record.region)
    record = record.with_step("role", profile=profile, timer_role=timer_role)
    group = network.ensure_group(record.run, record.region, options.subnet)
    if record.nodes > 1:
        placement.open_to_members(group, record.region)
        record = replace(record, placement=placement.ensure(record.run, record.region))
    return record.with_step("group", group=group)


def _archive_uploaded(record: Record) -> str:
    """The SHA-256 of the machine's program, which is in the bucket now."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / user_data.ARCHIVE
        archive.write_bytes(user_data.archive())
        digest = files.sha256(archive)
        buckets.upload(archive, record.bucket, f"{record.prefix}{user_data.ARCHIVE}", digest, record.region)
    return digest


def place_of(record: Record, minutes: float) -> user_data.Place:
    return user_data.Place(
        record.run, record.bucket, record.prefix, record.region, record.archive_sha256, max(1, int(minutes)), record.idle_minutes,
        record.adopted, record.nodes,
    )  # fmt: skip


# -- the machine and its outside timer ----------------------------------------------------------------------------------


def order(record: Record, image: str) -> Order:
    script = user_data.script(place_of(record, 60 * record.max_hours))
    return Order(
        run=record.run, type=record.type, region=record.region, subnet="", image=image, user_data=script, volume_gib=record.volume_gib,
        profile=record.profile, group=record.group, spot=record.spot, max_price=record.usd_per_hour if record.spot else None, token=record.token,
        count=record.nodes, nodes=record.nodes, placement=record.placement,
    )  # fmt: skip


def places(record: Record, subnet: str | None) -> dict[str, str]:
    """Zone → subnet, for spot the cheapest zone first."""
    if subnet:
        return {network.zone_of(record.region, subnet): subnet}
    offering = network.zones(record.region, record.type)
    found = {zone: one for zone, one in network.subnets(record.region).items() if zone in offering}
    if not record.spot:
        return found
    try:
        now = prices.spot(record.region, record.type)
    except AwsError:
        return found  # the order of the zones is a matter of price alone
    return dict(sorted(found.items(), key=lambda item: now.get(item[0], record.usd_per_hour)))


def with_machine(record: Record, machine: Machine, workers: Iterable[Machine] = ()) -> Record:
    """The record after the step `machine`: its time is counted from the launch. workers: those that are there."""
    ends_at = machine.launched + timedelta(hours=record.max_hours)
    ids = [worker.id for worker in workers]
    return record.with_step("machine", machine=machine.id, launched=machine.launched, ends_at=ends_at, workers=ids)


def with_outside_timer(record: Record, later: bool = False) -> Record:
    """The record after the last step. If a timer cannot be set, and a machine has none, all are terminated, or stopped if they were there
    before: none runs without it. later: as in `set_outside_timer`."""
    try:
        record = set_outside_timer(record, later)
    except BaseException as error:
        if not _has_timer(record):
            _end(record, error)
        raise
    return record.with_step("schedule")


def _has_timer(record: Record) -> bool:
    """Whether every machine has its timer, set by another computer: it may work already. False if AWS does not say."""
    try:
        there = [schedules.get(record.run, record.region)] if record.nodes == 1 else schedules.existing(record.region, record.run)
    except AwsError:
        return False
    return set(record.all_machines) <= {one.machine_id for one in there if one is not None}


def set_outside_timer(record: Record, later: bool = False) -> Record:
    """Make the schedule of each machine, or set it to the record's end; the record with the end that holds.

    A schedule that ends this machine earlier stays, for example that of an `up` on another computer. later: the machine was stopped and
    starts again, so the schedule moves to its new end. Errors: LaunchError if the end is over already; AwsError.
    """
    there = schedules.get(record.run, record.region)
    end = there.at - GRACE if there and there.machine_id == record.machine else None  # of this machine, as it is set now
    if end and record.ends_at and record.ends_at - end > SAME_END:
        if later:
            say(f"the timer in AWS for {record.machine} moves from {local(end + GRACE)} to {local(record.ends_at + GRACE)}")
        else:
            record = _with_earlier_end(record, end)
    if record.ends_at is None or record.ends_at + GRACE <= datetime.now(UTC):
        raise LaunchError(f"{record.machine} had to end at {local(record.ends_at)} and still runs: `instance down {record.run}` removes it")
    for machine in record.all_machines:
        worker = machine != record.machine
        schedules.ensure(record.run, record.region, machine, record.ends_at + GRACE, record.timer_role, record.adopted, worker)
    return record


def _with_earlier_end(record: Record, end: datetime) -> Record:
    say(
        f"{record.machine} ends at {local(end)}, as an earlier command set it, not at {local(record.ends_at)}: its end is never moved to a "
        f"later time. For more time: `instance down {record.run}` (uploaded results stay), then `up` and `run`"
    )
    hours = (end - record.launched).total_seconds() / 3600 if record.launched else record.max_hours
    return replace(record, ends_at=end, max_hours=hours)


def _end(record: Record, error: BaseException) -> None:
    say(f"the outside timer was not set ({error}); {', '.join(record.all_machines)} is ended, since no machine runs without it")
    try:
        if record.adopted:
            machines.stop(record.region, record.machine)
            return
        for machine in record.all_machines:
            machines.terminate(record.region, machine)
    except AwsError as refused:
        say(f"it was not ended ({refused}): its own timer ends it at {local(record.ends_at)}; `instance down {record.run}` tries again")
        return
    for machine in record.all_machines:
        machines.wait(record.region, machine, "terminated")
    records.save(replace(record, step="group", machine="", workers=[], launched=None, ends_at=None, token=secrets.token_hex(12)))


# -- in words -----------------------------------------------------------------------------------------------------------


def summary(record: Record) -> str:
    limit = f", {record.max_usd:g} USD" if record.max_usd else ""
    kind = "spot" if record.spot else "on demand"
    if record.nodes > 1:
        kind, with_workers = f"{kind}, {record.nodes} machines", f" with the workers {', '.join(record.workers) or 'none'}"
    else:
        with_workers = ""
    return (
        f"{record.machine}{with_workers}: {record.type} {kind} in {record.region}, at most {record.usd_per_hour_of_all:g} USD per hour; it ends at "
        f"{local(record.ends_at)} at the latest ({record.max_hours:g} hours{limit}), by a timer on it and by one in AWS {GRACE.seconds // 60} minutes later"
    )


def local(time: datetime | None) -> str:
    """A time in this computer's time zone."""
    return time.astimezone().strftime("%Y-%m-%d %H:%M %Z") if time else "unknown"
