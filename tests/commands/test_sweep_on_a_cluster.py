"""A sweep on a Ray cluster of two nodes: side by side, what is shared is prepared once, and a fault or a lost worker stops no other."""

import _thread
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mistral_lib import __main__
from mistral_lib.commands import sweep, sweep_runs
from mistral_lib.engine import ray_cluster, ray_commands
from mistral_lib.engine.ray_cluster import ClusterError
from mistral_lib.engine.ray_commands import Command, CommandWorker, Share
from mistral_lib.run import Run, files, params
from mistral_lib.run.settings import Settings
from tests.support import false_run, ray_nodes

pytest.importorskip("ray", reason="ray is an extra: pip install -e .[ray]")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ray_nodes.cluster(1, 1) as cluster, ray_cluster.connected(cluster.address):
        yield cluster.address


@pytest.fixture
def false(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alternatives that do what their names say, in a moment."""
    monkeypatch.setattr(sweep_runs, "command", false_run.words)


def alternatives(home: Path, settings: Settings, *names: str, **changes: Any) -> sweep.Sweep:
    """A sweep whose alternatives differ in their learning rate, so that their data are the same."""
    base = settings.model_copy(update={"sample_count": 0, "general_prompts": 0, **changes})
    (home / "base.yaml").write_text(params.to_yaml(base))
    each = "\n".join(f"  {name}: {{learning_rate: {number}.0e-3}}" for number, name in enumerate(names, 1))
    (home / "try.yaml").write_text(f"params_file: base.yaml\nalternatives:\n{each}\n")
    return sweep.load(home / "try.yaml")


def log(home: Path, name: str) -> str:
    return (home / "runs" / f"try-{name}" / sweep_runs.OUTPUT).read_text()


def rows(home: Path) -> dict[str, dict]:
    return {row["alternative"]: row for row in json.loads((home / "runs" / "try" / "comparison.json").read_text())["rows"]}


def meanwhile(act: Callable[[], Any], *paths: Path) -> threading.Thread:
    """Do something once these files are there."""

    def watch() -> None:
        until = time.monotonic() + 120
        while not all(path.exists() for path in paths) and time.monotonic() < until:
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def kill_the_workers(address: str) -> None:
    for process in ray_nodes.workers(address, "CommandWorker"):
        ray_nodes.kill(process)


def test_alternatives_run_at_the_same_time_a_finished_one_is_skipped_and_a_failed_one_stops_no_other(
    address: str, home: Path, settings: Settings, false: None, capsys: pytest.CaptureFixture
) -> None:
    found = alternatives(home, settings, "fails", "finished", "meets-one", "meets-two")
    false_run.finish(Run.open(found.alternatives[1].settings))
    assert sweep_runs.run_on_cluster(found, ["00"], address) == 1
    said = capsys.readouterr()
    assert "4 alternatives, each with 1 core, on the nodes " in said.err
    assert "alternative 2 of 4: finished: done already, skipped" in said.err and not (home / "runs" / "try-finished" / "sweep.out").exists()
    assert "FAILED fails: ValueError: this one is broken; log: runs/try-fails/sweep.out" in said.err
    assert len(re.findall(r"meets-\w+: runs on \S+/\w{4} with 1 core; it prints to runs/try-meets-\w+/sweep.out", said.err)) == 2
    assert len(re.findall(r"meets-\w+: done in \d+ s", said.err)) == 2 and "1 of 4 alternatives failed" in said.err
    times = [dict(line.split() for line in log(home, name).splitlines()) for name in ("meets-one", "meets-two")]
    assert max(float(one["began"]) for one in times) < min(float(one["ended"]) for one in times)
    assert rows(home)["fails"]["status"] == "failed" and rows(home)["fails"]["failure"].startswith("ValueError")
    assert "comparison: runs/try/comparison.html" in said.out and not list((home / "runs" / "try").glob(".seen*"))


def test_an_alternative_whose_worker_is_killed_runs_again_and_is_failed_after_the_second_time(
    address: str, home: Path, settings: Settings, false: None, capsys: pytest.CaptureFixture
) -> None:
    found = alternatives(home, settings, "resumes", "waits")
    resumes, waits = (home / "runs" / f"try-{name}" for name in ("resumes", "waits"))
    first = meanwhile(partial(kill_the_workers, address), resumes / "began.0", waits / "began.0")
    second = meanwhile(
        partial(kill_the_workers, address), home / "runs" / "try" / "comparison.json", waits / "began.1"
    )  # the other one has ended
    assert sweep_runs.run_on_cluster(found, ["00"], address) == 1
    first.join()
    second.join()
    said = capsys.readouterr().err
    assert len(re.findall(r"(?:resumes|waits): its worker on \S+/\w{4} was lost \(.+\); it is started again and resumes", said)) == 2
    assert log(home, "resumes").count("began") == 2 and log(home, "resumes").count("ended") == 1
    assert log(home, "resumes").splitlines()[1] == "saved", "what a lost worker had started was ended, and could save"
    assert "resumes: done in" in said and "FAILED waits: its worker was lost 2 times" in said
    assert log(home, "waits").count("began") == log(home, "waits").count("saved") == 2


def test_an_interrupt_stops_all_and_lets_them_save(
    address: str, home: Path, settings: Settings, false: None, capsys: pytest.CaptureFixture
) -> None:
    found = alternatives(home, settings, "waits")
    meanwhile(_thread.interrupt_main, home / "runs" / "try-waits" / "began.0")
    with pytest.raises(KeyboardInterrupt):
        sweep_runs.run_on_cluster(found, ["00"], address)
    assert log(home, "waits").endswith("saved\n") and "stopping waits: a training saves after its step" in capsys.readouterr().err
    assert not list((home / "runs" / "try").glob(".seen*"))


def test_shared_data_are_prepared_once_and_a_missing_corpus_takes_no_worker(
    address: str, home: Path, settings: Settings, false: None, capsys: pytest.CaptureFixture
) -> None:
    found = alternatives(home, settings, "prepares-one", "lost", "prepares-two")
    found.alternatives[1] = sweep.Alternative("lost", {}, found.alternatives[1].settings.model_copy(update={"corpus_paths": ["nowhere"]}))
    assert sweep_runs.run_on_cluster(found, ["02"], address) == 1
    said = capsys.readouterr().err
    assert "FAILED lost: SourceError: corpus_paths: 'nowhere'" in said and not (home / "runs" / "try-lost").exists()
    assert said.count("data: taken over from runs/try-prepares-one, verified") == 1
    data = [Run.existing(home / "runs" / f"try-prepares-{name}").entry("data") for name in ("one", "two")]
    assert data[0]["taken_over"] is None and data[1]["taken_over"]["from"] == "runs/try-prepares-one"
    assert data[0]["outputs"] == data[1]["outputs"] and "data: unchanged" in log(home, "prepares-two")


def test_a_node_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "this_node", lambda: "10.0.0.7/ab12")
    monkeypatch.setattr(ray_commands, "SHARED_SECONDS", 0.1)
    command = Command("one", ("-c", "pass"), tmp_path / "log")
    _, other = CommandWorker().start(command, "of another commit", tmp_path, {})
    assert other == "node 10.0.0.7/ab12 has another version of this library: install the same commit on every node"
    _, blind = CommandWorker().start(command, ray_commands.library_hash(), tmp_path / "nowhere" / "marker", {})
    assert f"does not see {tmp_path}/nowhere: all nodes need the runs folder at the same place; set MISTRAL_WORKBOOK_HOME" in blind


def false_cluster(*resources: dict[str, float]) -> Any:
    nodes = [{"Alive": True, "Resources": one} for one in resources] + [{"Alive": False, "Resources": {"CPU": 1.0, "GPU": 9.0}}]
    total = {key: sum(one.get(key, 0) for one in resources) for key in ("CPU", "GPU")}
    return SimpleNamespace(nodes=lambda: nodes, cluster_resources=lambda: total)


def test_what_each_alternative_gets() -> None:
    gpus = false_cluster({"CPU": 4.0}, {"CPU": 32.0, "GPU": 4.0}, {"CPU": 6.0, "GPU": 1.0})
    assert ray_commands.share(gpus, None) == Share(6, 1) and str(Share(6, 1)) == "1 GPU, 6 cores"
    assert ray_commands.share(gpus, 2) == Share(2, 1)
    assert ray_commands.share(false_cluster({"CPU": 16.0}, {"CPU": 6.0}), None) == Share(3, 0)
    assert ray_commands.share(false_cluster({"CPU": 1.0}), None) == Share(1, 0), "at least one"
    with pytest.raises(ClusterError, match="--cores 33: no node with a GPU has more than 32"):
        ray_commands.share(gpus, 33)
    with pytest.raises(ClusterError, match="has no CPU to work with"):
        ray_commands.share(false_cluster({}), None)


def test_the_options_are_checked(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        __main__.parser().parse_args(["sweep", "x.yaml", "--engine", "ray", "--cores", "0"])
    assert "--cores: 0: expected a whole number, at least 1" in capsys.readouterr().err


@pytest.fixture
def started(home: Path, address: str) -> Iterator[Callable[[], subprocess.Popen]]:
    """Starts the whole command; none is left at the end."""
    begun: list[subprocess.Popen] = []

    def start() -> subprocess.Popen:
        words = ["sweep", str(home / "try.yaml"), "--engine", "ray", "--ray-address", address, "--only", "03", "04"]
        begun.append(
            subprocess.Popen([sys.executable, "-m", "mistral_lib", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.long
def test_trainings_side_by_side_survive_an_interrupt_and_killed_workers(
    started: Callable[[], subprocess.Popen], address: str, home: Path, prepared: Run, settings: Settings
) -> None:
    """The whole command: interrupted while both train; run again, its workers are killed; then both are complete and compared."""
    alternatives(home, settings, "fast", "slow", max_steps=300, checkpoint_every_steps=10, validate_every_steps=0)
    folders = [home / "runs" / f"try-{name}" for name in ("fast", "slow")]
    first = started()
    wait_for_steps(first, folders, 12)
    os.kill(first.pid, signal.SIGINT)
    out, error = first.communicate(timeout=300)
    assert first.returncode == 130 and "stopping fast, slow" in error, error[-3000:]
    assert [Run.existing(folder).status("training") for folder in folders] == ["interrupted"] * 2
    reached = [latest_step(folder) for folder in folders]
    second = started()
    wait_for_steps(second, folders, max(reached) + 12)
    kill_the_workers(address)
    out, error = second.communicate(timeout=600)
    assert second.returncode == 0, error[-3000:]
    assert error.count("was lost (") == 2 and "Lowest validation loss: " in out
    for folder in folders:
        starts = [event["from_step"] for event in events(folder) if event["event"] == "started"]
        assert len(starts) == 3 and starts[0] == 0 < starts[1] < starts[2], "each time from a later checkpoint"
        assert Run.existing(folder).status("evaluation") == "complete"
    third = started()
    out, error = third.communicate(timeout=300)
    assert third.returncode == 0 and error.count("done already, skipped") == 2


def events(folder: Path) -> list[dict]:
    return files.read_json_lines(folder / "training" / "log.jsonl")


def latest_step(folder: Path) -> int:
    return max((event["step"] for event in events(folder) if event["event"] == "step"), default=0)


def wait_for_steps(process: subprocess.Popen, folders: list[Path], step: int) -> None:
    until = time.monotonic() + 300
    while min(map(latest_step, folders)) < step:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until, [latest_step(folder) for folder in folders]
        time.sleep(0.2)
