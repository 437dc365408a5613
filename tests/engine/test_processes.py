"""Work in worker processes: the same results in the same order, and no worker outlives its parent."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import pytest

from mistral_lib.corpus import stretches
from mistral_lib.engine import processes
from mistral_lib.engine.job import Finished, Job, WorkerLostError
from mistral_lib.preparation import explore, prepare
from mistral_lib.run import Run
from tests.support.corpora import artefacts, other

TENFOLD = Job("tests.engine.test_processes:tenfold", (10,))


def tenfold(factor: int) -> Callable[[int], Finished]:
    def work(item: int) -> Finished:
        if item == 13:
            raise ValueError("13 is refused")
        return Finished(item * factor, rows=1)

    return work


def test_small_corpora_start_no_worker_and_large_ones_leave_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 0), (2, 0), (3, 2), (4, 3), (64, processes.MOST)):
        monkeypatch.setattr(processes, "cores", lambda cores=cores: cores)
        assert processes.worker_count(processes.WORTH_IT) == expected
        assert processes.worker_count(processes.WORTH_IT - 1) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_results_come_in_order_and_an_error_is_that_of_the_work(workers: int) -> None:
    engine = processes.ThisMachine(workers)
    assert list(engine.map(TENFOLD, [(f"item {n}", n) for n in range(9)])) == [n * 10 for n in range(9)]
    found = engine.map(TENFOLD, [("a", 12), ("b", 13), ("c", 14)])
    assert next(found) == 120
    with pytest.raises(ValueError, match="13 is refused"):
        next(found)


def test_two_workers_write_the_files_of_one_process(prepared: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    explore.explore(prepared)
    started, start = [], subprocess.Popen

    def counted(*args, **options) -> subprocess.Popen:
        started.append(args)
        return start(*args, **options)

    monkeypatch.setattr(processes, "worker_count", lambda source_bytes: 2)
    monkeypatch.setattr(processes.subprocess, "Popen", counted)
    monkeypatch.setattr(stretches, "SIZE", 30_000)
    with_workers = other(prepared, run_name="workers")
    explore.explore(with_workers)
    prepare.prepare(with_workers)
    assert len(started) == 8 and artefacts(with_workers) == artefacts(prepared)  # two for each look at the files, and for each reading
    for name in ("inventory.json", "index.parquet", "lengths.parquet"):
        assert (with_workers.folder / "corpus" / name).read_bytes() == (prepared.folder / "corpus" / name).read_bytes()


def slow() -> Callable[[int], int]:
    def work(item: int) -> int:
        if item > 1:
            time.sleep(600)
        return item

    return work


SLOW = Job("tests.engine.test_processes:slow")


def test_an_interrupt_does_not_wait_for_what_was_given_out() -> None:
    found = processes.ThisMachine(2).map(SLOW, [("", n) for n in range(9)])
    assert next(found) == 0
    with pytest.raises(KeyboardInterrupt):
        found.throw(KeyboardInterrupt())


PARENT = """
import os, time
from mistral_lib.engine import processes
from tests.engine.test_processes import SLOW
found = processes.ThisMachine(2).map(SLOW, [("", n) for n in range(8)])
next(found)
print(open(f"/proc/self/task/{os.getpid()}/children").read(), flush=True)
time.sleep(600)
"""


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are listed in /proc")
def test_workers_end_with_a_parent_that_is_killed(home: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=os.environ, cwd=Path(__file__).parents[2])
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(map(is_running, workers))
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


def test_a_killed_worker_is_reported_with_the_remedy() -> None:
    with processes._child(TENFOLD) as child:
        free: SimpleQueue = SimpleQueue()
        free.put(child)
        assert processes._ask(free, "stretch 1", 1) == 10
        child.kill()
        child.wait()
        with pytest.raises(WorkerLostError, match=r"stretch 2: .*ended with code -9.*run again, finished parts are kept"):
            processes._ask(free, "stretch 2", 2)
