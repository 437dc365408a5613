"""From job.json to a run that can start: its limits, its inputs, its environment and its variables.

What S3 or a wrong upload spoils is tried again with the job.json of that moment, until the machine has been idle for too long.
"""

import contextlib
import errno
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from mistral_lib.on_machine import environment, inputs, install, programs, status_file
from mistral_lib.on_machine.bucket.object_store import Store, StoreError
from mistral_lib.on_machine.bucket.results_list import ResultsError
from mistral_lib.on_machine.ending import EndError
from mistral_lib.on_machine.folders import Folders, write_aside
from mistral_lib.on_machine.heartbeat import Facts
from mistral_lib.on_machine.job import Job, JobError

UPLOADING = "uploading.json"  # below the prefix; `run` writes it each minute while it sends: a sign that a job will come


class Preparation:
    """What happens before the run. check: raises EndError if the machine has to end."""

    def __init__(
        self, folders: Folders, store: Store, facts: Facts, secret: Callable[[str], str], check: Callable[[], None], every: float, retry: float
    ):  # fmt: skip
        self.folders, self.store, self.facts, self.secret, self.check = folders, store, facts, secret, check
        self.every, self.retry = every, retry  # seconds between two looks for a job, and before another attempt of a program
        self.first_end = facts.limits.ends_at
        self.earlier: dict = {}  # status.json of before
        self.sign: bytes | None = None  # uploading.json as it was at the last look
        self.token: str | None = None

    def look_back(self) -> None:
        """Read the last status before it is replaced: it has what earlier machines have spent. Errors: EndError."""
        while True:
            try:
                text = self.store.read(status_file.NAME)
                self.earlier = json.loads(text) if text else {}
                return
            except StoreError as error:
                self.say(f"waiting for S3: {error}")
            except ValueError:
                return
            self.check()
            time.sleep(self.every)

    def job_in_place(self) -> Job:
        """The job, with everything in its place. Errors: EndError."""
        since = time.time()
        while True:
            try:
                if self.more_is_sent():
                    since = time.time()
                if (job := self.job()) is not None:
                    began = time.time()
                    try:
                        self.take_over(job)
                        self.prepare(job)
                    finally:
                        since += time.time() - began  # a download or an installation is work
                    return job
            except (StoreError, JobError) as error:
                self.facts.trouble = str(error)
                self.say(f"tried again: {error}")
            except (environment.LockError, programs.ProgramError, ResultsError, OSError) as error:
                raise EndError(f"set-up failed: {self.in_words(error)}") from None
            self.check()
            if time.time() - since >= 60 * (idle := self.facts.limits.idle_minutes):
                raise EndError(f"idle: no usable job for {idle:g} minutes; {self.facts.trouble or 'there was no job.json'}")
            time.sleep(self.every)

    def more_is_sent(self) -> bool:
        """Whether the laptop has written its sign of life again since the last look. Errors: StoreError."""
        before, self.sign = self.sign, self.store.read(UPLOADING)
        return self.sign not in (None, before)

    def job(self) -> Job | None:
        """The job of now; None if there is none, or one whose time is over. Errors: StoreError, JobError."""
        self.facts.phase = "waiting"
        text = self.store.read("job.json")
        if text is None:
            self.say("waiting for job.json")
            return None
        job = Job.from_json(text)
        if job.run != self.facts.run:
            raise JobError(f"job.json is of run {job.run!r}, this machine is of {self.facts.run!r}: upload it to its own prefix")
        if job.end.timestamp() <= time.time():
            self.say(f"job.json was to end at {job.ends_at}: waiting for a new one")
            return None
        return job

    def take_over(self, job: Job) -> None:
        """The limits of the job. The machine's own end is never moved to a later time."""
        ends_at = min(self.first_end, job.end.timestamp())
        facts = self.facts
        facts.limits = replace(
            facts.limits, ends_at=ends_at, idle_minutes=job.idle_minutes, max_usd=job.max_usd, usd_per_hour=job.usd_per_hour,
            usd_before=self.spent_before(job),
        )  # fmt: skip
        facts.attempt, facts.phase = job.attempt, "setting up"
        install.set_deadline(self.folders, ends_at)

    def spent_before(self, job: Job) -> float:
        """USD of earlier machines of this run, as the last of them reported."""
        own = self.earlier.get("started") == status_file.iso(self.facts.limits.started)
        key = "usd_before" if own else "usd_so_far"
        return float(self.earlier.get(key) or 0.0) if job.attempt > 1 else 0.0

    def prepare(self, job: Job) -> None:
        inputs.fetch(self.store, job, self.folders, self.say, self.check)
        self.fetch_token(job)
        environment.build(self.folders, job.extras, self.say, self.check, self.retry)
        write_aside(self.folders.job, json.dumps(job.to_dict()).encode())
        self.facts.trouble = None

    def fetch_token(self, job: Job) -> None:
        if job.token_parameter:
            self.token = self.secret(job.token_parameter)
            self.facts.mask = status_file.Masker([self.token])

    def resume(self, job: Job) -> None:
        """After this program was started again while the run works, or had ended."""
        try:
            self.fetch_token(job)  # for the mask alone
            text = self.store.read(status_file.NAME)
            self.earlier = json.loads(text) if text else {}
        except (StoreError, ValueError) as error:
            print(f"continues without the last status: {error}", flush=True)
        self.take_over(job)

    def variables(self, job: Job) -> Mapping[str, str]:
        """The environment of the run, beside what its unit sets."""
        found = {"AWS_DEFAULT_REGION": job.region}
        if job.stages:
            found["RUN_OPTIONS"] = " ".join(["--only", *job.stages])
        if self.token:
            found["HF_TOKEN"] = self.token
        if job.base_model is not None and not inputs.needs_hub(self.folders.params.read_text()):
            found |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        return found

    def in_words(self, error: Exception) -> str:
        """What went wrong; a full disk with what to do, also if it was a program that met it."""
        if getattr(error, "errno", None) != errno.ENOSPC and "No space left on device" not in str(error):
            return str(error)
        disk = shutil.disk_usage(self.folders.base)
        return (
            f"the disk is full ({disk.free / 2**30:.1f} of {disk.total / 2**30:.0f} GiB are free; {error}): launch with a larger --disk-gib"
        )

    def say(self, what: str) -> None:
        """For the status and the log of the set-up; each text once."""
        if what != self.facts.doing:
            line = f"{status_file.iso(time.time())} {what}"
            with contextlib.suppress(OSError), open(self.folders.setup_log, "a") as log:  # a full disk hinders no decision
                print(line, flush=True)
                log.write(self.facts.mask(line) + "\n")
        self.facts.doing = what
