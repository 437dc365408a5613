"""The command lines that start Ray on a head and on a worker. Every port is fixed, so that one rule of the security group is enough.

Ray listens on all addresses of the machine, whatever it is told: the security group admits the cluster's own machines alone.
Source: Ray, "Configuring Ray: ports"; `ray start --help` of Ray 2.60.
"""

from dataclasses import dataclass
from pathlib import Path

NODE, HEAD = "MISTRAL_NODE", "MISTRAL_HEAD"  # variables of the unit: this machine's address; the head's, with its port
AUTHENTICATION, NO_TOKEN = (
    "RAY_AUTH_MODE",
    "disabled",
)  # of every process of the cluster: nobody outside the group reaches it, and no secret travels


@dataclass(frozen=True)
class Ports:
    """TCP ports of one machine."""

    head: int = 6379  # of the head alone: where workers and the run connect
    node_manager: int = 6380
    object_manager: int = 6381
    runtime_env_agent: int = 6382
    agent_grpc: int = 6383
    agent_http: int = 6384
    metrics: int = 6385
    first_worker: int = 10_002
    last_worker: int = 19_999


def head(ray: Path, folder: Path, ports: Ports = Ports()) -> str:
    """ray: the program; folder: for its sockets, logs and spilled objects. The dashboard is off."""
    return f"{_start(ray, folder, ports)} --head --port={ports.head} --include-dashboard=false"


def worker(ray: Path, folder: Path, ports: Ports = Ports()) -> str:
    return f"{_start(ray, folder, ports)} --address=${{{HEAD}}}"


def _start(ray: Path, folder: Path, ports: Ports) -> str:
    return (
        f"{ray} start --block --disable-usage-stats --node-ip-address=${{{NODE}}} --temp-dir={folder} "
        f"--node-manager-port={ports.node_manager} --object-manager-port={ports.object_manager} "
        f"--runtime-env-agent-port={ports.runtime_env_agent} --dashboard-agent-grpc-port={ports.agent_grpc} "
        f"--dashboard-agent-listen-port={ports.agent_http} --metrics-export-port={ports.metrics} "
        f"--min-worker-port={ports.first_worker} --max-worker-port={ports.last_worker}"
    )
