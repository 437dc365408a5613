"""`start`: a stopped machine for a run, one of the workbook or one that was there before.

A stopped machine is tied to its zone. If that has no capacity: waiting, another type, or an image of it that is launched elsewhere, each
only if it was requested by an option or at the question. The outside timer is set before the machine starts.
"""

import sys
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mistral_lib.aws import found_machines, machines, regions, shell_commands
from mistral_lib.aws.machines import CapacityError, Machine
from mistral_lib.instance import capacity, launch_options, launch_steps, moving, plan, records
from mistral_lib.instance.capacity import NoCapacityError
from mistral_lib.instance.launch_options import LaunchError, StartOptions
from mistral_lib.instance.records import Record
from mistral_lib.on_machine import user_data
from mistral_lib.run.progress import say
from mistral_lib.run.settings import Settings

RUNNING = ("pending", "running")
STOP_SECONDS, REACHABLE_SECONDS, SETUP_SECONDS = 300, 600, 1800
CHOICES = (
    "--retry-minutes N waits for it, --change-type TYPE changes the type, --move-to ZONE or --move-to REGION launches an image of it there"
)
QUESTION = "No capacity. Type `wait MINUTES`, `type TYPE`, `move ZONE` or `move REGION`; anything else ends: "


def start(machine_id: str, params_file: Path | str, settings: Settings, options: StartOptions) -> Record:
    """The record of the run's machine after the start. With move_to it may be another machine than `machine_id`.

    Errors: LaunchError for a machine that does not suit the run; QuotaError; NoCapacityError; AwsError; CommandError if the machine starts
    but cannot be set up, and is stopped again.
    """
    with launch_steps.only_one(settings.run_name):
        machine, record = _begun(machine_id, settings, options)
        if machine.state not in RUNNING:
            launch_steps.require_quota(record)
        record = launch_steps.prepared(record, replace(options, subnet=found_machines.subnet_of(record.region, machine_id)))
        if record.adopted:
            found_machines.adopt(record.region, machine_id, record.run, record.profile, record.group)
        record = replace(record, machine=machine_id, ends_at=datetime.now(UTC) + timedelta(hours=record.max_hours))
        stopped = machine.state not in RUNNING
        record = launch_steps.set_outside_timer(record, later=stopped)
        record, machine = _running(record, machine, options)
        record = launch_steps.with_outside_timer(launch_steps.with_machine(record, machine), later=stopped)
        if machine.id == machine_id:
            _set_up(record)
    say(f"{launch_steps.summary(record)}\nNext: python -m mistral_lib instance run {params_file}")
    return record


def _begun(machine_id: str, settings: Settings, options: StartOptions) -> tuple[Machine, Record]:
    """The machine, and a record for it after the step `region`. Errors: LaunchError if it does not suit."""
    run, earlier = settings.run_name, records.of_this_account(settings.run_name)
    region = regions.chosen(options.region or (earlier.region if earlier else None))
    machine = _usable(machines.require(region, machine_id), run)
    regions.remember(region)
    record = launch_steps.new_record(settings, options, region, launch_options.type_of(settings, machine.type), machine.spot)
    launch_options.disk_gib(settings, machine.type, machine.volume_gib, options.ignore_fit)
    same = earlier is not None and earlier.region == region
    record = replace(
        record,
        volume_gib=machine.volume_gib,
        adopted=not machine.run or machine_id in found_machines.ids(region, run),
        bucket=earlier.bucket if earlier and same else "",
        image=earlier.image if earlier and same and earlier.machine == machine_id else "",
        attempt=earlier.attempt + (earlier.machine != machine_id) if earlier else 1,
    )
    return machine, record.with_step("region")


def _usable(machine: Machine, run: str) -> Machine:
    """The machine once it has stopped, or as it runs for this run already. Errors: LaunchError."""
    if machine.run not in ("", run):
        raise LaunchError(
            f"{machine.id} belongs to the run {machine.run}, expected none or {run}: `instance down {machine.run}` gives it free"
        )
    others = [one.id for one in machines.find(machine.region, run, states=RUNNING) if one.id != machine.id]
    if others:
        raise LaunchError(f"{', '.join(others)} runs for {run} already: use it, or remove it with `instance down {run}`")
    if machine.state in RUNNING and machine.run != run:
        raise LaunchError(
            f"{machine.id} is {machine.state} and was not started for {run}: stop it first, so that nothing on it is disturbed"
        )
    if machine.state == "stopping":
        machines.wait(machine.region, machine.id, "stopped", STOP_SECONDS)
        machine = machines.require(machine.region, machine.id)
    if machine.state not in (*RUNNING, "stopped"):
        raise LaunchError(f"{machine.id} is {machine.state}, expected stopped: `instance up` launches a new machine")
    return machine


