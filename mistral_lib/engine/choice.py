"""The engine that a run's parameters name."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from mistral_lib.engine import processes, ray_cluster, ray_workers
from mistral_lib.engine.job import Engine


@contextmanager
def of_settings(settings: Any, source_bytes: int) -> Iterator[Engine]:
    """source_bytes: size of what is read; a small corpus starts no worker processes. Errors: ClusterError."""
    if settings.engine == "ray":
        with ray_cluster.connected(settings.ray_address) as ray, closing(ray_workers.RayEngine(ray)) as engine:
            yield engine
    else:
        yield processes.ThisMachine(processes.worker_count(source_bytes))
