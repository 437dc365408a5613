"""Writes machine/status.json, machine/log.txt and machine/setup.txt every 20 seconds, whatever the agent is busy with."""

import hashlib
import threading
import time
from dataclasses import dataclass, field

from mistral_lib.on_machine import status_file
from mistral_lib.on_machine.bucket.object_store import Store
from mistral_lib.on_machine.ending import Limits
from mistral_lib.on_machine.folders import Folders
from mistral_lib.on_machine.status_file import MachineStatus, Masker, iso

EVERY = 20.0  # seconds
RUN_STATE_EVERY = 60.0  # seconds; asking the library loads it each time


@dataclass
class Facts:
    """What the agent knows; it alone changes them."""

    run: str
    limits: Limits
    phase: str = "waiting"
    doing: str = "starting"
    machine: str | None = None  # its id
    attempt: int | None = None
    reason: str | None = None
    exit_code: int | None = None
    complete: bool = False
    uploaded_bytes: int = 0
    results_bytes: int = 0
    trouble: str | None = None
    mask: Masker = field(default_factory=Masker)


class Heartbeat:
    """A thread that reports. Reports that fail are left out: the next one holds everything."""

    def __init__(self, store: Store, folders: Folders, facts: Facts, every: float = EVERY, folder: str = status_file.FOLDER):
        self.store, self.folders, self.facts, self.every, self.folder = store, folders, facts, every, folder
        self._stop, self._one_at_a_time = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)
        self._run_state: tuple[float, str | None] = (0.0, None)
        self._sent: dict[str, str] = {}  # logs by name → hash of what was sent

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=120)

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self.report()
            except Exception as error:  # whatever one report meets, the next one is tried
                print(f"the status was not written: {error}", flush=True)
            self._stop.wait(self.every)

    def report(self) -> None:
        """Write the status and what is new in the logs now. Errors: StoreError."""
        with self._one_at_a_time:
            self.store.write(f"{self.folder}/status.json", self.status().to_json(self.facts.mask), "application/json")
            for name, path in (("log.txt", self.folders.run_log), ("setup.txt", self.folders.setup_log)):
                self._send(f"{self.folder}/{name}", self.facts.mask(status_file.tail(path).decode(errors="replace")).encode())

    def _send(self, name: str, content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()
        if content and self._sent.get(name) != digest:
            self.store.write(name, content, "text/plain; charset=utf-8")
            self._sent[name] = digest

    def status(self) -> MachineStatus:
        facts, now = self.facts, time.time()
        run_folder = self.folders.run_folder(facts.run)
        return MachineStatus(
            run=facts.run, phase=facts.phase, doing=facts.doing, updated=iso(now), started=iso(facts.limits.started),
            ends_at=iso(facts.limits.ends_at), machine=facts.machine, attempt=facts.attempt, reason=facts.reason, run_state=self._state(now),
            stages=status_file.stages(run_folder), exit_code=facts.exit_code, complete=facts.complete, gpu=status_file.gpu(),
            log=status_file.last_lines(self.folders.run_log), usd_so_far=round(facts.limits.usd(now), 4),
            usd_before=facts.limits.usd_before, uploaded_bytes=facts.uploaded_bytes, results_bytes=facts.results_bytes,
            spot_notice=status_file.read_json(self.folders.notice), rebalance=status_file.read_json(self.folders.rebalance),
            trouble=facts.trouble,
        )  # fmt: skip

    def _state(self, now: float) -> str | None:
        """The library's own words, not older than a minute while the run works."""
        if self.facts.phase in ("running", "uploading", "ended") and now - self._run_state[0] >= RUN_STATE_EVERY:
            self._run_state = now, status_file.run_state(self.folders, self.facts.run)
        return self._run_state[1]
