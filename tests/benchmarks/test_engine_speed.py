"""The data stage by this process and by a Ray cluster of two nodes on this machine: rows/s, start-up, memory of each worker, the same bytes.

ROWS=1000000 WORKERS=2 pytest -s tests/benchmarks/test_engine_speed.py      on two cores a cluster is no faster: it shows what it costs
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mistral_lib.engine import ray_cluster, ray_workers
from mistral_lib.engine.job import Job
from mistral_lib.preparation import prepare
from mistral_lib.run import Run, files
from tests.support import ray_nodes
from tests.support.corpora import artefacts, other, rows, short_run

pytest.importorskip("ray", reason="ray is an extra: pip install -e .[ray]")
EACH = 100_000  # rows of a file


def corpus(home: Path, count: int) -> None:
    for start in range(0, count, EACH):
        files.write_json_lines(home / "corpora" / "many" / f"{start:09}.jsonl", rows(f"part{start}", min(EACH, count - start)))


def prepared(run: Run) -> tuple[float, dict]:
    """(seconds, artefacts) of the data stage."""
    started = time.perf_counter()
    prepare.prepare(run)
    return time.perf_counter() - started, artefacts(run)


def test_engines_side_by_side(home: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    count, workers = int(os.environ.get("ROWS", "20000")), [int(word) for word in os.environ.get("WORKERS", "2").split(",")]
    corpus(home, count)
    own = {"corpus_paths": ["corpora/many"], "base_model": tiny_model, "most_repeated_pattern": 10**9}
    here = Run.open(short_run(run_name="here", **own))
    alone, expected = prepared(here)
    with capsys.disabled(), ray_nodes.cluster(2, 2) as cluster:
        print(f"\n{count:,} rows, one process: {alone:,.1f} s, {count / alone:,.0f} rows/s, peak {peak(here)} MiB")
        for number in workers:
            monkeypatch.setattr(ray_cluster, "cpus", lambda ray, number=number: number)
            print(f"Ray, {number} workers, until the first answer: {start_up(cluster.address):,.1f} s")
            rayed = other(here, run_name=f"ray-{number}", engine="ray", ray_address=cluster.address)
            seconds, found = prepared(rayed)
            assert found == expected
            print(
                f"Ray, {number} workers: {seconds:,.1f} s, {count / seconds:,.0f} rows/s, the same bytes, peak of the driver {peak(rayed)} MiB"
            )


def start_up(address: str) -> float:
    started = time.perf_counter()
    with ray_cluster.connected(address) as ray:
        engine = ray_workers.RayEngine(ray)
        list(engine.map(Job("tests.benchmarks.test_engine_speed:nothing"), [("", None)] * engine.workers))
        engine.close()
    return time.perf_counter() - started


def peak(run: Run) -> int:
    return files.read_json(run.folder / "data" / "report.json")["peak_memory_mib"]


def nothing() -> Callable[[None], None]:
    """Work that loads what a worker loads, and does nothing."""
    return lambda item: None
