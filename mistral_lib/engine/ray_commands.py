"""Commands side by side on a Ray cluster: each has one GPU, or so many cores, of a node to itself, and a log file.

Each is a child process of a Ray actor. If the actor is lost, all processes of its command get SIGTERM: supervised.py.
"""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mistral_lib.engine import ray_cluster
from mistral_lib.engine.job import library_hash
from mistral_lib.engine.ray_cluster import ClusterError
from mistral_lib.engine.ray_workers import FORWARDED, START_SECONDS
from mistral_lib.engine.supervised import STOP_SECONDS, Supervised
from mistral_lib.run import files, paths

SHARED_SECONDS = 10.0  # until a new file must be seen on shared storage
WAIT_SECONDS = 1.0  # of one look at a command
AT_ONCE = 2  # on a node without GPUs: while one saves or measures with one core, the other computes


@dataclass(frozen=True, slots=True)
class Share:
    """What each command gets of its node."""

    cores: int
    gpus: int

    def __str__(self) -> str:
        cores = f"{self.cores} core{'' if self.cores == 1 else 's'}"
        return f"{self.gpus} GPU, {cores}" if self.gpus else cores


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    words: tuple[str, ...]  # the arguments of Python
    log: Path


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a command. `lost`: its worker or node ended."""

    name: str
    kind: Literal["started", "ended", "lost"]
    node: str = ""
    code: int = 0
    seconds: float = 0.0
    reason: str = ""


def share(ray: Any, cores: int | None) -> Share:
    """One GPU and its part of the cores; without GPUs, the cores of the smallest node for AT_ONCE. cores: in place of that.

    Errors: ClusterError if no node has so much.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    gpus = int(ray_cluster.gpus(ray) > 0)
    able = [node for node in nodes if node.get("GPU" if gpus else "CPU", 0) >= 1]
    if not able:
        ray_cluster.cpus(ray)  # says what is missing
    parts = [int(node.get("CPU", 0) // (node["GPU"] if gpus else AT_ONCE)) for node in able]
    chosen = Share(max(1 - gpus, min(parts)) if cores is None else cores, gpus)
    most = max(int(node.get("CPU", 0)) for node in able)
    if chosen.cores > most:
        raise ClusterError(f"--cores {chosen.cores}: no node {'with a GPU ' if gpus else ''}has more than {most}")
    return chosen


@contextmanager
def marked(folder: Path) -> Iterator[Path]:
    """A file, by which a node is known to see this folder."""
    marker = folder / f".seen-by-every-node-{uuid.uuid4().hex}"
    files.write_text(marker, "")
    try:
        yield marker
    finally:
        marker.unlink(missing_ok=True)


class CommandWorker:
    """The node's side: an actor."""

    def start(self, command: Command, library: str, marker: Path, environment: dict[str, str]) -> tuple[str, str]:
        """Start the command; (node, what is wrong with it)."""
        node = ray_cluster.this_node()
        if library_hash() != library:
            return node, f"node {node} has another version of this library: install the same commit on every node"
        if not _seen(marker):
            return node, (
                f"node {node} does not see {marker.parent}: all nodes need the runs folder at the same place; "
                f"set {paths.VARIABLE} to a folder on storage that all of them mount"
            )
        path = os.pathsep.join([str(paths.project()), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self.child = Supervised(command.words, command.log, {**os.environ, **environment, "PYTHONPATH": path})
        return node, ""

    def wait(self) -> int | None:
        return self.child.wait(WAIT_SECONDS)

    def stop(self) -> int | None:
        return self.child.stop()


def _seen(marker: Path) -> bool:
    until = time.monotonic() + SHARED_SECONDS
    while not marker.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.2)
    return True


@dataclass(slots=True)
class _Running:
    command: Command
    actor: Any
    node: str = ""
    started: float = 0.0


class RayCommands:
    """ray: the package, connected to a cluster. marker: of `marked`."""

    def __init__(self, ray: Any, share: Share, marker: Path) -> None:
        self.ray, self.share, self.marker = ray, share, marker
        self.actor = ray.remote(num_cpus=share.cores, num_gpus=share.gpus, max_restarts=0, max_task_retries=0)(CommandWorker)
        self.running: dict[Any, _Running] = {}  # by the reference of what is awaited
        self.idle_since = time.monotonic()

    def start(self, command: Command) -> None:
        """Start it as soon as a node has room."""
        actor = self.actor.remote()
        forwarded = {name: os.environ[name] for name in FORWARDED if name in os.environ}
        threads = {"OMP_NUM_THREADS": str(max(1, self.share.cores))}
        environment = {**forwarded, **threads, paths.VARIABLE: str(paths.home())}
        self.running[actor.start.remote(command, library_hash(), self.marker, environment)] = _Running(command, actor)

    def events(self) -> list[Event]:
        """What happened within a second or two. Errors: ClusterError if a node cannot be used, or none has room."""
        if not self.running:
            time.sleep(WAIT_SECONDS)
            return []
        done, _ = self.ray.wait([*self.running], num_returns=1, timeout=WAIT_SECONDS)
        found = [event for reference in done if (event := self._event(reference, self.running.pop(reference)))]
        if not self.running or any(one.node for one in self.running.values()):
            self.idle_since = time.monotonic()
        elif time.monotonic() - self.idle_since > START_SECONDS:
            nodes = ", ".join(ray_cluster.nodes(self.ray)) or "none"
            raise ClusterError(f"no node has had {self.share} to spare for {START_SECONDS} s (nodes alive: {nodes})")
        return found

    def _event(self, reference: Any, one: _Running) -> Event | None:
        try:
            found = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:
            raise ClusterError(f"{one.command.name} cannot be started on its node: {error.cause or error}") from None
        except self.ray.exceptions.RayError as error:
            self.ray.kill(one.actor)
            return Event(one.command.name, "lost", one.node, reason=str(error).splitlines()[0])
        if not one.node:
            return self._started(one, *found)
        if found is None:
            self.running[one.actor.wait.remote()] = one
            return None
        self.ray.kill(one.actor)
        return Event(one.command.name, "ended", one.node, found, time.monotonic() - one.started)

    def _started(self, one: _Running, node: str, wrong: str) -> Event:
        if wrong:
            raise ClusterError(wrong)
        one.node, one.started = node, time.monotonic()
        self.running[one.actor.wait.remote()] = one
        return Event(one.command.name, "started", node)

    def close(self) -> None:
        """Stop all that run, and wait until they have saved."""
        stopping = [one.actor.stop.remote() for one in self.running.values() if one.node]
        for one in self.running.values():
            if not one.node:
                self.ray.kill(one.actor)
        if stopping:
            self.ray.wait(stopping, num_returns=len(stopping), timeout=STOP_SECONDS + 20)
        self.running.clear()
