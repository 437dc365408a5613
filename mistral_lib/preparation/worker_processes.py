"""Rows are inspected in this process, or for large corpora in several worker processes.

The workers are plain child processes that communicate over pipes: nothing is forked while threads run, no script is
imported again, and they end with their parent, even if it is killed. Results come in the order of the batches.
"""

import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from queue import SimpleQueue
from typing import Any

from mistral_lib.corpus.sources import Row
from mistral_lib.preparation.row_inspection import InspectedBatch, Inspector
from mistral_lib.run import paths
from mistral_lib.run.settings import Settings

WORTH_IT = 24 * 2**20  # bytes of sources: below that, starting processes (a second or two) takes longer than it saves
RECURSION = 4000  # the interpreter's limit: JSON of a thousand levels is read, and pickle needs two calls for each level
MOST = 6  # workers: each needs about 160 MiB, and one core cannot read the files for more of them
Batches = Iterable[tuple[Any, list[tuple[int, Row]]]]
Inspect = Callable[[Batches], Iterator[tuple[Any, InspectedBatch]]]


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(source_bytes: int) -> int:
    """How many workers to start for sources of this size; 0 if this process does the work."""
    count = min(cores() - 1, MOST) if source_bytes >= WORTH_IT else 0  # one core reads the files
    return count if count > 1 else 0


@contextmanager
def inspecting(settings: Settings, workers: int) -> Iterator[Inspect]:
    """A function that inspects (label, rows) batches and yields (label, inspected batch), in order. workers: 0 for this process."""
    if not workers:
        inspector = Inspector(settings)
        yield lambda batches: ((label, inspector.inspect(rows)) for label, rows in batches)
        return
    sys.setrecursionlimit(max(RECURSION, sys.getrecursionlimit()))
    with ExitStack() as stack:
        children = [stack.enter_context(_child(settings)) for _ in range(workers)]
        threads = stack.enter_context(ThreadPoolExecutor(workers))
        yield lambda batches: _in_order(batches, children, threads)


def _in_order(batches: Batches, children: Sequence[subprocess.Popen], threads: ThreadPoolExecutor) -> Iterator[tuple[Any, InspectedBatch]]:
    free: SimpleQueue[subprocess.Popen] = SimpleQueue()
    for child in children:
        free.put(child)
    waiting: deque[tuple[Any, Future]] = deque()
    for label, rows in batches:
        waiting.append((label, threads.submit(_ask, free, rows)))
        if len(waiting) > 2 * len(children):
            label, found = waiting.popleft()
            yield label, found.result()
    for label, found in waiting:
        yield label, found.result()


def _ask(free: SimpleQueue, rows: Sequence[tuple[int, Row]]) -> InspectedBatch:
    """One batch, inspected by any free worker. Errors: those of the inspection; ChildProcessError if the worker ended."""
    child = free.get()
    try:
        pickle.dump(rows, child.stdin, protocol=pickle.HIGHEST_PROTOCOL)
        child.stdin.flush()
        found = pickle.load(child.stdout)
    except (OSError, EOFError) as error:
        ended = f"a worker process that inspects rows ended with code {child.poll()}: it was killed, perhaps for lack of memory"
        raise ChildProcessError(f"{ended}; run again, finished parts are kept") from error
    finally:
        free.put(child)
    if isinstance(found, BaseException):
        raise found
    return found


@contextmanager
def _child(settings: Settings) -> Iterator[subprocess.Popen]:
    path = os.pathsep.join([str(paths.project()), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    code = "from mistral_lib.preparation import worker_processes; worker_processes.serve()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    try:
        with suppress(BrokenPipeError):  # reported with its first batch
            pickle.dump(settings, child.stdin)
            child.stdin.flush()
        yield child
    finally:
        child.kill()  # nothing is lost: its results have been sent
        child.wait()
        child.stdout.close()
        with suppress(BrokenPipeError):  # unread input
            child.stdin.close()


def serve() -> None:
    """The worker's side: reads the settings, then batches until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # anything printed goes to stderr
    inspector = Inspector(pickle.load(requests))
    while True:
        try:
            rows = pickle.load(requests)
        except EOFError:
            return
        try:
            found: Any = inspector.inspect(rows)
        except Exception as error:
            found = error
        pickle.dump(found, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()
