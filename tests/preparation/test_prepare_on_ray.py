"""The corpus and data stages on a Ray cluster of two nodes: the same bytes as on this machine, whatever is lost on the way."""

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mistral_lib.corpus import sources, stretches
from mistral_lib.engine import ray_cluster
from mistral_lib.engine.job import Job, WorkerLostError
from mistral_lib.preparation import explore, part_cache, prepare, row_parts, stretch_parts
from mistral_lib.preparation.part_cache import PartCache, UnsharedFolderError
from mistral_lib.preparation.survey import row_facts
from mistral_lib.run import Run, files, params
from tests.preparation import test_prepare_every_format as every_format
from tests.support import ray_nodes
from tests.support.corpora import artefacts, other, rows, short_run

pytest.importorskip("ray", reason="ray is an extra: pip install -e .[ray]")
SMALL = 20_000  # bytes of a stretch: the small corpus has some thirty
KILLS = int(os.environ.get("KILLS", "1"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    os.environ.update({"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"})  # what the nodes of a real cluster have by their role
    with ray_nodes.cluster(2, 2) as started:
        yield started


@pytest.fixture
def mixed(home: Path, settings: params.Settings) -> Run:
    """A run, not prepared yet, on ordinary rows and every container, shape and defect that real corpora have."""
    every_format.write(home / "corpora" / "small")
    for domain in ("red", "green", "blue"):
        files.write_json_lines(home / "corpora" / "small" / f"{domain}.jsonl", rows(domain, 400))
    return Run.open(settings.model_copy(update={"max_rejected_share": 0.9}))


def everything(run: Run) -> dict[str, Any]:
    """Hashes of the artefacts of both stages."""
    explore.explore(run)
    prepare.prepare(run)
    corpus = {name: fact["sha256"] for name, fact in files.hashes(run.folder / "corpus", run.folder).items()}
    return {**artefacts(run), **corpus}


def on(cluster: Any, run: Run, name: str, **changes: object) -> Run:
    return other(run, run_name=name, engine="ray", ray_address=cluster.address, **changes)


LONG = pytest.mark.long


@pytest.mark.parametrize(
    ("workers", "size"), [(3, SMALL), *(pytest.param(*case, marks=LONG) for case in ((1, SMALL), (2, 10**9), (4, 5_000)))]
)
def test_any_number_of_workers_and_any_cut_give_the_same_bytes(
    cluster: Any, mixed: Run, monkeypatch: pytest.MonkeyPatch, workers: int, size: int
) -> None:
    expected = everything(mixed)
    monkeypatch.setattr(stretches, "SIZE", size)
    monkeypatch.setattr(ray_cluster, "cpus", lambda ray: workers)
    assert everything(on(cluster, mixed, f"workers-{workers}")) == expected


def disturbed(disturbance: Callable[[], None], after: Path, work: Callable[[], Any]) -> Any:
    """Do the work; the disturbance comes once a file is there."""

    def disturb() -> None:
        deadline = time.monotonic() + 120
        while not after.exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        disturbance()

    thread = threading.Thread(target=disturb)
    thread.start()
    done = work()
    thread.join()
    return done


def test_a_worker_that_is_killed_at_any_moment_costs_its_part_and_not_the_run(
    cluster: Any, mixed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = everything(mixed)
    monkeypatch.setattr(stretches, "SIZE", SMALL)
    killed = []

    def kill() -> None:
        killed.append(random.choice(ray_nodes.workers(cluster.address) or [0]))
        if killed[-1]:
            ray_nodes.kill(killed[-1])

    for number in range(KILLS):
        run = on(cluster, mixed, f"killed-{number}")
        stage, part = (".data.work", ".corpus.work")[number % 2], stretch_parts.name_of(random.Random(number).randrange(10), 0)
        first = run.folder / stage / part / "complete.json"
        assert disturbed(kill, first, lambda run=run: everything(run)) == expected
    assert len(killed) == KILLS and all(killed)


@LONG
def test_a_node_that_is_removed_costs_its_parts_and_not_the_run(mixed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    expected = everything(mixed)
    monkeypatch.setattr(stretches, "SIZE", 5_000)
    ray.shutdown()
    with ray_nodes.cluster(1, 1) as own:
        run = on(own, mixed, "removed")
        first = run.folder / ".data.work" / stretch_parts.name_of(3, 0) / "complete.json"
        lost = own.list_all_nodes()[1]
        found = disturbed(lambda: own.remove_node(lost, allow_graceful=False), first, lambda: everything(run))
    assert found == expected


def test_what_one_engine_has_finished_the_other_one_reuses(
    cluster: Any, mixed: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    expected = everything(mixed)
    monkeypatch.setattr(stretches, "SIZE", SMALL)
    inspect = row_parts.Inspector.inspect

    def stops(self: Any, batch: list) -> Any:
        if (monkeypatch_count := len(list((run.folder / ".data.work").glob("rows-*")))) >= 4:
            raise KeyboardInterrupt(f"after {monkeypatch_count} parts")
        return inspect(self, batch)

    run = other(mixed, run_name="resumed")
    with monkeypatch.context() as patched:
        patched.setattr(row_parts.Inspector, "inspect", stops)
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(run)
    before = {path.name for path in (run.folder / ".data.work").glob("rows-*")}
    rayed = on(cluster, mixed, "resumed")
    with monkeypatch.context() as patched:
        patched.setattr(prepare.Preparation, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            prepare.prepare(rayed)
    assert "rows were read before and are reused" in capsys.readouterr().err and len(before) == 4
    assert everything(other(mixed, run_name="resumed")) == expected
    assert "records were tokenized before and are reused" in capsys.readouterr().err


def test_a_corpus_stage_is_resumed_with_the_other_engine(
    cluster: Any, mixed: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    expected = everything(mixed)
    monkeypatch.setattr(stretches, "SIZE", SMALL)
    surveyed = row_facts._surveyed

    def stops(*given: Any) -> Any:
        if len(list((mixed.folder.parent / "resumed" / ".corpus.work").glob("rows-*"))) >= 4:
            raise KeyboardInterrupt
        return surveyed(*given)

    with monkeypatch.context() as patched:
        patched.setattr(row_facts, "_surveyed", stops)
        with pytest.raises(KeyboardInterrupt):
            explore.explore(other(mixed, run_name="resumed"))
    with monkeypatch.context() as patched:
        patched.setattr(explore.inventory.Inventory, "entries", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            explore.explore(on(cluster, mixed, "resumed"))
    assert "corpus: rows read by Ray" in capsys.readouterr().err
    assert everything(other(mixed, run_name="resumed")) == expected
    assert "corpus: " in (said := capsys.readouterr().err) and "rows were read before and are reused" in said


def test_a_corpus_that_a_node_does_not_see_and_a_folder_that_is_not_shared_are_named(
    cluster: Any, settings: params.Settings, home: Path, tmp_path: Path
) -> None:
    cache = PartCache(tmp_path / "work", "key")
    (tmp_path / "work" / part_cache.KEY).write_text("of another machine")
    with pytest.raises(
        UnsharedFolderError, match=r"work is not the folder.*set shared_folder to a folder that every node sees.*or to s3://"
    ):
        cache.seen_by_workers().check()
    gone = sources.SourceFile(tmp_path / "gone.jsonl", "gone.jsonl", "corpus")
    rayed, inspection = settings.model_copy(update={"engine": "ray"}), Job("mistral_lib.preparation.row_parts:inspection", (settings, None))
    work = stretch_parts.reader([gone], rayed, inspection, PartCache(tmp_path / "work", "key").seen_by_workers(), False)
    with pytest.raises(
        sources.SourceError, match=r"gone\.jsonl.*cannot be read.*Every node of the cluster must see the corpus under this path"
    ):
        work((0, stretches.Stretch(((0, stretches.WHOLE),)), None))


def test_parts_in_a_bucket_are_the_same_and_are_deleted_at_the_end(
    cluster: Any, server: str, mixed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    for name, value in {"AWS_ENDPOINT_URL": server, "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=server)
    client.create_bucket(Bucket="shared")
    expected = everything(mixed)
    monkeypatch.setattr(stretches, "SIZE", 50_000)
    seen: set[str] = set()
    write = prepare.Preparation.write

    def looked(self: Any, prepared: Any) -> Any:
        seen.update(fact["Key"].split("/")[3] for fact in client.list_objects_v2(Bucket="shared")["Contents"])
        return write(self, prepared)

    monkeypatch.setattr(prepare.Preparation, "write", looked)
    assert everything(on(cluster, mixed, "bucket", shared_folder="s3://shared/work/")) == expected
    assert {name.partition("-")[0] for name in seen} == {"plan", "rows", "near", "tokens"}
    assert client.list_objects_v2(Bucket="shared").get("KeyCount") == 0


def test_a_lost_worker_is_no_lost_run_but_three_with_one_part_are(cluster: Any, mixed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stretch_parts, "MODULE", "tests.preparation.test_prepare_on_ray")
    with pytest.raises(WorkerLostError, match=r"stretch 0: 3 workers were lost with it"):
        prepare.prepare(on(cluster, mixed, "lost"))


def reader(*_: object) -> Callable[[Any], Any]:
    return lambda item: os._exit(9)


def looking() -> Callable[[Any], Any]:
    return stretches.look


@LONG
@pytest.mark.parametrize("corpus", ["demo", "generated"])
def test_the_demo_corpus_and_many_rows(cluster: Any, home: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch, corpus: str) -> None:
    changes = {} if corpus == "demo" else {"corpus_paths": ["corpora/many"], "base_model": tiny_model}
    if corpus == "generated":
        count = int(os.environ.get("ROWS", "100000"))
        for start in range(0, count, 100_000):
            files.write_json_lines(home / "corpora" / "many" / f"{start}.jsonl", rows(f"part{start}", min(100_000, count - start)))
    run = Run.open(short_run(run_name="here", most_repeated_pattern=10**9, near_duplicate_threshold=0.95, **changes))
    expected = everything(run)
    for workers, size in ((1, 10**6), (2, 2 * 10**6), (4, 16 * 2**20)):
        monkeypatch.setattr(stretches, "SIZE", size)
        monkeypatch.setattr(ray_cluster, "cpus", lambda ray, workers=workers: workers)
        assert everything(on(cluster, run, f"rayed-{workers}")) == expected
