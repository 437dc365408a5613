"""A Ray cluster of several nodes on this machine, each a process of its own, as Ray's own tests start it; and its workers, to be killed."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MEMORY = 256 * 2**20  # bytes of a node's object store: results are small


@contextmanager
def cluster(*cpus: int) -> Iterator[Any]:
    """A head and further nodes with so many CPUs each; its `address` is what ray_address takes."""
    from mistral_lib.engine import ray_cluster

    ray_cluster.imported()
    os.environ.setdefault("RAY_worker_niceness", "0")  # of Ray's workers otherwise 15: on a busy machine they would starve
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0], "object_store_memory": MEMORY, "include_dashboard": False})
    try:
        for count in cpus[1:]:
            started.add_node(num_cpus=count, object_store_memory=MEMORY)
        yield started
    finally:
        import ray

        ray.shutdown()
        started.shutdown()


def workers(address: str, actor: str = "RayWorker") -> list[int]:
    """The processes of a cluster's workers, busy or waiting. address: of the cluster, since several may be on this machine."""
    return [process for process, line in _processes() if f"ray::{actor}".encode() in line and address.encode() in _line(_parent(process))]


def _processes() -> list[tuple[int, bytes]]:
    """(process, command line) of all."""
    numbers = sorted(int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit())
    return [(number, _line(number)) for number in numbers]


def _line(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:  # it has just ended
        return b""


def _parent(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
