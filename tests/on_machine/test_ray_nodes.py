"""Ray's unit: valid for systemd; its very commands start a head and a worker as processes here, which work together and stop."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from mistral_lib.on_machine.cluster import ray_unit
from mistral_lib.on_machine.cluster.ray_commands import HEAD, NODE, Ports
from mistral_lib.on_machine.folders import Folders
from tests.support.service_manager import expanded, read_unit

FIRST_PORT = 21_000
ADDRESSES = ("127.0.0.2", "127.0.0.3")  # Ray takes 127.0.0.1 for the address of the network
TASK = """
import sys, time, ray
ray.init(address=sys.argv[1], log_to_driver=False)
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
def short_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folders]:
    """Of a machine whose environment is that of these tests; below a short path, for the sockets."""
    base = Path(f"/tmp/ray-nodes-{os.getpid()}")
    found = Folders(base, base / "run", base / "units")
    for place in (found.base, found.runtime, found.units, found.home):
        place.mkdir()
    found.environment.symlink_to(sys.prefix)
    yield found
    shutil.rmtree(base)


@contextmanager
def started(folders: Folders, worker: bool, address: str, ports: Ports, head: str) -> Iterator[subprocess.Popen[bytes]]:
    """What systemd would start: the unit's command with its environment, as one group of processes; ended as systemd ends it."""
    path = folders.units / f"{'worker' if worker else 'head'}.service"
    path.write_text(ray_unit.text(folders, worker, ports))
    unit = read_unit(path)
    variables = {**os.environ, NODE: address, HEAD: head, "RAY_DISABLE_DOCKER_CPU_WARNING": "1"}
    words = [word for text in unit["ExecStart"][0].split() for word in expanded(text, variables)]
    log = Path(unit["StandardOutput"][0].removeprefix("append:"))
    with open(log, "ab") as out:
        process = subprocess.Popen(words, env=variables, cwd=unit["WorkingDirectory"][0], stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)  # fmt: skip
    try:
        yield process
    finally:
        process.send_signal(getattr(signal, unit["KillSignal"][0]))
        try:
            process.wait(float(unit["TimeoutStopSec"][0]))
        finally:
            if members(process.pid):
                os.killpg(process.pid, signal.SIGKILL)


def members(group: int) -> list[int]:
    """Processes of the group that live; Ray's own children stay in it."""
    found = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in found.splitlines()]
    return [int(pid) for pid, pgid, state in rows if int(pgid) == group and not state.startswith("Z")]


def wait_for(what: str, condition: Callable[[], bool], log: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"{what}: not within {seconds:g} s\n{log.read_text()[-3000:]}"
        time.sleep(0.2)


@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install -e '.[ray]'")
def test_the_units_commands_start_a_head_and_a_worker_that_work_together(short_folders: Folders) -> None:
    folders, (head, worker) = short_folders, ADDRESSES
    ports = moved(FIRST_PORT)
    others = replace(moved(FIRST_PORT + 100), first_worker=42_000, last_worker=42_999)
    address = f"{head}:{ports.head}"
    with started(folders, False, head, ports, address) as first:
        wait_for("the head", lambda: ray_unit.answers(head, ports.head), folders.base / "ray.log")
        with started(folders, True, worker, others, address) as second:
            done = subprocess.run([sys.executable, "-c", TASK, address], capture_output=True, text=True, timeout=120, check=False)
            assert done.stdout.split() == [head, worker], done.stderr + folders.run_log.read_text()[-3000:]
            assert first.poll() is None and second.poll() is None
    assert not ray_unit.answers(head, ports.head) and not members(first.pid) and not members(second.pid)