# -- capacity -----------------------------------------------------------------------------------------------------------


def _running(record: Record, machine: Machine, options: StartOptions) -> tuple[Record, Machine]:
    """The record and the machine once it starts, perhaps with another type or as another machine. Errors: NoCapacityError."""
    try:
        return record, _started(record, machine, options.retry_minutes)
    except NoCapacityError as error:
        chosen = options if options.change_type or options.move_to else _answered(options)
        if chosen is None:
            raise error
    if chosen.change_type is None and chosen.move_to is None:
        return _running(record, machine, chosen)
    if chosen.change_type is not None:
        record = _with_type(record, chosen.change_type)
        machine = replace(machine, type=record.type)
        try:
            return record, _started(record, machine, chosen.retry_minutes)
        except NoCapacityError:
            if chosen.move_to is None:
                raise
    return moving.moved(record, machine, chosen.move_to, replace(chosen, move_to=None))


def _started(record: Record, machine: Machine, minutes: float) -> Machine:
    """Errors: NoCapacityError after the minutes; QuotaError, AwsError."""

    def attempt(number: int) -> Machine | None:
        try:
            return machines.start(record.region, machine.id) if machine.state not in RUNNING else machine
        except CapacityError as error:
            say(str(error))
            return None

    found = capacity.until_there_is_capacity(attempt, f"{machine.id} ({record.type}) in {machine.zone}", minutes, CHOICES)
    machines.wait(record.region, found.id, "running")
    return machines.require(record.region, found.id)


def _answered(options: StartOptions) -> StartOptions | None:
    """The options with what was typed at the question; None without a terminal, or if nothing was chosen."""
    if not sys.stdin.isatty():
        return None
    word, _, value = input(QUESTION).strip().partition(" ")
    if word == "wait" and value.replace(".", "", 1).isdigit():
        return replace(options, retry_minutes=float(value))
    changes = {"type": "change_type", "move": "move_to"}
    return replace(options, **{changes[word]: value.strip()}) if word in changes and value.strip() else None


def _with_type(record: Record, type: str) -> Record:
    """Gives the stopped machine another type. Its limits in hours stay. Errors: LaunchError, QuotaError, AwsError."""
    if type not in plan.rented():
        raise LaunchError(f"--change-type {type}: not in params/instances.yaml, which has {', '.join(plan.rented())}")
    price = launch_options.usd_per_hour(type, record.region, False, None)
    hours = min(record.max_hours, record.max_usd / price) if record.max_usd else record.max_hours
    changed = replace(record, type=type, usd_per_hour=price, max_hours=hours)
    launch_steps.require_quota(changed)
    machines.change_type(record.region, record.machine, type)
    say(f"{record.machine} is a {type} now, and stays one")
    records.save(changed)
    return changed


# -- set-up -------------------------------------------------------------------------------------------------------------


def _set_up(record: Record) -> None:
    """Runs the script of the first boot by Systems Manager: user data runs at a machine's first boot alone. If that fails or is
    interrupted, the machine is stopped again. Errors: CommandError, AwsError."""
    minutes = (record.ends_at - datetime.now(UTC)).total_seconds() / 60 if record.ends_at else 0.0
    script = b64encode(user_data.script(launch_steps.place_of(record, minutes)).encode()).decode()
    try:
        if not shell_commands.wait_reachable(record.machine, record.region, REACHABLE_SECONDS):
            raise shell_commands.CommandError(
                f"{record.machine} does not report to Systems Manager {REACHABLE_SECONDS // 60} minutes after its start: its image may have no "
                "SSM agent, or it has no way to the internet; `instance up` launches a machine that has both",
                "NotReachable",
            )
        file = "/run/mistral-workbook-setup.sh"
        shell_commands.send(record.machine, record.region, [f"echo {script} | base64 -d > {file}", f"bash {file}"], SETUP_SECONDS)
    except BaseException as error:  # Ctrl-C as well: it would run until the outside timer, without doing anything
        say(f"{record.machine} was not set up ({str(error) or type(error).__name__}); it is stopped again")
        machines.stop(record.region, record.machine)
        raise
