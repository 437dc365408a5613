"""The program of a worker: the same inputs and environment as the head's, then Ray, until the head has ended or is lost.

It looks for its head in the bucket, so that a head that is replaced finds it again. It ends by itself like every machine: at its time, at
a spot notice, and without a job.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mistral_lib.on_machine import environment, inputs, programs, status_file
from mistral_lib.on_machine.agent import Agent, Pace
from mistral_lib.on_machine.bucket.object_store import Store, StoreError
from mistral_lib.on_machine.cluster import ray_unit
from mistral_lib.on_machine.cluster.head import HEAD, JOINED, WORKERS, is_fresh, report
from mistral_lib.on_machine.folders import Folders
from mistral_lib.on_machine.heartbeat import Facts, Heartbeat
from mistral_lib.on_machine.job import Job
from mistral_lib.on_machine.preparation import Preparation

LOST_MINUTES = 10.0  # without an answer and a report of the head, after which a worker ends
DONE = ("uploading", "ended")  # phases of a head that needs no worker any more


class WorkerPreparation(Preparation):
    """As for the head, without its results; money is counted by the head, for all machines."""

    def take_over(self, job: Job) -> None:
        super().take_over(replace(job, max_usd=0.0))

    def spent_before(self, job: Job) -> float:
        return 0.0

    def prepare(self, job: Job) -> None:
        inputs.fetch(self.store, job, self.folders, self.say, self.check, results=False)
        self.fetch_token(job)
        environment.build(self.folders, job.extras, self.say, self.check, self.retry)
        self.facts.trouble = None


class Worker(Agent):
    """One worker, from its first look for a job to the reason why it ends. node: its private address."""

    def __init__(
        self, folders: Folders, store: Store, facts: Facts, secret: Callable[[str], str], pace: Pace, node: str, lost_minutes: float = LOST_MINUTES
    ):  # fmt: skip
        super().__init__(folders, store, facts, secret, pace)
        self.preparation = WorkerPreparation(folders, store, facts, secret, self.check, pace.job, pace.retry)
        self.heartbeat = Heartbeat(store, folders, facts, pace.heartbeat, folder=f"{WORKERS}{facts.machine}")
        self.node, self.lost_minutes = node, lost_minutes
        self.head: dict[str, Any] = {}  # head.json, as it was read last

    def job_under_way(self) -> Job | None:
        """None: what is in its place already is not fetched again, so that nothing has to be remembered."""
        return None

    def run(self, job: Job) -> str:
        """Work for the head until the machine has to end; returns why."""
        self.facts.phase, self.facts.doing = "running", "looking for the head"
        ray_unit.install(self.folders, worker=True)
        seen = time.time()
        while True:
            status = self.look()
            if (reason := self.must_stop() or self.head_is_done(status)) is not None:
                return self.leave(reason)
            if self.joins(job) or is_fresh(status):
                seen = time.time()
            elif time.time() - seen >= 60 * self.lost_minutes:
                return self.leave(f"lost: the head {self.head.get('address', '')} has not answered for {self.lost_minutes:g} minutes")
            time.sleep(self.pace.uploads)

    def look(self) -> dict[str, Any]:
        """The head's last report; its address is read again. Without S3 the address of before counts."""
        try:
            self.head = report(self.store.read(HEAD)) or self.head
            return report(self.store.read(status_file.NAME))
        except StoreError as error:
            self.facts.trouble = str(error)
            return {}

    def head_is_done(self, status: Mapping[str, Any]) -> str | None:
        """That the run on the head has ended, as a sentence; None if it has not, or if it is the report of an earlier head."""
        own = self.head.get("machine") is not None and status.get("machine") == self.head["machine"]
        return f"the run on the head has ended: {status.get('reason')}" if own and status.get("phase") in DONE else None

    def joins(self, job: Job) -> bool:
        """Whether the head answers; then Ray is started here unless it runs."""
        address = self.head.get("address")
        if not address or not ray_unit.answers(address):
            self.facts.doing = f"the head {address or ''} does not answer yet"
            return False
        try:
            ray_unit.start(self.folders, self.preparation.variables(job), self.node, address)
            ready = ray_unit.is_ready(self.folders)
            self.facts.doing, self.facts.trouble = f"{JOINED} {address}" if ready else f"Ray starts for the head {address}", None
        except (programs.ProgramError, OSError) as error:
            self.facts.trouble = f"Ray: {error}"
        return True

    def leave(self, reason: str) -> str:
        """Stop Ray, which lets its tasks end; returns the reason."""
        self.facts.doing, self.facts.reason = "Ray is stopped", reason
        try:
            ray_unit.stop()
        except programs.ProgramError as error:
            print(f"Ray was not stopped: {error}", flush=True)
        return reason
