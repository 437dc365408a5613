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


def workers(actor: str = "RayWorker") -> list[int]:
    """The processes of the workers that have something to do or wait for it. actor: the name of their class."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and f"ray::{actor}".encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:  # it has just ended
            continue
    return sorted(found)


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
