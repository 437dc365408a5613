"""Parts in a bucket behind a network that is slow, drops connections or is gone: tried again, then a clear error; what is finished stands."""

import random
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest

from mistral_lib.corpus import shared_storage
from mistral_lib.corpus.shared_storage import Bucket, SharedStorageError
from mistral_lib.preparation import part_cache, prepare
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.run import Run
from mistral_lib.run.settings import Settings
from tests.support import slow_proxy
from tests.support.corpora import artefacts, other

pytest.importorskip("s3fs", reason="s3fs is an extra: pip install -e .[s3]")


@pytest.fixture
def network(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[slow_proxy.Proxy]:
    """The network before a server with the bucket `shared`, and no long pauses."""
    for name, value in {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(shared_storage, "PAUSES", (0.0, 0.0, 0.0, 0.0))
    boto3.client("s3", endpoint_url=server).create_bucket(Bucket="shared")
    with slow_proxy.before(server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy
    client = boto3.resource("s3", endpoint_url=server).Bucket("shared")
    client.objects.all().delete()
    client.delete()


def made(cache: PartCache, name: str) -> None:
    with cache.new_part(name) as folder:
        part_cache.write(folder, {"name": name}, {"numbers": np.arange(5)})


def on(folder: Path) -> PartCache:
    """The parts as another machine sees them."""
    return PartCache(folder, "key", Bucket("s3://shared/work/key"))


def test_a_part_that_one_machine_writes_another_one_reads(network: slow_proxy.Proxy, tmp_path: Path) -> None:
    made(one := on(tmp_path / "one"), "rows-00000-000")
    two = on(tmp_path / "two")
    assert two.names() == {"rows-00000-000"} and two.facts("rows-00001-000") is None
    facts, arrays = two.part("rows-00000-000")
    assert facts == {"name": "rows-00000-000"} and arrays["numbers"].tolist() == [0, 1, 2, 3, 4]
    one.discard()
    assert on(tmp_path / "three").names() == set()


def test_a_network_that_is_slow_and_drops_connections_is_tried_again(network: slow_proxy.Proxy, tmp_path: Path) -> None:
    choose = random.Random(1)
    network.seconds, network.drops = 0.2, lambda number: choose.random() < 0.3
    one, two = on(tmp_path / "one"), on(tmp_path / "two")
    for number in range(4):
        made(one, f"rows-{number:05}-000")
    assert all(two.part(f"rows-{number:05}-000") for number in range(4)) and network.count > 20


def test_a_network_that_is_gone_ends_with_the_name_of_the_part_and_the_others_stand(network: slow_proxy.Proxy, tmp_path: Path) -> None:
    one = on(tmp_path / "one")
    made(one, "rows-00000-000")
    network.drops = lambda number: True
    with pytest.raises(
        SharedStorageError, match=r"rows-00001-000 cannot be written to s3://shared/work/key, tried 5 times: .*finished stand: run again"
    ):
        made(one, "rows-00001-000")
    network.drops = lambda number: False
    assert on(tmp_path / "two").names() == {"rows-00000-000"}


def test_what_arrives_altered_is_not_used(network: slow_proxy.Proxy, server: str, tmp_path: Path) -> None:
    made(on(tmp_path / "one"), "rows-00000-000")
    boto3.client("s3", endpoint_url=server).put_object(Bucket="shared", Key="work/key/rows-00000-000/numbers.npy", Body=b"altered")
    with pytest.raises(SharedStorageError, match=r"rows-00000-000 cannot be read from .*what arrived is not what was written"):
        on(tmp_path / "two").part("rows-00000-000")


def test_a_preparation_whose_storage_fails_resumes_from_the_parts_that_stand(
    network: slow_proxy.Proxy, prepared: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    expected, run = artefacts(prepared), other(prepared, run_name="shared", shared_folder="s3://shared/work")
    make = part_cache.write

    def fails_at_tokens(folder: Path, *what: object) -> None:
        network.drops = lambda number: "tokens" in folder.name
        make(folder, *what)

    with monkeypatch.context() as patched:
        patched.setattr(part_cache, "write", fails_at_tokens)
        with pytest.raises(SharedStorageError, match=r"tokens-0-00000 cannot be written to s3://shared/work/shared\.data\.work/"):
            prepare.prepare(run)
    network.drops = lambda number: False
    assert run.status("data") == "failed"
    prepare.prepare(run)
    assert "rows were read before and are reused" in capsys.readouterr().err and artefacts(run) == expected


def test_the_shared_folder_of_a_run_is_where_its_parts_are(home: Path) -> None:
    own = home / "runs" / "a" / ".data.work"
    assert part_cache.of_run(Settings(run_name="a"), own, "k" * 64).folder == own
    shared = [
        part_cache.of_run(Settings(run_name="a", shared_folder="all"), place, "k" * 64).folder for place in (own, own, own / "b" / own.name)
    ]
    assert shared[0] == shared[1] != shared[2] and shared[0].parent == home / "all" and shared[0].name.endswith(".data.work"), (
        "a run of this name"
    )
    assert part_cache.of_run(Settings(run_name="a", shared_folder="s3://b/p/"), own, "k" * 64).bucket == Bucket(
        f"s3://b/p/a.data.work/{'k' * 16}"
    )
