"""The machine's program: waits for a job, prepares it, starts the run, uploads its results, and ends the machine.

systemd starts it again if it fails. Each step looks at what is done already, so that it continues where the one before it was killed.
"""

import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from mistral_lib.on_machine import ending, programs, run_unit, status_file
from mistral_lib.on_machine.bucket.mirror import Mirror
from mistral_lib.on_machine.bucket.object_store import Store, StoreError, client
from mistral_lib.on_machine.bucket.uploads import Uploads
from mistral_lib.on_machine.cluster import head, roles
from mistral_lib.on_machine.ending import EndError, Limits
from mistral_lib.on_machine.folders import Folders, here
from mistral_lib.on_machine.heartbeat import Facts, Heartbeat
from mistral_lib.on_machine.job import Job
from mistral_lib.on_machine.metadata import Metadata, MetadataError
from mistral_lib.on_machine.preparation import Preparation
from mistral_lib.on_machine.user_data import Place

MOST_FAILURES = 5  # of this program since the start of the machine
LAST_REPORTS = 5  # attempts to report the end
LAST_SECONDS = 600.0  # for the last upload of a machine whose program fails


@dataclass(frozen=True)
class Pace:
    """Seconds between two looks."""

    job: float = 20.0
    run: float = 2.0
    uploads: float = 10.0
    heartbeat: float = 20.0
    retry: float = 10.0  # longer after each attempt


class Agent:
    """One machine, from its first look for a job to the reason why it ends."""

    nodes, address = 1, ""  # machines of the run, and the private address of this one, which is the head if there are several

    def __init__(self, folders: Folders, store: Store, facts: Facts, secret: Callable[[str], str], pace: Pace):
        self.folders, self.store, self.facts, self.pace = folders, store, facts, pace
        self.preparation = Preparation(folders, store, facts, secret, self.check, pace.job, pace.retry)
        self.heartbeat = Heartbeat(store, folders, facts, pace.heartbeat)

    def work(self) -> str:
        """Everything; returns why the machine ends. Errors: what nobody foresaw; systemd then starts the agent again."""
        try:
            job = self.job_under_way() or self.new_job()
            reason = self.run(job)
        except EndError as error:
            reason = str(error)
        self.report_end(reason)
        return reason

    def job_under_way(self) -> Job | None:
        """The job whose run was started before this agent; S3 is not needed for it."""
        if not self.folders.job.exists() or (run_unit.end(self.folders) is None and not run_unit.is_active(self.folders)):
            return None
        job = Job.from_json(self.folders.job.read_bytes())
        self.preparation.resume(job)
        self.heartbeat.start()
        return job

    def new_job(self) -> Job:
        """Errors: EndError."""
        self.preparation.look_back()
        self.heartbeat.start()
        return self.preparation.job_in_place()

    def check(self) -> None:
        """Errors: EndError if a spot notice has arrived, or a limit is reached."""
        if (reason := self.must_stop()) is not None:
            raise EndError(reason)

    def must_stop(self) -> str | None:
        if (notice := status_file.read_json(self.folders.notice)) is not None:
            return f"spot notice: {notice.get('action', 'the machine is taken away')} at {notice.get('time', 'any moment')}"
        return self.facts.limits.reached(time.time())

    # -- the run ----------------------------------------------------------------------------------------------------------

    def run(self, job: Job) -> str:
        """Start the run unless it was, wait for its end, upload everything; returns why the machine ends."""
        self.facts.phase, self.facts.doing = "running", "starting the run"
        mirror = Mirror(Uploads(self.store, self.folders.run_folder(job.run)), self.facts, self.pace.uploads)
        if run_unit.end(self.folders) is None and not run_unit.is_active(self.folders):
            self.start_run(job)
        self.facts.doing = "the run works"
        mirror.start()
        try:
            reason = self.wait_for_end(job)
        finally:
            mirror.stop()
        return self.upload_rest(mirror, reason)

    def start_run(self, job: Job) -> None:
        """Errors: EndError."""
        try:
            variables = self.preparation.variables(job)
            if self.nodes > 1:
                say, machine = self.preparation.say, self.facts.machine
                head.begin(self.folders, self.store, self.nodes, self.address, machine, variables, say, self.check, self.pace.retry)
                variables = head.run_variables(job, self.folders.params.read_text(), self.address, variables)
            run_unit.start(self.folders, variables)
        except (programs.ProgramError, OSError) as error:
            raise EndError(f"failed: the run could not be started: {error}") from None

    def wait_for_end(self, job: Job) -> str:
        """Until the run has ended by itself or had to be stopped; returns the reason."""
        places = [self.folders.run_folder(job.run), self.folders.home / "models", self.folders.home / ".cache"]
        since = time.time()  # the set-up before is no pause of the run
        while True:
            try:
                if not run_unit.is_active(self.folders):
                    return self.how_it_ended()
                reason = self.must_stop() or ending.hung(places, since, job.hang_minutes, time.time())
                if reason is not None:
                    self.facts.reason, self.facts.doing = reason, "the run is asked to save and to end"
                    run_unit.stop(self.folders, lambda: None)
                    return reason
            except programs.ProgramError as error:  # systemd is busy: look again
                self.facts.trouble = str(error)
            time.sleep(self.pace.run)

    def how_it_ended(self) -> str:
        end = run_unit.end(self.folders)
        if end is not None and end.exit_code == 0:
            return "complete"
        if (notice := self.must_stop()) is not None:  # the watch for spot notices has signaled the run
            return notice
        return f"failed: the run ended with {end}" if end is not None else "failed: the run could not be started"

    def upload_rest(self, mirror: Mirror, reason: str) -> str:
        """The last upload. It is tried until the machine's end: without it the results would be lost."""
        end = run_unit.end(self.folders)
        well = end is not None and end.exit_code == 0
        self.facts.phase, self.facts.doing, self.facts.exit_code = "uploading", "the last upload", end.exit_code if end else None
        self.facts.reason = reason
        left_out = mirror.finish(well, self.facts.limits.ends_at)
        if left_out is None:
            return f"{reason}; the last upload failed: {self.facts.trouble}"
        self.facts.complete = well and not left_out
        return f"{reason}; not uploaded, since damaged or still changing: {', '.join(left_out)}" if left_out else reason

    def report_end(self, reason: str) -> None:
        self.facts.phase, self.facts.doing, self.facts.reason = "ended", "the machine shuts down", reason
        self.heartbeat.stop()
        for attempt in range(LAST_REPORTS):
            try:
                self.heartbeat.report()
                return
            except StoreError as error:
                print(f"the end was not reported: {error}", flush=True)
                time.sleep(self.pace.retry * attempt)


