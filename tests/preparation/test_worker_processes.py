"""Rows checked by worker processes: the same bytes as from one process, and no worker outlives its parent."""

import os
import subprocess
import sys
import time
from pathlib import Path
from queue import SimpleQueue

import pytest

from mistral_lib.corpus import sources
from mistral_lib.preparation import prepare, row_parts, worker_processes
from mistral_lib.preparation.record_store import BATCH
from mistral_lib.preparation.row_inspection import SIDES
from mistral_lib.run import Run, files, params
from tests.support.corpora import artefacts, deep_lines, other, rows


def test_small_corpora_start_no_worker_and_large_ones_leave_a_core_to_the_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, expected in ((1, 0), (2, 0), (3, 2), (4, 3), (64, worker_processes.MOST)):
        monkeypatch.setattr(worker_processes, "cores", lambda cores=cores: cores)
        assert worker_processes.worker_count(worker_processes.WORTH_IT) == expected
        assert worker_processes.worker_count(worker_processes.WORTH_IT - 1) == 0


def test_two_workers_find_what_one_process_finds(corpus: Path, settings: params.Settings) -> None:
    found = sources.find([str(corpus)], "corpus")
    secret = {"prompt": "Who?", "completion": "Write to jane.doe" + "@" + "acme-corp.com, she will know what to do.", "module": "x"}
    files.write_json_lines(corpus / "red.jsonl", [*rows("red", 3 * BATCH), secret, {"colour": "red"}])
    with open(corpus / "red.jsonl", "ab") as file:
        file.write(deep_lines())

    def inspected(workers: int) -> list:
        with worker_processes.inspecting(settings, workers) as inspect:
            return list(inspect(row_parts._batches(found, settings, 0, 0)))

    alone, many = inspected(0), inspected(2)
    assert len(alone) == len(many) == 4
    for (place, one), (other_place, same) in zip(alone, many, strict=True):
        assert place == other_place and one.stored.equals(same.stored)
        assert (one.domains, one.reasons, one.counts) == (same.domains, same.reasons, same.counts)
        assert all((one.columns[name] == same.columns[name]).all() for name in one.columns)
        assert all((one.signed[side].bands == same.signed[side].bands).all() for side in SIDES)


def test_two_workers_write_the_files_of_one_process(prepared: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    started, start = [], subprocess.Popen

    def counted(*args, **options) -> subprocess.Popen:
        started.append(args)
        return start(*args, **options)

    monkeypatch.setattr(worker_processes, "worker_count", lambda source_bytes: 2)
    monkeypatch.setattr(worker_processes.subprocess, "Popen", counted)
    with_workers = other(prepared, run_name="workers")
    prepare.prepare(with_workers)
    assert len(started) == 2 and artefacts(with_workers) == artefacts(prepared)


PARENT = """
import os, time
from mistral_lib.corpus.sources import Row
from mistral_lib.preparation import worker_processes
from mistral_lib.run.settings import Settings
with worker_processes.inspecting(Settings(), 2) as inspect:
    assert len(list(inspect((n, [(0, Row("a.jsonl:1", {"colour": "red"}))]) for n in range(8)))) == 8
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
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, env=os.environ)
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert len(workers) == 2 and all(map(is_running, workers))
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, workers))


def test_a_killed_worker_is_reported_with_the_remedy(settings: params.Settings) -> None:
    with worker_processes._child(settings) as child:
        free: SimpleQueue = SimpleQueue()
        free.put(child)
        assert worker_processes._ask(free, [(0, sources.Row("a.jsonl:1", {"colour": "red"}))]).reasons == ["unknown_shape"]
        child.kill()
        child.wait()
        with pytest.raises(ChildProcessError, match=r"ended with code -9.*run again, finished parts are kept"):
            worker_processes._ask(free, [(0, sources.Row("a.jsonl:2", {"colour": "red"}))])
