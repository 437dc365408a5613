"""Who inspects the rows: this process, or for large corpora several, so that checks do not wait for one core.

The processes are plain children that speak over their pipes: nothing is forked beside running threads, no script is
imported anew, and they end with their parent, however that ends. Results come in the order of the batches.
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

WORTH_IT = 24 * 2**20  # bytes of sources from which on the start of further processes (a second or two) pays
RECURSION = 4000  # of the interpreter: JSON of a thousand levels is read, and pickle goes down two calls for each
MOST = 6  # processes: each holds about 160 MiB, and one core reads the files for no more than this
Batches = Iterable[tuple[Any, list[tuple[int, Row]]]]
Inspect = Callable[[Batches], Iterator[tuple[Any, InspectedBatch]]]


def cores() -> int:
    """The processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def inspecting(settings: Settings, source_bytes: int) -> Iterator[Inspect]:
    """A function that inspects (label, rows) batches and yields (label, what was found), in order."""
    count = min(cores() - 1, MOST) if source_bytes >= WORTH_IT else 0  # one core reads the files
    if count < 2:
        inspector = Inspector(settings)
        yield lambda batches: ((label, inspector.inspect(rows)) for label, rows in batches)
        return
    sys.setrecursionlimit(max(RECURSION, sys.getrecursionlimit()))
    with ExitStack() as stack:
        children = [stack.enter_context(_child(settings)) for _ in range(count)]
        threads = stack.enter_context(ThreadPoolExecutor(count))
        yield lambda batches: _in_turn(batches, children, threads)


def _in_turn(batches: Batches, children: Sequence[subprocess.Popen], threads: ThreadPoolExecutor) -> Iterator[tuple[Any, InspectedBatch]]:
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
    """One batch inspected by whichever child is free. Errors: whatever the inspection raises; ChildProcessError."""
    child = free.get()
    try:
        pickle.dump(rows, child.stdin, protocol=pickle.HIGHEST_PROTOCOL)
        child.stdin.flush()
        found = pickle.load(child.stdout)
    except (OSError, EOFError) as error:
        raise ChildProcessError(
            f"a process that inspects rows ended with code {child.poll()}: killed, perhaps for lack of memory; run again, finished parts are kept"
        ) from error
    finally:
        free.put(child)
    if isinstance(found, BaseException):
        raise found
    return found


@contextmanager
def _child(settings: Settings) -> Iterator[subprocess.Popen]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(paths.project()), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
    }
    code = "from mistral_lib.preparation import worker_processes; worker_processes.serve()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    try:
        with suppress(BrokenPipeError):  # told when it is asked
            pickle.dump(settings, child.stdin)
            child.stdin.flush()
        yield child
    finally:
        child.kill()  # it keeps nothing: what it found has been sent
        child.wait()
        child.stdout.close()
        with suppress(BrokenPipeError):  # what it did not take
            child.stdin.close()


def serve() -> None:
    """The child's side: settings first, then batches until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed goes to stderr
    inspector = Inspector(pickle.load(asked))
    while True:
        try:
            rows = pickle.load(asked)
        except EOFError:
            return
        try:
            found: Any = inspector.inspect(rows)
        except Exception as error:
            found = error
        pickle.dump(found, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()
