"""What `watch` shows, and that neither a sleeping computer nor a network that is away ends it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mistral_lib.aws import names, roles, schedules
from mistral_lib.aws.errors import AwsError
from mistral_lib.instance.records import Record
from mistral_lib.on_machine.status_file import MachineStatus, Masker
from mistral_lib.rented_run import watching
from tests.support import rented
from tests.support.aws_stand_in import FalseAws


def report(record: Record, minutes_ago: float = 0.1, **changes: Any) -> None:
    """The machine writes its status."""
    moment = (datetime.now(UTC) - timedelta(minutes=minutes_ago)).isoformat()
    status = MachineStatus(
        record.run, "running", "the run works", moment, record.launched.isoformat(), record.ends_at.isoformat(), record.machine
    )
    rented.put(record, "machine/status.json", json.dumps(json.loads(status.to_json(Masker())) | changes).encode())


@pytest.fixture
def record(aws: FalseAws, home: Path) -> Record:
    """A machine that runs for two hours."""
    launched = datetime.now(UTC) - timedelta(hours=2)
    return rented.rent(launched=launched, ends_at=launched + timedelta(hours=12), max_usd=5.0)


def test_a_look_shows_machine_run_gpu_log_costs_and_both_timers(record: Record) -> None:
    role = roles.ensure_timer(record.run, record.region)
    schedules.ensure(record.run, record.region, record.machine, record.ends_at + timedelta(minutes=10), role)
    gpu = {"use_percent": 97.0, "memory_used_mib": 14210.0, "memory_mib": 15360.0}
    report(record, gpu=gpu, log=["step 3/8"], stages={"data": "complete"}, run_state="small: running, training", results_bytes=2**20)
    shown = watching.text(watching.look("small"))
    for part in (record.machine, "is running", "2.0 hours, about 1.05 USD so far of at most 5.00", "running: the run works", "data complete",
                 "small: running, training", "97 % in use, 14,210 of 15,360 MiB", "| step 3/8", "1.00 MiB of results",
                 "(in 10.0 h) by the timer on the machine", f"schedule {names.of('small').schedule}"):  # fmt: skip
        assert part in shown, (part, shown)
    assert watching.watch("small", once=True) == watching.EXIT_CODES["working"]


def test_a_missing_timer_and_a_silent_machine_are_said_loudly(record: Record) -> None:
    report(record, minutes_ago=7)
    shown = watching.text(watching.look("small"))
    assert "NO TIMER IN AWS" in shown and "NO REPORT since 7 min" in shown


@pytest.mark.parametrize(("minutes_ago", "machine"), [(300, None), (0.1, "i-0earlier")])
def test_the_report_of_an_earlier_machine_does_not_count(record: Record, minutes_ago: float, machine: str | None) -> None:
    """An older report without the machine's id, and one of another machine from the same second."""
    report(record, minutes_ago=minutes_ago, complete=True, machine=machine)
    seen = watching.look("small")
    assert seen.word == "working" and "no report of this machine yet" in watching.text(seen)


@pytest.mark.parametrize(
    ("changes", "word", "next_step"),
    [
        ({"phase": "ended", "complete": True, "reason": "complete"}, "complete", "instance fetch small, then instance down small"),
        ({"phase": "ended", "reason": "failed: the run ended with exit code 1", "exit_code": 1}, "ended", "machine/log.txt"),
        ({"phase": "ended", "spot_notice": {"action": "terminate"}}, "interrupted", "--retry N"),
        ({}, "ended", "instance fetch small"),
    ],
)
def test_the_end_of_a_machine_is_named_with_the_next_step(record: Record, changes: dict[str, Any], word: str, next_step: str) -> None:
    report(record, **changes)
    rented.end(record)
    seen = watching.look("small")
    assert seen.word == word and next_step in watching.text(seen) and watching.watch("small") == watching.EXIT_CODES[word]


def test_costs_of_a_machine_that_is_gone_are_counted_to_its_last_report(record: Record) -> None:
    report(record, minutes_ago=60, phase="ended")
    rented.end(record)
    assert watching.look("small").hours == pytest.approx(1.0, abs=0.01)


def test_a_network_that_is_away_and_a_sleeping_computer_do_not_end_it(
    aws: FalseAws, record: Record, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(record)
    aws.fail("s3", "GetObject", "RequestTimeTooSkewed", 403, times=1)

    def slept(seconds: float) -> None:
        """The laptop wakes up hours later, when the machine has ended."""
        if len(pauses) == 1:
            report(record, phase="ended", complete=True)
            rented.end(record)
        pauses.append(seconds)

    pauses: list[float] = []
    assert watching.watch("small", seconds=7, pause=slept) == 0
    printed = capsys.readouterr().out
    assert pauses == [7, 7] and "nothing was seen" in printed and "next look in 7 s" in printed and "complete. Next:" in printed
    aws.fail("s3", "GetObject", "RequestTimeTooSkewed", 403, times=1)
    with pytest.raises(AwsError):
        watching.watch("small", once=True)
