"""The head: starts Ray, publishes its address in the bucket, and waits for its workers. Then the run starts with the engine `ray`."""

import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from mistral_lib.on_machine import status_file
from mistral_lib.on_machine.bucket.object_store import Store, StoreError
from mistral_lib.on_machine.cluster import ray_unit
from mistral_lib.on_machine.cluster.ray_commands import AUTHENTICATION, NO_TOKEN
from mistral_lib.on_machine.folders import Folders
from mistral_lib.on_machine.job import Job
from mistral_lib.on_machine.programs import ProgramError

HEAD = "machine/head.json"  # below the prefix: the head's address and machine id, for its workers
WORKERS = "machine/workers/"  # below the prefix: the reports of the workers, by their ids
JOINED = "Ray works for the head"  # what a worker reports once its Ray runs
ATTEMPTS, START_SECONDS = 3, 120.0  # to start Ray, which gives up by itself after half a minute on a machine that is slow at first
WAIT_SECONDS = 900.0  # for workers; then the run starts with those that are there
FRESH = timedelta(minutes=3)  # a report of a machine that lives; one is due every 20 seconds


def begin(
    folders: Folders, store: Store, nodes: int, address: str, machine: str | None, variables: Mapping[str, str],
    say: Callable[[str], None], check: Callable[[], None], every: float = 5.0,
) -> None:  # fmt: skip
    """Start Ray, publish the address, wait for the workers. nodes: machines with this one; check: raises if the machine has to end; every:
    seconds between two looks. Errors: ProgramError if Ray does not start; OSError; what `check` raises."""
    say("Ray is started on the head")
    ray_unit.install(folders, worker=False)
    _started(folders, variables, address, check)
    note = json.dumps({"address": address, "machine": machine, "written": status_file.iso(time.time())}).encode()
    until = time.monotonic() + WAIT_SECONDS
    published, there = False, 0
    while there < nodes - 1 and time.monotonic() < until:
        try:
            if not published:
                store.write(HEAD, note, "application/json")
                published = True
            there = joined(store, address)
            say(f"{there} of {nodes - 1} workers have joined")
        except StoreError as error:
            say(f"waiting for S3: {error}")
        check()
        time.sleep(every if there < nodes - 1 else 0)
    if there < nodes - 1:
        say(f"the run starts with {there} of {nodes - 1} workers: the others did not join within {WAIT_SECONDS / 60:.0f} minutes")


def _started(folders: Folders, variables: Mapping[str, str], address: str, check: Callable[[], None]) -> None:
    for _ in range(ATTEMPTS):
        ray_unit.start(folders, variables, address, address)
        until = time.monotonic() + START_SECONDS
        while ray_unit.is_active() and time.monotonic() < until:
            if ray_unit.is_ready(folders):
                return
            check()
            time.sleep(0.5)
        ray_unit.stop()
    said = " | ".join(status_file.last_lines(folders.base / "ray.log", 6))
    raise ProgramError(f"Ray did not start on the head in {ATTEMPTS} attempts: {said or 'it printed nothing'}")


def joined(store: Store, address: str) -> int:
    """How many workers report that their Ray works for the head of this address. Errors: StoreError."""
    reports = [report(store.read(name)) for name in store.names(WORKERS) if name.endswith("/status.json")]
    return sum(one.get("doing") == f"{JOINED} {address}" and is_fresh(one) for one in reports)


def report(content: bytes | None) -> dict[str, Any]:
    """What a machine of the cluster wrote; empty if it cannot be read."""
    try:
        return dict(json.loads(content or b"{}"))
    except (ValueError, TypeError):
        return {}


def is_fresh(status: Mapping[str, Any]) -> bool:
    """Whether a machine has reported lately."""
    return bool(status.get("updated")) and datetime.fromisoformat(status["updated"]).astimezone(UTC) > datetime.now(UTC) - FRESH


def run_variables(job: Job, params: str, address: str, before: Mapping[str, str]) -> dict[str, str]:
    """The run's variables: it finds Ray on this machine, and shares its work in the bucket, unless the parameters name another place."""
    chosen = {"engine": "ray", "ray_address": "auto"}
    if not re.search(r"^shared_folder:\s*['\"]?s3://", params, re.MULTILINE):
        chosen["shared_folder"] = f"s3://{job.bucket}/{job.prefix.rstrip('/')}/work"
    options = [before.get("RUN_OPTIONS", ""), *(f"--set {name}={value}" for name, value in chosen.items())]
    ray = {"RAY_ADDRESS": ray_unit.head_address(address), AUTHENTICATION: NO_TOKEN}
    return {**before, "RUN_OPTIONS": " ".join(filter(None, options)), **ray}
