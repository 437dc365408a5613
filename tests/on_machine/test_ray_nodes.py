"""Ray's unit: valid for systemd; its very commands start a head and a worker as processes here, which work together and stop."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from mistral_lib.on_machine.cluster import ray_unit
from mistral_lib.on_machine.cluster.head import ATTEMPTS
from mistral_lib.on_machine.cluster.ray_commands import AUTHENTICATION, HEAD, NO_TOKEN, NODE, Ports
from mistral_lib.on_machine.folders import Folders
from tests.support.service_manager import expanded, read_unit

FIRST_PORT = 21_000
ADDRESSES = ("127.0.0.2", "127.0.0.3")  # Ray takes 127.0.0.1 for the address of the network
TASK = """
import time, ray
ray.init(address="auto", log_to_driver=False)
until = time.monotonic() + 60
while len(alive := [one for one in ray.nodes() if one["Alive"]]) < 2 and time.monotonic() < until:
    time.sleep(0.2)

@ray.remote
def where():
    return ray.util.get_node_ip_address()

strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
print(*sorted(ray.get([where.options(scheduling_strategy=strategy(one["NodeID"], soft=False)).remote() for one in alive])))
"""


def moved(by: int) -> Ports:
    return Ports(**{one.name: getattr(Ports(), one.name) + by for one in fields(Ports)})


@pytest.mark.parametrize("worker", [False, True])
def test_systemd_finds_nothing_wrong(folders: Folders, worker: bool) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed: `make machine-tools` as root")
    ray = folders.environment / "bin" / "ray"
    ray.parent.mkdir(parents=True)
    ray.write_text("#!/bin/sh\n")
    ray.chmod(0o755)
    unit = folders.units / ray_unit.RAY
    unit.write_text(ray_unit.text(folders, worker))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "mistral" in line or str(folders.base) in line]
    assert done.returncode == 0 and not said, done.stderr


@pytest.mark.parametrize("worker", [False, True])
def test_ray_has_the_runs_user_and_fixed_ports_that_the_groups_rule_admits(folders: Folders, worker: bool) -> None:
    from mistral_lib.instance.cluster import placement

    text = ray_unit.text(folders, worker)
    assert "User=workbook" in text and "NoNewPrivileges=true" in text and "Restart=no" in text
    assert "--disable-usage-stats" in text and ("--include-dashboard=false" in text) != worker
    assert f"--node-ip-address=${{{NODE}}}" in text and (f"--address=${{{HEAD}}}" in text) == worker
    used = [int(port) for port in re.findall(r"-port=(\d+)", text)]
    assert len(used) == (8 if worker else 9) == len(set(used))
    assert all(placement.FIRST_PORT <= port <= placement.LAST_PORT for port in used)


def test_the_paths_of_its_sockets_are_not_too_long() -> None:
    from mistral_lib.on_machine.folders import here

    session = "session_2026-11-30_12-00-00_123456_1234567/sockets/plasma_store"
    assert len(str(ray_unit.ray_folder(here()) / session)) <= 107  # bytes of a Unix socket's path


@pytest.fixture
def base() -> Iterator[Path]:
    """A short path, for the sockets."""
    place = Path(f"/tmp/ray-{os.getpid()}")
    place.mkdir()
    yield place
    shutil.rmtree(place)


def machine(base: Path) -> Folders:
    """The folders of a machine whose environment is that of these tests."""
    found = Folders(base, base / "run", base / "units")
    for place in (found.base, found.runtime, found.units, found.home):
        place.mkdir(parents=True)
    found.environment.symlink_to(sys.prefix)
    return found


@contextmanager
def started(folders: Folders, worker: bool, address: str, ports: Ports, head: str) -> Iterator[subprocess.Popen[bytes]]:
    """What systemd would start: the unit's command with its environment, as one group of processes; ended as systemd ends it.

    Ray gives up after half a minute on a busy computer: three attempts, as the machine's program makes them.
    """
    (folders.units / ray_unit.RAY).write_text(ray_unit.text(folders, worker, ports))
    unit = read_unit(folders.units / ray_unit.RAY)
    variables = {**os.environ, **set_by(unit), NODE: address, HEAD: head}
    words = [word for text in unit["ExecStart"][0].split() for word in expanded(text, variables)]
    log = Path(unit["StandardOutput"][0].removeprefix("append:"))
    for attempt in range(ATTEMPTS):
        with open(log, "ab") as out:
            process = subprocess.Popen(words, env=variables, cwd=unit["WorkingDirectory"][0], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)  # fmt: skip
        if is_ready(process, folders):
            break
        stop(process, unit)
        assert attempt < ATTEMPTS - 1, log.read_text()[-3000:]
    try:
        yield process
    finally:
        stop(process, unit)


def is_ready(process: subprocess.Popen[bytes], folders: Folders) -> bool:
    """Whether the node is a part of the cluster before its process ends."""
    while process.poll() is None and not ray_unit.ready_file(folders).exists():
        time.sleep(0.2)
    return process.poll() is None


def stop(process: subprocess.Popen[bytes], unit: dict[str, list[str]]) -> None:
    process.send_signal(getattr(signal, unit["KillSignal"][0]))
    try:
        process.wait(float(unit["TimeoutStopSec"][0]))
    finally:
        if members(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def set_by(unit: dict[str, list[str]]) -> dict[str, str]:
    return dict(word.split("=", 1) for line in unit["Environment"] for word in line.split())


def members(group: int) -> list[int]:
    """Processes of the group that live; Ray's own children stay in it."""
    found = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in found.splitlines()]
    return [int(pid) for pid, pgid, state in rows if int(pgid) == group and not state.startswith("Z")]


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install -e '.[ray]'")
def test_the_units_commands_start_a_head_and_a_worker_that_work_together(base: Path) -> None:
    head, worker = ADDRESSES
    ports = moved(FIRST_PORT)
    others = replace(moved(FIRST_PORT + 100), first_worker=42_000, last_worker=42_999)
    address, run = (
        f"{head}:{ports.head}",
        {**os.environ, AUTHENTICATION: NO_TOKEN, "RAY_ADDRESS": f"{head}:{ports.head}"},
    )  # as the run has it
    with started(machine(base / "h"), False, head, ports, address) as first:
        assert ray_unit.answers(head, ports.head)
        with started(machine(base / "w"), True, worker, others, address) as second:
            done = subprocess.run([sys.executable, "-c", TASK], env=run, capture_output=True, text=True, timeout=240, check=False)
            assert done.stdout.split() == [head, worker], done.stderr
            assert first.poll() is None and second.poll() is None
    assert not ray_unit.answers(head, ports.head) and not members(first.pid) and not members(second.pid)
