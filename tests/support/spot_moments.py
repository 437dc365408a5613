"""Spot notices at chosen moments of a training on a sandboxed machine.

A notice is read every five seconds. So that it arrives at the moment itself, the trainer is suspended from the moment until the machine has
the notice, and the signal waits for it. The moments are random: MISTRAL_SPOT_SEED repeats those of an earlier test.
"""

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from mistral_lib.run import files
from tests.support.aws_requests import Asked
from tests.support.aws_stand_in import FalseAws
from tests.support.machine_sandbox import Sandbox, wait_for
from tests.support.metadata_server import MetadataServer

SEED = "MISTRAL_SPOT_SEED"
WARNING = 120  # seconds from the notice to the end of the machine
Moment = Callable[["Machine"], str]  # gives the notice at its moment; what was disturbed, in words


def moments_of(name: str) -> random.Random:
    """Random numbers for a test, from the seed in the environment or a new one, which is printed."""
    seed = os.environ.get(SEED) or str(random.SystemRandom().randrange(10**6))
    print(f"{name}: {SEED}={seed}")
    return random.Random(f"{seed} {name}")


class Machine:
    """A sandboxed spot machine that trains a run."""

    def __init__(self, sandbox: Sandbox, metadata: MetadataServer, aws: FalseAws, run: str, seconds: float):
        self.sandbox, self.metadata, self.aws, self.seconds = sandbox, metadata, aws, seconds  # seconds: until the training begins
        self.training = sandbox.base / "home" / "runs" / run / "training"
        self.began = time.time()

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Of the training on this machine."""
        return [one for one in events(self.training) if one["event"] == kind and one["time"] > self.began]

    def trainer(self) -> psutil.Process:
        """The trainer, once it has begun its log."""
        wait_for("the trainer", lambda: self.events("process"), self.seconds, self.sandbox)
        return psutil.Process(self._host_pid())

    def _host_pid(self) -> int:
        """The trainer's process id outside of the sandbox."""
        for process in psutil.Process(self.sandbox.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                if process.cmdline()[1:4] == ["-m", "mistral_lib", "train"]:
                    return process.pid
        raise AssertionError(f"no trainer in the sandbox\n{self.sandbox.logs()}")

    def give_notice(self, trainer: psutil.Process | None = None) -> None:
        """Returns when the machine has the notice and has signaled the run. trainer: suspended until then."""
        if trainer is not None:
            trainer.suspend()
        try:
            self.metadata.take_away(WARNING)
            signaled = ["kill", "--signal=SIGTERM", "mistral-run.service"]
            wait_for("the notice", lambda: signaled in self.sandbox.events("systemctl"), 60, self.sandbox)
            time.sleep(0.2)
        finally:
            if trainer is not None:
                with suppress(psutil.NoSuchProcess):
                    trainer.resume()

    def pull_the_plug(self) -> None:
        """Two minutes after the notice, if the machine is still on then."""
        until = time.monotonic() + WARNING
        while self.sandbox.is_on and time.monotonic() < until:
            time.sleep(0.2)
        self.sandbox.power_cut()


def events(training: Path) -> list[dict[str, Any]]:
    log = training / "log.jsonl"
    return files.read_json_lines(log) if log.exists() else []


def after(seconds: float) -> Moment:
    """So many seconds after the trainer's first event."""

    def moment(machine: Machine) -> str:
        trainer = machine.trainer()
        time.sleep(max(0.0, machine.events("process")[0]["time"] + seconds - time.time()))
        last = events(machine.training)[-1]
        machine.give_notice(trainer if trainer.is_running() else None)
        return f"{seconds:.1f} s after the trainer's begin, in `{last['event']}` {last.get('step', '')}".strip()

    return moment


def before_the_first_step(share: float) -> Moment:
    """While the model is loaded and measured. share: of the four seconds after the trainer's first event."""

    def moment(machine: Machine) -> str:
        trainer = machine.trainer()
        time.sleep(4 * share)
        machine.give_notice(trainer)
        assert not machine.events("checkpoint"), "the notice came too late"
        return f"before the first step, {4 * share:.1f} s after the trainer's begin"

    return moment


def while_a_checkpoint_is_written(milliseconds: float) -> Moment:
    """So many milliseconds after its hidden folder is there, while it is."""

    def moment(machine: Machine) -> str:
        trainer = machine.trainer()
        while trainer.is_running():
            if not (partial := _partial(machine.training)):
                time.sleep(0.001)
                continue
            time.sleep(milliseconds / 1000)
            trainer.suspend()
            if partial.exists():
                written = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
                machine.give_notice(trainer)
                return f"while {partial.name} was written, after {written:,} bytes"
            trainer.resume()  # it was complete already: the next one
        raise AssertionError("no checkpoint was met while it was written")

    return moment


def _partial(training: Path) -> Path | None:
    return next((training / "checkpoints").glob(".checkpoint-*.partial"), None)


def during_an_upload(number: int) -> Moment:
    """Before the so many-th request that puts a file of a checkpoint into the bucket is carried out."""

    def moment(machine: Machine) -> str:
        met: list[str] = []
        trainer, given = machine.trainer(), threading.Event()

        def held(asked: Asked) -> None:
            if "checkpoints/checkpoint-" in asked.path:
                met.append(asked.path)
                if len(met) == number:
                    machine.give_notice(trainer)
                    given.set()

        for action in ("PutObject", "UploadPart"):
            machine.aws.before("s3", action, held, times=None)
        try:
            wait_for("a notice during the upload of a checkpoint", given.is_set, machine.seconds, machine.sandbox)
        finally:
            machine.aws.recover()
        return f"during the upload of {met[number - 1].partition('checkpoints/')[2]}"

    return moment
