"""The workers of a run: those that are there, those that are missing, and those that lost their head.

Head and workers are launched by one request, all of them or none. A worker that is gone later is replaced in the zone of its head.
"""

import secrets
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from mistral_lib.aws import machines
from mistral_lib.aws.errors import AwsError
from mistral_lib.aws.machines import Machine, Order
from mistral_lib.instance import capacity, launch_steps
from mistral_lib.instance.capacity import NoCapacityError
from mistral_lib.instance.launch_options import LaunchError, UpOptions
from mistral_lib.instance.records import Record
from mistral_lib.on_machine import user_data
from mistral_lib.run.progress import say

LIVE = ("pending", "running")
END_SECONDS = 420  # until a machine is terminated


def there(record: Record) -> list[Machine]:
    """The run's live workers in the account. Errors: AwsError."""
    return [machine for machine in machines.find(record.region, record.run, states=LIVE) if machine.worker]


def launched(record: Record, order: Order, places: Mapping[str, str], wait_minutes: float, already: int = 0) -> Machine:
    """The first machine of the order. Errors: as `capacity.launched`; for a cluster NoCapacityError says how many of its machines are there."""
    try:
        return capacity.launched(order, places, wait_minutes)
    except NoCapacityError as error:
        if record.nodes == 1:
            raise
        raise NoCapacityError(f"{already} of {record.nodes} machines of {record.run} are there: {error}; or with fewer --nodes") from None


def completed(record: Record, head: Machine, options: UpOptions) -> Record:
    """The record with all its workers; those that are missing are launched beside the head, each with its timers.

    Errors: NoCapacityError, QuotaError, LaunchError, AwsError; the machines that are there stay.
    """
    if record.nodes == 1:
        return record
    alive = there(record)
    record = record.with_step("machine", workers=[machine.id for machine in alive])
    missing = record.nodes - 1 - len(alive)
    if missing <= 0:
        return record
    say(f"{record.nodes - missing} of {record.nodes} machines of {record.run} are there; {missing} more in {head.zone}")
    launch_steps.require_quota(record, missing)
    places = {zone: subnet for zone, subnet in launch_steps.places(record, options.subnet).items() if zone == head.zone}
    launched(record, _order(record, missing, options.image or head.image), places, options.wait_minutes, record.nodes - missing)
    return _with_timers(record, [machine for machine in there(record) if machine.id not in record.workers])


def end_orphans(record: Record) -> None:
    """Terminate the workers whose head is gone: a new head comes with its own. Errors: LaunchError if AWS lists no head at all; AwsError."""
    orphans = there(record)
    if not orphans:
        return
    ids = ", ".join(machine.id for machine in orphans)
    if all(machine.worker for machine in machines.find(record.region, record.run, states=(*machines.COSTING, "terminated"))):
        raise LaunchError(f"{ids}: workers of {record.run}, whose head AWS does not list: repeat the command in a minute, or `instance down {record.run}`")  # fmt: skip
    say(f"{ids}: workers of {record.run}, whose head is gone; they are terminated")
    _terminated(record.region, [machine.id for machine in orphans])


def _order(record: Record, count: int, image: str) -> Order:
    """Workers that end with their head's time."""
    minutes = (record.ends_at - datetime.now(UTC)).total_seconds() / 60 if record.ends_at else 0.0
    if minutes < 1:
        raise LaunchError(f"the time of {record.machine} is over: `instance down {record.run}` removes it")
    script = user_data.script(replace(launch_steps.place_of(record, minutes), worker=True))
    whole = launch_steps.order(record, image)
    return replace(whole, user_data=script, count=count, worker=True, token=secrets.token_hex(12))


def _with_timers(record: Record, new: list[Machine]) -> Record:
    """The record with the new workers. If a timer in AWS cannot be set, they are terminated: none runs without it."""
    record = record.with_step("machine", workers=[*record.workers, *(machine.id for machine in new)])
    try:
        launch_steps.set_outside_timer(record)
    except BaseException:
        _terminated(record.region, [machine.id for machine in new])
        raise
    return record


def _terminated(region: str, ids: list[str]) -> None:
    """Terminates them all, then waits for each. Errors: AwsError."""
    for machine_id in ids:
        machines.terminate(region, machine_id)
    for machine_id in ids:
        if not machines.wait(region, machine_id, "terminated", END_SECONDS):
            raise AwsError(f"{machine_id} is not terminated after {END_SECONDS} s: run the command again", "NotTerminated")
