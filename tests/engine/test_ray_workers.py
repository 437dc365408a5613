"""Work on a Ray cluster of two nodes: in order, with the errors of the work, and nothing is lost with a worker."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mistral_lib.engine import ray_cluster, ray_workers
from mistral_lib.engine.job import Finished, Job, WorkerLostError
from mistral_lib.engine.ray_cluster import ClusterError
from mistral_lib.engine.ray_workers import RayEngine
from tests.support import ray_nodes

pytest.importorskip("ray", reason="ray is an extra: pip install -e .[ray]")
MODULE = "tests.engine.test_ray_workers"


def tenfold(factor: int, marks: str = "") -> Callable[[int], Finished]:
    """Work that fails for 13, ends its worker for each negative number, and once for each number that has no mark yet."""

    def work(item: int) -> Finished:
        if item == 13:
            raise ValueError("13 is refused")
        mark = Path(marks) / str(item)
        if item < 0 or (marks and item % 3 == 0 and not mark.exists()):
            if marks:
                mark.touch()
            os._exit(7)
        time.sleep(0.01)
        return Finished(item * factor, rows=5)

    return work


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with ray_nodes.cluster(1, 1) as cluster, ray_cluster.connected(cluster.address) as connected:
        yield connected


@pytest.fixture
def engine(ray: Any) -> Iterator[RayEngine]:
    with closing(RayEngine(ray)) as opened:
        yield opened


def items(*numbers: int) -> list[tuple[str, int]]:
    return [(f"item {number}", number) for number in numbers]


def test_results_come_in_order_from_both_nodes_with_their_figures(engine: RayEngine) -> None:
    assert engine.workers == 2

    def until_both_have_worked() -> Iterator[tuple[str, int]]:
        """One worker may start much later than the other."""
        for number in range(14, 20_000):
            if len(engine.use) == 2:
                return
            yield f"item {number}", number

    found = list(engine.map(Job(f"{MODULE}:tenfold", (10,)), until_both_have_worked()))
    assert found == [n * 10 for n in range(14, 14 + len(found))] and len(engine.use) == 2
    assert sum(one.rows for one in engine.use.values()) == len(found) * 5
    assert "Ray, 2 nodes (" in engine.described() and "rows/s, at most" in engine.described()


def test_an_error_is_that_of_the_work_in_its_place(engine: RayEngine) -> None:
    found = engine.map(Job(f"{MODULE}:tenfold", (10,)), items(12, 13, 14))
    assert next(found) == 120
    with pytest.raises(ValueError, match="13 is refused"):
        next(found)


def test_a_worker_that_ends_costs_its_item_and_not_the_run(engine: RayEngine, tmp_path: Path) -> None:
    found = list(engine.map(Job(f"{MODULE}:tenfold", (10, str(tmp_path))), items(*range(1, 9))))
    assert found == [n * 10 for n in range(1, 9)] and len(list(tmp_path.iterdir())) == 2


def test_an_item_that_costs_three_workers_ends_the_run_and_is_named(engine: RayEngine) -> None:
    with pytest.raises(WorkerLostError, match=r"item -1: 3 workers were lost with it.*run again, finished parts are kept"):
        list(engine.map(Job(f"{MODULE}:tenfold", (10,)), items(1, -1, 2)))


def test_another_version_of_the_library_on_a_node_is_refused(engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_workers, "library_hash", lambda: "of another commit")
    with pytest.raises(ClusterError, match="has another version of this library: install the same commit on every node"):
        list(engine.map(Job(f"{MODULE}:tenfold", (10,)), items(1)))


def test_a_node_that_is_removed_costs_its_items_and_not_the_run(ray: Any) -> None:
    import ray as package

    package.shutdown()
    with ray_nodes.cluster(1, 1) as cluster, ray_cluster.connected(cluster.address) as connected:
        engine = RayEngine(connected)
        found = engine.map(Job(f"{MODULE}:tenfold", (10,)), items(*range(100, 700)))
        first = [next(found) for _ in range(5)]
        lost = cluster.list_all_nodes()[1]
        threading.Thread(target=cluster.remove_node, args=(lost,), kwargs={"allow_graceful": False}).start()
        assert first + list(found) == [n * 10 for n in range(100, 700)]


def test_a_cluster_that_is_not_there_and_a_missing_package_are_clear_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray as package

    package.shutdown()
    with (
        pytest.raises(ClusterError, match=r"ray_address = '127.0.0.1:9': no cluster.*ray start --head.*engine: local"),
        ray_cluster.connected("127.0.0.1:9"),
    ):
        pass
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=rf"needs the package ray on every node: pip install ray=={ray_cluster.VERSION}"):
        ray_cluster.imported()
