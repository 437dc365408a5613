"""Work on a Ray cluster: one actor for each core. An item whose worker or node is lost is given to another one.

Ray's own pool (ray.util.ActorPool) keeps the order too, but raises when an actor dies, and drops the items that it had.
"""

import os
import resource
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mistral_lib.engine import ray_cluster
from mistral_lib.engine.job import Finished, Job, Named, WorkerLostError, answer, library_hash, result

AHEAD = 8  # items for each worker that may be finished before the one that is wanted next
ATTEMPTS = 3  # workers that may be lost with one item
START_SECONDS = 180  # until the first worker must have started
POLL_SECONDS = 1.0
FORWARDED = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")  # environment variables; a key is never sent


class RayWorker:
    """The worker's side: an actor."""

    def __init__(self, library: str) -> None:
        self.library, self.work = library, None
        self.node = ""

    def start(self, job: Job, environment: dict[str, str]) -> str:
        """Build the work; "" or what is wrong with this node."""
        os.environ.update(environment)
        os.environ.setdefault("RAYON_NUM_THREADS", "1")  # of the tokenizers: one core is for one worker
        self.node = ray_cluster.this_node()
        if library_hash() != self.library:
            return f"node {self.node} has another version of this library: install the same commit on every node"
        self.work = job.work()
        return ""

    def do(self, item: Any) -> tuple[Any, str, int, int]:
        """(the result or its error, node, process, its peak memory in MiB)."""
        found = answer(self.work, item)
        return found, self.node, os.getpid(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@dataclass
class NodeUse:
    """What a node has done so far."""

    rows: int = 0
    peaks: dict[int, int] = field(default_factory=dict)  # MiB, by process


class RayEngine:
    """An engine. ray: the package, connected to a cluster. Its actors are kept from one map to the next, until `close`."""

    def __init__(self, ray: Any) -> None:
        self.ray, self.workers = ray, ray_cluster.cpus(ray)
        self.actor = ray.remote(num_cpus=1, max_restarts=0, max_task_retries=0)(RayWorker)
        self.actors: set[Any] = set()
        self.use: dict[str, NodeUse] = {}
        self.seconds = 0.0

    def map(self, job: Job, items: Iterable[Named]) -> Iterator[Any]:
        """The results in the order of the items. Errors: those of the work; WorkerLostError, ClusterError."""
        pool, started = _Pool(self, job), time.monotonic()
        try:
            for found in pool.in_order(enumerate(items)):
                self.seconds, started = self.seconds + time.monotonic() - started, time.monotonic()
                yield result(found)
        finally:
            pool.end()

    def new_actor(self) -> Any:
        actor = self.actor.remote(library_hash())
        self.actors.add(actor)
        return actor

    def kill(self, actor: Any) -> None:
        self.actors.discard(actor)
        self.ray.kill(actor)

    def close(self) -> None:
        for actor in list(self.actors):
            self.kill(actor)

    def count(self, found: Any, node: str, process: int, peak: int) -> None:
        one = self.use.setdefault(node, NodeUse())
        one.peaks[process] = peak
        one.rows += found.rows if isinstance(found, Finished) else 0

    def described(self) -> str:
        """Speed and memory of each node."""
        seconds = max(self.seconds, 1e-3)
        each = [
            f"{node}: {len(one.peaks)} workers, {one.rows / seconds:,.0f} rows/s, at most {max(one.peaks.values()):,} MiB each"
            for node, one in sorted(self.use.items())
        ]
        return f"Ray, {len(each)} nodes ({'; '.join(each)})" if each else f"Ray, {self.workers} workers"


class _Pool:
    """The actors of one map."""

    def __init__(self, engine: RayEngine, job: Job) -> None:
        self.engine, self.ray, self.job = engine, engine.ray, engine.ray.put(job)
        self.idle: list[Any] = []
        self.starting: dict[Any, Any] = {}  # actors by the reference of their start
        self.busy: dict[Any, tuple[Any, int, Named]] = {}
        self.lost: Counter[int] = Counter()  # workers by the item that they were lost with
        self.waiting_since = time.monotonic()
        for actor in list(engine.actors):
            self._start(actor)
        for _ in range(engine.workers - len(engine.actors)):
            self._start(engine.new_actor())

    def _start(self, actor: Any) -> None:
        environment = {name: os.environ[name] for name in FORWARDED if name in os.environ}
        self.starting[actor.start.remote(self.job, environment)] = actor

    def in_order(self, items: Iterator[tuple[int, Named]]) -> Iterator[Any]:
        """What was answered to each item."""
        answered: dict[int, Any] = {}
        again: deque[tuple[int, Named]] = deque()
        wanted, taken, ended = 0, 0, False
        while True:
            while self.idle and (again or (not ended and taken - wanted < AHEAD * self.engine.workers)):
                numbered = again.popleft() if again else next(items, None)
                if numbered is None:
                    ended = True
                    continue
                taken = max(taken, numbered[0] + 1)
                self._give(*numbered)
            if wanted in answered:
                yield answered.pop(wanted)
                wanted += 1
            elif ended and not self.busy and not again:
                return
            else:
                self._wait(answered, again)

    def _give(self, number: int, named: Named) -> None:
        actor = self.idle.pop()
        self.busy[actor.do.remote(named[1])] = actor, number, named

    def _wait(self, answered: dict[int, Any], again: deque) -> None:
        """Take what is ready."""
        done, _ = self.ray.wait([*self.busy, *self.starting], num_returns=1, timeout=POLL_SECONDS)
        for reference in done:
            if reference in self.starting:
                self._started(reference)
            else:
                self._answered(reference, answered, again)
        if self.busy or self.idle:
            self.waiting_since = time.monotonic()
        elif time.monotonic() - self.waiting_since > START_SECONDS:
            nodes = ", ".join(ray_cluster.nodes(self.ray)) or "none"
            raise WorkerLostError(f"no worker has started for {START_SECONDS} s (nodes alive: {nodes}); finished parts are kept, run again")

    def _started(self, reference: Any) -> None:
        actor = self.starting.pop(reference)
        try:
            wrong = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            if isinstance(error, self.ray.exceptions.RayTaskError):
                raise ray_cluster.ClusterError(f"a worker cannot start on its node: {error.cause or error}") from None
            self._replace(actor)  # its node was lost, or it was killed
            return
        if wrong:
            raise ray_cluster.ClusterError(wrong)
        self.idle.append(actor)

    def _answered(self, reference: Any, answered: dict[int, Any], again: deque) -> None:
        actor, number, named = self.busy.pop(reference)
        try:
            found, node, process, peak = self.ray.get(reference)
        except self.ray.exceptions.RayTaskError as error:  # a result that cannot be sent, for instance
            raise WorkerLostError(f"{named[0]}: {error}") from None
        except self.ray.exceptions.RayError as error:
            self._lose(actor, number, named, again, error)
            return
        self.engine.count(found, node, process, peak)
        answered[number] = found
        self.idle.append(actor)

    def _lose(self, actor: Any, number: int, named: Named, again: deque, error: Exception) -> None:
        """The item goes to another worker. Errors: WorkerLostError if it has cost too many."""
        self.lost[number] += 1
        if self.lost[number] >= ATTEMPTS:
            reason = str(error).splitlines()[0]
            raise WorkerLostError(
                f"{named[0]}: {ATTEMPTS} workers were lost with it, perhaps for lack of memory ({reason}); run again, finished parts are kept"
            )
        again.append((number, named))
        self._replace(actor)

    def _replace(self, actor: Any) -> None:
        self.engine.kill(actor)
        self._start(self.engine.new_actor())

    def end(self) -> None:
        """Actors that still work, since the map was left early, are not used again."""
        for actor, _, _ in self.busy.values():
            self.engine.kill(actor)
