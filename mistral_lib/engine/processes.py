"""This process, or several worker processes of this machine.

The workers are plain child processes that communicate over pipes: nothing is forked while threads run, no script is
imported again, and they end with their parent, even if it is killed.
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from queue import SimpleQueue
from typing import Any

from mistral_lib.engine.job import Job, Named, WorkerLostError, answer, result
from mistral_lib.run import paths

WORTH_IT = 24 * 2**20  # bytes of sources: below that, starting processes (a second or two) takes longer than it saves
POLL_SECONDS = 0.2
MOST = 6  # workers: each needs about 160 MiB


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count(source_bytes: int) -> int:
    """How many workers to start for sources of this size; 0 if this process does the work."""
    count = min(cores() - 1, MOST) if source_bytes >= WORTH_IT else 0  # one core takes the results together
    return count if count > 1 else 0


class ThisMachine:
    """An engine. workers: 0 for this process."""

    def __init__(self, workers: int = 0) -> None:
        self.workers = workers

    def map(self, job: Job, items: Iterable[Named]) -> Iterator[Any]:
        """The results in the order of the items. Errors: those of the work; WorkerLostError."""
        if not self.workers:
            work = job.work()
            yield from (result(work(item)) for _, item in items)
            return
        with ExitStack() as stack:
            threads = stack.enter_context(ThreadPoolExecutor(self.workers))
            stack.callback(threads.shutdown, wait=False, cancel_futures=True)  # nothing waits for what was given out
            children = [stack.enter_context(_child(job)) for _ in range(self.workers)]
            yield from _in_order(items, children, threads)

    def described(self) -> str:
        return f"{self.workers} worker processes" if self.workers else "this process"


def _in_order(items: Iterable[Named], children: Sequence[subprocess.Popen], threads: ThreadPoolExecutor) -> Iterator[Any]:
    free: SimpleQueue[subprocess.Popen] = SimpleQueue()
    for child in children:
        free.put(child)
    waiting: deque[Future] = deque()
    for name, item in items:
        waiting.append(threads.submit(_ask, free, name, item))
        if len(waiting) > 2 * len(children):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _ask(free: SimpleQueue, name: str, item: Any) -> Any:
    """The result for one item, from any free worker. Errors: those of the work; WorkerLostError if the worker ended."""
    child = free.get()
    try:
        pickle.dump(item, child.stdin, protocol=pickle.HIGHEST_PROTOCOL)
        child.stdin.flush()
        found = pickle.load(child.stdout)
    except (OSError, EOFError, pickle.UnpicklingError) as error:  # nothing, or half an answer
        ended = f"{name}: a worker process ended with code {child.poll()}: it was killed, perhaps for lack of memory"
        raise WorkerLostError(f"{ended}; run again, finished parts are kept") from error
    finally:
        free.put(child)
    return result(found)


@contextmanager
def _child(job: Job) -> Iterator[subprocess.Popen]:
    path = os.pathsep.join([str(paths.project()), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    code = "from mistral_lib.engine import processes; processes.serve()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    try:
        with suppress(BrokenPipeError):  # reported with its first item
            pickle.dump(job, child.stdin)
            child.stdin.flush()
        yield child
    finally:
        child.kill()  # nothing is lost: its results have been sent
        child.wait()
        child.stdout.close()
        with suppress(BrokenPipeError):  # unread input
            child.stdin.close()


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, also in the middle of an item: a resumed stage writes the same parts."""
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)


def serve() -> None:
    """The worker's side: reads the job, then items until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles interrupts
    threading.Thread(target=_end_with, args=[os.getppid()], daemon=True).start()
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # anything printed goes to stderr
    work = pickle.load(requests).work()
    while True:
        try:
            item = pickle.load(requests)
        except EOFError:
            return
        pickle.dump(answer(work, item), answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()
