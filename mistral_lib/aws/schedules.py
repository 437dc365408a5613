"""The outside timer: a one-time EventBridge schedule that terminates the machine even if the machine and this computer are dead.

A machine that was there before the run is stopped instead, since its disks are not the run's.

Source: EventBridge Scheduler, "Schedule types" (one-time), "Using universal targets" and "Deleting a schedule after completion".
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mistral_lib.aws import errors, names, regions, session, waiting

ROLE_SECONDS = 90  # until a new role can be used
GROUP = "default"


@dataclass(frozen=True, slots=True)
class Schedule:
    name: str
    region: str
    run: str
    at: datetime  # UTC
    machine_id: str


def ensure(run: str, region: str, machine_id: str, at: datetime, role_arn: str, stop: bool = False, worker: bool = False) -> Schedule:
    """Make the run's schedule, or move it to this machine and moment. at: aware, in the future. stop: the machine is stopped, not
    terminated. worker: of a cluster; each has a schedule of its own. Errors: ValueError, AwsError."""
    if at.tzinfo is None or at <= datetime.now(UTC):
        raise ValueError(f"the outside timer is set for {at.isoformat()}: a moment in the future with its time zone is expected")
    client, asked = session.client("scheduler", region), _request(run, region, machine_id, at, role_arn, stop)
    asked["Name"] = name_of_worker(machine_id) if worker else asked["Name"]
    with errors.explained(f"making the schedule {asked['Name']}"):
        for left in waiting.tries(ROLE_SECONDS):
            try:
                _put(client, asked)
                break
            except client.exceptions.ValidationException as error:
                if not ("role" in str(error).lower() and left > 0):
                    raise
    return Schedule(asked["Name"], region, run, at.astimezone(UTC).replace(microsecond=0), machine_id)


def get(run: str, region: str) -> Schedule | None:
    """The run's schedule, or None if it has none. Errors: AwsError."""
    with errors.explained(f"reading the schedule of {run}"):
        return _read(session.client("scheduler", region), region, names.of(run).schedule)


def existing(region: str, run: str | None = None) -> list[Schedule]:
    """The workbook's schedules in the region. Errors: AwsError."""
    client = session.client("scheduler", region)
    with errors.explained(f"listing the schedules in {region}"):
        pages = client.get_paginator("list_schedules").paginate(GroupName=GROUP, NamePrefix=f"{names.TAG}-")
        listed = [one["Name"] for page in pages for one in page["Schedules"]]
        found = [schedule for name in listed if (schedule := _read(client, region, name))]
    return [schedule for schedule in found if run in (None, schedule.run)]


def delete(run: str, region: str) -> None:
    """Delete the run's schedules, those of its workers included; one that is gone is accepted. Errors: AwsError."""
    client = session.client("scheduler", region)
    for name in sorted({names.of(run).schedule, *(one.name for one in existing(region, run))}):
        with errors.explained(f"deleting the schedule {name} of {run}"):
            try:
                client.delete_schedule(Name=name, GroupName=GROUP)
            except client.exceptions.ResourceNotFoundException:
                continue


def name_of_worker(machine_id: str) -> str:
    """The schedule's name of a worker."""
    return f"{names.TAG}-{machine_id}"


def _request(run: str, region: str, machine_id: str, at: datetime, role_arn: str, stop: bool) -> dict[str, Any]:
    action = "stopInstances" if stop else "terminateInstances"
    target = f"arn:{regions.partition(region)}:scheduler:::aws-sdk:ec2:{action}"
    return {
        "Name": names.of(run).schedule, "GroupName": GROUP, "Description": f"mistral-workbook run {run}",
        "ScheduleExpression": f"at({at.astimezone(UTC):%Y-%m-%dT%H:%M:%S})", "ScheduleExpressionTimezone": "UTC",
        "FlexibleTimeWindow": {"Mode": "OFF"}, "ActionAfterCompletion": "DELETE", "State": "ENABLED",
        "Target": {
            "Arn": target, "RoleArn": role_arn, "Input": json.dumps({"InstanceIds": [machine_id]}),
            "RetryPolicy": {"MaximumEventAgeInSeconds": 86400, "MaximumRetryAttempts": 185},
        },
    }  # fmt: skip


def _put(client: Any, asked: dict[str, Any]) -> None:
    try:
        client.create_schedule(**asked)
    except client.exceptions.ConflictException:
        client.update_schedule(**asked)


def _read(client: Any, region: str, name: str) -> Schedule | None:
    """None if it was deleted since it was listed, or is not one of the workbook's."""
    try:
        found = client.get_schedule(Name=name, GroupName=GROUP)
    except client.exceptions.ResourceNotFoundException:
        return None
    run = found.get("Description", "").removeprefix("mistral-workbook run ")
    ids = json.loads(found["Target"].get("Input", "{}")).get("InstanceIds", [""])
    if name not in (names.of(run).schedule, name_of_worker(ids[0])):
        return None
    moment = found["ScheduleExpression"].removeprefix("at(").removesuffix(")")
    return Schedule(name, region, run, datetime.fromisoformat(moment).replace(tzinfo=UTC), ids[0])