def main() -> int:
    """Errors: what nobody foresaw; after five times the machine ends."""
    folders = here()
    place, started = folders.place(), folders.started()
    limits = Limits(started, ending.first_end(started, place.minutes, time.time()), place.idle_minutes)
    store = Store(client("s3", place.region), place.bucket, place.prefix)
    facts = Facts(place.run, limits, machine=machine_id())
    try:
        reason = program(folders, store, facts, place).work()
    except Exception as error:
        traceback.print_exc()
        if not failed_too_often(folders):
            raise
        reason = f"the machine's program failed {MOST_FAILURES} times: {type(error).__name__}: {error}"
        if roles.has_the_run(place, Metadata()):
            save_what_is_there(folders, store, facts, reason)
    ending.shut_down(reason)
    return 0


def program(folders: Folders, store: Store, facts: Facts, place: Place) -> Agent:
    """What this machine does: a run, alone or as the head of a cluster, or the work of a worker. Errors: MetadataError of a cluster."""
    parts = (folders, store, facts, lambda name: parameter(place.region, name), Pace())
    if roles.is_worker(place, Metadata()):
        from mistral_lib.on_machine.cluster.worker import Worker  # it is an agent itself

        return Worker(*parts, node=roles.private_address(Metadata()))
    agent = Agent(*parts)
    if place.nodes > 1:
        agent.nodes, agent.address = place.nodes, roles.private_address(Metadata())
    return agent


def save_what_is_there(folders: Folders, store: Store, facts: Facts, reason: str) -> None:
    """Before a machine ends whose program fails: the run saves, then its results, the log and the status are uploaded, as far as it works."""
    facts.reason = reason
    with suppress(Exception):
        run_unit.stop(folders, lambda: None)
    with suppress(Exception):
        until = min(facts.limits.ends_at, time.time() + LAST_SECONDS)
        Mirror(Uploads(store, folders.run_folder(facts.run)), facts).finish(False, until)
    with suppress(Exception):
        Agent(folders, store, facts, str, Pace()).report_end(reason)


def machine_id() -> str | None:
    """This machine's id, by which a status is told from that of an earlier machine; None if the metadata service does not answer."""
    try:
        return Metadata().instance_id()
    except MetadataError:
        return None


def failed_too_often(folders: Folders) -> bool:
    """Count one more failure since the start of the machine."""
    note = folders.runtime / "failures"
    with open(note, "ab") as file:
        file.write(b"x")
        return file.tell() >= MOST_FAILURES


def parameter(region: str, name: str) -> str:
    """A SecureString of Systems Manager. Errors: StoreError."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return client("ssm", region).get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]
    except (BotoCoreError, ClientError) as error:
        raise StoreError(f"the hub's token, parameter {name}: {error}") from None


if __name__ == "__main__":
    sys.exit(main())
