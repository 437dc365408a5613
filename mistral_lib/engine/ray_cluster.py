"""A Ray cluster: found by its address, checked, its nodes. Needs the package ray.

Source: docs.ray.io, "Ray Core API": ray.init, ray.nodes
"""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VERSION = "2.60.0"  # of ray; all nodes need the same
AUTO = "auto"  # the cluster of this machine
CONNECT_SECONDS = 10
LOCAL = "local"  # one that is started on this machine, and ends with the work


class ClusterError(RuntimeError):
    """The cluster cannot be used; the message gives the reason and what to do."""


def imported() -> Any:
    """The package ray. Errors: ClusterError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError:
        raise ClusterError(f"engine: ray needs the package ray on every node: pip install ray=={VERSION}, or set engine: local") from None
    return ray


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """The package ray, connected to the cluster; a connection that was there is used and kept. Errors: ClusterError."""
    ray = imported()
    if ray.is_initialized():
        yield ray
        return
    try:
        _check_that_it_answers(address)
        ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=False if address == LOCAL else None)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterError(
            f"ray_address = {address!r}: no cluster can be used there ({str(error).splitlines()[0]}). Start one with `ray start --head`, "
            f"give the address of its head as HOST:PORT, start one for this run alone with ray_address: {LOCAL}, or set engine: local"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_that_it_answers(address: str) -> None:
    """Ray itself waits for ever for a head that does not answer. Errors: OSError, ValueError."""
    if address == LOCAL:
        return
    if address == AUTO:
        noted = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"  # where `ray start` notes it
        address = os.environ.get("RAY_ADDRESS") or (noted.read_text().strip() if noted.exists() else "")
    if address:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise ValueError(f"{address} is not HOST:PORT")
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()


def cpus(ray: Any) -> int:
    """The processor cores of all nodes, as Ray counts them. Errors: ClusterError if there is none."""
    count = int(ray.cluster_resources().get("CPU", 0))
    if count < 1:
        raise ClusterError("the Ray cluster has no CPU to work with: start a node with `ray start --address=HEAD:PORT --num-cpus=N`")
    return count


def gpus(ray: Any) -> int:
    return int(ray.cluster_resources().get("GPU", 0))


def nodes(ray: Any) -> list[str]:
    """The names of the nodes that are alive."""
    return sorted(name(node["NodeManagerAddress"], node["NodeID"]) for node in ray.nodes() if node["Alive"])


def this_node() -> str:
    """The name of the node on which a worker runs."""
    import ray

    return name(ray.util.get_node_ip_address(), ray.get_runtime_context().get_node_id())


def name(address: str, identity: str) -> str:
    """A node is named by its address; several on one machine differ in the begin of their identity."""
    return f"{address}/{identity[:4]}"
