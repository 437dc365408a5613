"""`up`: bucket, rights, machine and outside timer of a run, step by step.

Every step may be repeated: it finds what an earlier call made. The record on this computer is written after each step, and the account
is searched by tag as well, so that a killed launch resumes and a second `up` finds the first machine.
"""

from dataclasses import replace
from pathlib import Path

from mistral_lib.aws import images, machines, regions
from mistral_lib.aws.machines import Machine
from mistral_lib.instance import launch_options, launch_steps, records, rehearsal
from mistral_lib.instance.cluster import workers
from mistral_lib.instance.launch_options import LaunchError, UpOptions
from mistral_lib.instance.records import Record
from mistral_lib.run.progress import say
from mistral_lib.run.settings import Settings

LIVE = ("pending", "running")
STOPPED = ("stopping", "stopped")


def up(params_file: Path | str, settings: Settings, options: UpOptions) -> Record:
    """The record of the run's machines, launched now or by an earlier call. With dry_run nothing is made, and the record is not saved.

    Errors: LaunchError for a request that contradicts the parameters, the plan or a running machine; QuotaError; NoCapacityError;
    RegionError; AwsError for everything that AWS refuses. What was made until then stays for the next call and for `down`.
    """
    if options.dry_run:
        return rehearsal.dry_run(settings, options)
    with launch_steps.only_one(settings.run_name):
        record, machine = _begun(settings, options)
        if record.complete and machine is not None:
            record = workers.completed(record, machine, options)
            record = launch_steps.set_outside_timer(record).with_step("schedule")
            say(f"found, with its limits as they were: {launch_steps.summary(record)}")
            return record
        if machine is None:
            workers.end_orphans(record)
            launch_steps.require_quota(record)
        record = launch_steps.prepared(record, options)
        machine = machine or _launched(record, options)
        record = launch_steps.with_machine(record, machine, workers.there(record) if record.nodes > 1 else ())
        record = launch_steps.with_outside_timer(record)
        record = workers.completed(record, machine, options)
    say(f"{launch_steps.summary(record)}\nNext: python -m mistral_lib instance run {params_file}")
    return record


# -- the first step: what is requested, and what is there ----------------------------------------------------------------


def _begun(settings: Settings, options: UpOptions) -> tuple[Record, Machine | None]:
    """The record to continue with, after the step `region`, and the run's live machine, if there is one already."""
    run = settings.run_name
    earlier = records.of_this_account(run)
    machine = _there(earlier.region, run) if earlier else None
    if earlier and machine:
        _require_same(earlier, options)
        if earlier.machine in ("", machine.id):
            return earlier, machine
    region = regions.chosen(options.region or (earlier.region if earlier else None))
    regions.remember(region)
    machine = _there(region, run)  # launched from another computer, or in another region than the last one
    record = _new(settings, options, region, machine)
    return _continued(record, earlier, settings, options).with_step("region"), machine


def _new(settings: Settings, options: UpOptions, region: str, machine: Machine | None) -> Record:
    if machine:
        say(f"{machine.id} of {settings.run_name} is there already, unknown to this computer")
        if options.nodes not in (None, machine.nodes):
            raise LaunchError(f"{machine.id} was launched with --nodes {machine.nodes}; requested was {options.nodes}: leave it out, or `instance down` first")  # fmt: skip
        return launch_steps.new_record(settings, options, region, machine.type, machine.spot, machine.nodes)
    nodes = 1 if options.nodes is None else options.nodes
    return launch_steps.new_record(settings, options, region, launch_options.type_of(settings, options.type), options.spot, nodes)


def _continued(record: Record, earlier: Record | None, settings: Settings, options: UpOptions) -> Record:
    """The new record with what stays of the earlier one: the bucket, and for the same order its token, so that a request that was sent
    and not answered makes no second machine."""
    same_order = (
        earlier is not None
        and not earlier.machine
        and bool(earlier.step)
        and all(
            getattr(earlier, name) == getattr(record, name)
            for name in ("region", "type", "spot", "nodes", "max_hours", "idle_minutes", "usd_per_hour")
        )
        and options.disk_gib in (None, earlier.volume_gib)
    )
    if earlier is not None and same_order:
        return replace(record, token=earlier.token, volume_gib=earlier.volume_gib, bucket=earlier.bucket, attempt=earlier.attempt)
    volume = launch_options.disk_gib(settings, record.type, options.disk_gib, options.ignore_fit)
    if earlier is None:
        return replace(record, volume_gib=volume)
    bucket = earlier.bucket if earlier.region == record.region else ""
    return replace(record, volume_gib=volume, bucket=bucket, attempt=earlier.attempt + bool(earlier.machine))


def _require_same(record: Record, options: UpOptions) -> None:
    """Errors: LaunchError if the options contradict the machine that is there."""
    requested = {
        "region": options.region,
        "type": options.type,
        "bucket": options.bucket,
        "nodes": options.nodes,
        "spot": options.spot or None,
    }
    different = [
        f"{name} {value} (now {getattr(record, name)})"
        for name, value in requested.items()
        if value is not None and getattr(record, name) not in ("", value)
    ]
    if different:
        raise LaunchError(
            f"a machine of {record.run} is there; requested was another {', '.join(different)}: leave that option out to use this one, "
            f"or remove it first with `python -m mistral_lib instance down {record.run}`"
        )


def _there(region: str, run: str) -> Machine | None:
    """The live machine of the run in the account, of a cluster its head. Errors: LaunchError if it is stopped, or if there are several."""
    found = [machine for machine in machines.find(region, run, states=LIVE + STOPPED) if not machine.worker]
    live = [machine for machine in found if machine.state in LIVE]
    if len(live) > 1:
        several = ", ".join(machine.id for machine in live)
        raise LaunchError(f"{len(live)} machines of {run} run ({several}), expected one: remove them with `instance down {run}`")
    if found and not live:
        raise LaunchError(
            f"{found[0].id} of {run} is {found[0].state}: start it with `python -m mistral_lib instance start <file> {found[0].id}`, or "
            f"remove it with `python -m mistral_lib instance down {run}`"
        )
    return live[0] if live else None


def _launched(record: Record, options: UpOptions) -> Machine:
    order = launch_steps.order(record, options.image or images.newest(record.region))
    return workers.launched(record, order, launch_steps.places(record, options.subnet), options.wait_minutes)
