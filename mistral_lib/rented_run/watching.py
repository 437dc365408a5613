"""`watch`: what the machine and its run do, what they cost, and when and by which timers they stop.

Every look asks AWS and the bucket again and counts with the clock, so that a computer that slept, or lost its network, continues with
the next look. Nothing is changed anywhere.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from mistral_lib.aws import buckets, machines, schedules
from mistral_lib.aws.errors import AwsError
from mistral_lib.aws.machines import Machine
from mistral_lib.aws.schedules import Schedule
from mistral_lib.instance import records
from mistral_lib.instance.records import Record
from mistral_lib.on_machine import status_file
from mistral_lib.rented_run import cluster_lines
from mistral_lib.run import files

LIVE = ("pending", "running")
SILENT = timedelta(minutes=3)  # without a report of the machine, which makes one every 20 seconds
SPOT_REASONS = ("Server.SpotInstanceTermination", "Server.SpotInstanceShutdown")  # AWS's words for a machine that it took away
EXIT_CODES = {"complete": 0, "ended": 1, "interrupted": 3, "working": 4}
CLEAR = "\033[H\033[J"  # on a terminal, before each look


@dataclass(frozen=True)
class Look:
    """One moment. status: machine/status.json of this machine, None if it has not reported yet."""

    record: Record
    machine: Machine | None
    status: dict[str, Any] | None
    timer: Schedule | None
    moment: datetime
    workers: tuple[str, ...] = ()  # of a cluster, as lines of a terminal

    @property
    def alive(self) -> bool:
        return self.machine is not None and self.machine.state in LIVE

    @property
    def word(self) -> str:
        """complete; interrupted by AWS, which took a spot machine away; ended in another way; or working."""
        status = self.status or {}
        if status.get("complete"):
            return "complete"
        if self.alive and status.get("phase") != "ended":
            return "working"
        taken = self.machine is not None and any(reason in self.machine.reason for reason in SPOT_REASONS)
        return "interrupted" if taken or status.get("spot_notice") else "ended"

    @property
    def hours(self) -> float:
        """From the launch until now, or until the last report of a machine that is gone."""
        if self.record.launched is None:
            return 0.0
        reported = _time(self.status, "updated")
        end = self.moment if self.alive or reported is None else reported
        return max(0.0, (end - self.record.launched).total_seconds() / 3600)

    @property
    def usd(self) -> float:
        """Of all machines of the run so far, without disk and bucket, which `list` shows."""
        before = (self.status or {}).get("usd_before", 0.0)
        return before + self.hours * self.record.usd_per_hour_of_all


def look(run: str) -> Look:
    """Errors: RecordError, AwsError."""
    record = records.required(run)
    status = own_status(record)
    timers = [timer for timer in schedules.existing(record.region, run) if timer.machine_id == record.machine]
    machine = machines.get(record.region, record.machine)
    return Look(record, machine, status, timers[0] if timers else None, datetime.now(UTC), cluster_lines.of(record))


def own_status(record: Record) -> dict[str, Any] | None:
    """machine/status.json of this machine; None if it has not reported yet: an earlier machine of the run may have. Errors: AwsError."""
    status = buckets.get_json(record.bucket, record.prefix + status_file.NAME, record.region)
    if status and status.get("machine"):
        return status if status["machine"] == record.machine else None
    updated = _time(status, "updated")
    earlier = updated is not None and record.launched is not None and updated < record.launched
    return None if earlier else status


def watch(run: str, once: bool = False, seconds: float = 20.0, pause: Callable[[float], None] = time.sleep) -> int:
    """Print what is seen until the run is complete or the machine is gone. once: one look. Returns one of EXIT_CODES.

    seconds: between two looks. Errors: RecordError; with `once` also AwsError, which otherwise is shown and tried again.
    """
    while True:
        try:
            seen = look(run)
        except AwsError as error:
            if once:
                raise
            _show(
                f"{_local(datetime.now(UTC))}: nothing was seen: {error}\nnext look in {seconds:g} s; the machine works on, and so do its timers"
            )
            pause(seconds)
            continue
        _show(text(seen))
        if once or seen.word != "working":
            return EXIT_CODES[seen.word]
        pause(seconds)


def _show(lines: str) -> None:
    print(f"{CLEAR if sys.stdout.isatty() else ''}{lines}", flush=True)


# -- as text ------------------------------------------------------------------------------------------------------------


def text(seen: Look) -> str:
    """The look as lines of a terminal."""
    lines = [_machine_line(seen), _cost_line(seen), *seen.workers, *_run_lines(seen), *_stop_lines(seen), _next_line(seen)]
    return "\n".join(filter(None, lines))


def _machine_line(seen: Look) -> str:
    record, state = seen.record, seen.machine.state if seen.machine else "gone"
    kind = "spot" if record.spot else "on demand"
    attempt = f", machine {record.attempt} of this run" if record.attempt > 1 else ""
    return f"{_local(seen.moment)}  {record.run}: {record.machine} ({record.type}, {kind}, {record.region}{attempt}) is {state}"


def _cost_line(seen: Look) -> str:
    limit = f" of at most {seen.record.max_usd:.2f}" if seen.record.max_usd else ""
    return f"{seen.hours:.1f} hours, about {seen.usd:.2f} USD so far{limit} ({seen.record.usd_per_hour_of_all:g} USD per hour; disk and bucket: `instance list`)"


def _run_lines(seen: Look) -> list[str]:
    """What the machine reports."""
    status = seen.status
    if status is None:
        return (
            ["no report of this machine yet: it installs its packages for some minutes"] if seen.alive else ["this machine never reported"]
        )
    age = seen.moment - _time(status, "updated")
    silent = seen.alive and status["phase"] != "ended" and age > SILENT
    lines = [
        f"NO REPORT since {_minutes(age)}, one is due every 20 seconds: the machine may hang; its timers end it" if silent else "",
        f"{status['phase']}: {status['doing']} ({_minutes(age)} ago)",
        f"trouble, tried again: {status['trouble']}" if status["trouble"] else "",
        "SPOT NOTICE: AWS takes this machine away; the run saves and uploads" if status["spot_notice"] else "",
        "AWS advises to leave this spot machine soon" if status["rebalance"] and not status["spot_notice"] else "",
        f"stages: {', '.join(f'{stage} {word}' for stage, word in status['stages'].items())}" if status["stages"] else "",
        status["run_state"] or "",
        _gpu_line(status["gpu"]),
        f"exit code of the run: {status['exit_code']}" if status["exit_code"] is not None else "",
        f"in the bucket: {files.size_text(status['results_bytes'])} of results",
        *(f"  | {line}" for line in status["log"]),
        f"ends because of: {status['reason']}" if status["reason"] else "",
    ]
    return [line for line in lines if line]


def _gpu_line(gpu: dict[str, float] | None) -> str:
    if not gpu:
        return ""
    return f"GPU: {gpu['use_percent']:.0f} % in use, {gpu['memory_used_mib']:,.0f} of {gpu['memory_mib']:,.0f} MiB"


def _stop_lines(seen: Look) -> list[str]:
    """When the machine stops, and what stops it."""
    if not seen.alive:
        return []
    ends_at = seen.record.ends_at or seen.moment
    lines = [
        "it stops when the run is complete and uploaded, fails, hangs, or has used its budget; and in any case:",
        f"  at {_local(ends_at)} (in {_minutes(ends_at - seen.moment)}) by the timer on the machine",
    ]
    if seen.timer:
        return [*lines, f"  at {_local(seen.timer.at)} by the timer in AWS (schedule {seen.timer.name}), if the machine's own fails"]
    return [*lines, "  NO TIMER IN AWS is set for this machine: `python -m mistral_lib instance up <file>` sets it again"]


def _next_line(seen: Look) -> str:
    run = seen.record.run
    return {
        "complete": f"complete. Next: python -m mistral_lib instance fetch {run}, then instance down {run}",
        "interrupted": f"AWS took the machine away. `instance up <file>`, then `instance run <file>` resume from the last uploaded checkpoint "
        f"(`run --retry N` does it by itself); `instance fetch {run}` gets what there is",
        "ended": f"the machine has ended, and the run is not complete. `instance fetch {run}` gets what there is; machine/log.txt and "
        f"machine/setup.txt in s3://{seen.record.bucket}/{seen.record.prefix} say more; `instance down {run}` removes the rest",
        "working": "",
    }[seen.word]


def _time(status: dict[str, Any] | None, key: str) -> datetime | None:
    return datetime.fromisoformat(status[key]).astimezone(UTC) if status and status.get(key) else None


def _minutes(span: timedelta) -> str:
    """A span of time in the unit that suits it."""
    seconds = max(0.0, span.total_seconds())
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _local(moment: datetime) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
