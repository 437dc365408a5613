"""Two machines of one training, as two torchrun processes on this one; each may have a home of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from mistral_lib.run import Run
from mistral_lib.training import training_log

TRAIN = ("mistral_lib",)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Node:
    """One torchrun with one worker, in a session of its own, as a machine would have."""

    def __init__(
        self, home: Path, run: str, port: int, first: bool, restarts: int = 0, nodes: str = "2", program: tuple[str, ...] = TRAIN, **variables: str
    ):  # fmt: skip
        self.port = port
        self.output = home / f"torchrun-{time.time_ns()}.out"
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nnodes", nodes, "--nproc-per-node", "1", "--max-restarts", str(restarts),
            "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test", "--monitor-interval", "0.1",
            "--rdzv-conf", f"is_host={int(first)},last_call_timeout=1", "--local-addr", "127.0.0.1", "-m", *program, "train", run,
        ]  # fmt: skip
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "MISTRAL_WORKBOOK_HOME": str(home),
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            **variables,
        }
        with open(self.output, "wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, env=environment, start_new_session=True)

    def text(self) -> str:
        return self.output.read_text()

    def workers(self) -> list[int]:
        """The process ids of its workers that have not ended."""
        place = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [pid for pid in map(int, place.read_text().split()) if runs(pid) and b"resource_tracker" not in command_of(pid)]

    def end(self, number: int = signal.SIGKILL) -> None:
        """As if the machine were lost: torchrun and its workers end at once. Each worker has a session of its own."""
        workers = self.workers()
        for pid in [*workers, self.process.pid]:
            os.kill(pid, number)
        self.process.wait()
        while any(map(runs, workers)):
            time.sleep(0.02)

    def wait(self, seconds: float = 300) -> int:
        return self.process.wait(timeout=seconds)


@contextmanager
def nodes(*started: Node) -> Iterator[None]:
    """Whatever happens inside, none of the nodes is left running."""
    try:
        yield
    finally:
        for node in started:
            if node.process.poll() is None:
                node.end()


def until_step(run: Run, step: int, *nodes: Node, seconds: float = 300) -> None:
    """Wait until the training has made that step. Fails if one of the nodes ends before."""
    log, end = run.folder / "training" / "log.jsonl", time.monotonic() + seconds
    while not any(event["step"] >= step for event in training_log.steps(log)):
        assert time.monotonic() < end and all(node.process.poll() is None for node in nodes), "\n".join(node.text() for node in nodes)
        time.sleep(0.05)


def runs(pid: int) -> bool:
    """Whether a process has not ended. One that ends has no command line any more, but still its locks, until it is a zombie."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def command_of(pid: int) -> bytes:
    """The command line of a process; empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
