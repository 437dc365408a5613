"""When the machine ends by itself: time, budget, no progress."""

import os
from pathlib import Path

from mistral_lib.on_machine import ending
from mistral_lib.on_machine.ending import GRACE_SECONDS, Limits

HOUR = 3600.0


def test_the_run_is_stopped_ten_minutes_before_the_end_or_a_tenth_of_a_short_life() -> None:
    assert Limits(0.0, 10 * HOUR).stops_at == 10 * HOUR - 600
    assert Limits(0.0, HOUR / 2).stops_at == HOUR / 2 - 180
    assert Limits(0.0, HOUR).reached(HOUR - 361) is None
    assert Limits(0.0, HOUR).reached(HOUR - 359).startswith("time")


def test_the_budget_counts_earlier_machines() -> None:
    limits = Limits(0.0, 100 * HOUR, max_usd=5.0, usd_per_hour=1.0, usd_before=3.0)
    assert limits.reached(1.9 * HOUR) is None
    assert limits.reached(2 * HOUR) == "budget: 5.00 USD are spent, the limit is 5.00 USD"
    assert Limits(0.0, 100 * HOUR, usd_per_hour=50.0).reached(90 * HOUR) is None, "0 is no limit"


def test_a_machine_that_is_started_again_after_its_end_gets_time_for_new_orders() -> None:
    assert ending.first_end(0.0, 60, now=HOUR / 2) == HOUR
    assert ending.first_end(0.0, 60, now=30 * HOUR) == 30 * HOUR + GRACE_SECONDS


def test_a_run_hangs_if_nothing_is_written_in_any_of_its_folders(tmp_path: Path) -> None:
    for name in ("runs/quick/training/.progress.json", "models/model.safetensors"):
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text("x")
    for place in [tmp_path, *tmp_path.rglob("*")]:
        os.utime(place, (1000, 1000))
    folders = [tmp_path / "runs", tmp_path / "models", tmp_path / "absent"]
    os.utime(tmp_path / "models" / "model.safetensors", (5000, 5000))
    assert ending.last_progress(folders) == 5000
    assert ending.hung(folders, since=0, minutes=30, now=5000 + 1700) is None
    assert ending.hung(folders, since=0, minutes=30, now=5000 + 1801) == "hung: no file was written for 30 minutes, the limit is 30"
    assert ending.hung(folders, since=6000, minutes=30, now=7000) is None, "a run that has just started"
    assert ending.hung(folders, since=0, minutes=0, now=1e9) is None, "0 is no limit"
