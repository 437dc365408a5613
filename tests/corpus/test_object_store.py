"""s3:// against a real S3 API server over HTTP on the loopback, also if it is stopped or never answers."""

import socket
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from mistral_lib.corpus import sources
from mistral_lib.corpus.sources import SourceError
from mistral_lib.preparation import prepare
from mistral_lib.run import Run
from tests.support.containers import LINES, ROWS, STRUCTURED

pytest.importorskip("s3fs", reason="s3fs is an extra: pip install -e .[s3]")
server_module = pytest.importorskip("moto.server", reason="moto[server] is an extra of the tests")


READING = {"salvage": True, "pdf_characters": 0, "ocr": False, "columns": {}, "domain_key": "domain", "group_key": ""}


@pytest.fixture
def bucket(server, monkeypatch):
    """An S3 client whose bucket `corpora` has files."""
    import boto3

    use(monkeypatch, server)
    client = boto3.client("s3", endpoint_url=server)
    client.create_bucket(Bucket="corpora")
    for name in ("b.jsonl", "law/a.jsonl", "law/.hidden.jsonl", "tables/a.parquet", "tables/a.zip", "law/"):
        data = STRUCTURED.get(name.rpartition("/")[2], lambda: LINES)()
        client.put_object(Bucket="corpora", Key=f"mine/{name}", Body=b"" if name.endswith("/") else data)
    yield client
    for fact in client.list_objects_v2(Bucket="corpora")["Contents"]:
        client.delete_object(Bucket="corpora", Key=fact["Key"])
    client.delete_bucket(Bucket="corpora")


def use(monkeypatch, endpoint: str) -> None:
    for name, value in {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                        "AWS_DEFAULT_REGION": "us-east-1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)


def find(url: str) -> list[sources.SourceFile]:
    return sources.find([url], "corpus")


@pytest.mark.parametrize("url", ["s3://corpora/mine", "s3://corpora/mine/"])
def test_a_prefix_is_read_like_a_folder(bucket, url):
    found = find(url)
    assert [file.name for file in found] == ["b.jsonl", "law/a.jsonl", "tables/a.parquet", "tables/a.zip"]
    for file in found:
        rows = list(sources.rows(file))
        assert [row.value for row in rows] == ROWS and rows[0].source.startswith(file.name)
    assert found[0].size == len(LINES)


def test_one_object_and_a_glob(bucket):
    assert [file.name for file in find("s3://corpora/mine/b.jsonl")] == ["b.jsonl"]
    assert [file.name for file in find("s3://corpora/mine/*/*.jsonl")] == ["a.jsonl"]


def test_the_hash_of_the_inputs_follows_the_content_without_reading_it(bucket):
    before = sources.inputs(find("s3://corpora/mine"))
    bucket.put_object(Bucket="corpora", Key="mine/b.jsonl", Body=LINES.replace(b"1", b"2"))
    after = sources.inputs(find("s3://corpora/mine"))
    assert [name for name in before if before[name] != after[name]] == ["corpus/b.jsonl"]


@pytest.mark.parametrize("url", ["s3://corpora/nothing", "s3://no-such-bucket/x"])
def test_a_missing_object_is_reported_by_name(bucket, url):
    with pytest.raises(SourceError, match=f"corpus_paths: '{url}'.*(no such bucket|no such file)"):
        find(url)


def test_an_object_deleted_after_listing_is_an_error_and_not_a_problem_row(bucket):
    found = find("s3://corpora/mine")
    bucket.delete_object(Bucket="corpora", Key="mine/b.jsonl")
    with pytest.raises(SourceError, match=r"s3://corpora/mine/b\.jsonl.*cannot be read"):
        list(sources.rows(found[0]))


@pytest.mark.parametrize("fault", [TimeoutError(), PermissionError("denied"), RuntimeError("connection lost")])
@pytest.mark.parametrize("name", ["b.jsonl", "tables/a.parquet", "tables/a.zip"])
def test_a_fault_while_an_object_is_read_is_an_error_and_not_a_problem_row(bucket, monkeypatch, name, fault):
    import s3fs

    def failing(*_, **__) -> bytes:
        raise fault

    file = next(file for file in find("s3://corpora/mine") if file.name == name)
    monkeypatch.setattr(s3fs.core.S3File, "_fetch_range", failing)
    with pytest.raises(SourceError, match=f"{name}.*cannot be read"):
        list(sources.rows(file))


@pytest.fixture(params=["stopped", "silent"])
def dead_endpoint(request) -> Iterator[str]:
    """An address without a server, or with a server that accepts the connection and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listener.listen(16)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        if request.param == "stopped":
            listener.close()
        yield address


def test_an_unreachable_server_is_reported_by_name_within_30_seconds(dead_endpoint, monkeypatch, tmp_path):
    use(monkeypatch, dead_endpoint)
    (tmp_path / "a.jsonl").write_bytes(LINES)
    started = time.monotonic()
    with pytest.raises(SourceError, match=f"operatives_paths: 's3://corpora/mine'.*{dead_endpoint}"):
        sources.of_settings(SimpleNamespace(corpus_paths=[str(tmp_path / "a.jsonl")], operatives_paths=["s3://corpora/mine"], **READING))
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("dead_endpoint", ["stopped"], indirect=True)
def test_a_dead_server_is_left_out_if_optional(dead_endpoint, monkeypatch, tmp_path):
    use(monkeypatch, dead_endpoint)
    (tmp_path / "a.jsonl").write_bytes(LINES)
    found = sources.resolve(
        SimpleNamespace(corpus_paths=[str(tmp_path / "a.jsonl"), "optional:s3://corpora/mine"], operatives_paths=[], **READING)
    )
    assert [file.name for file in found.files] == ["a.jsonl"]
    assert "corpus_paths: s3://corpora/mine is optional" in found.absent[0] and dead_endpoint in found.absent[0]


def test_without_s3fs_the_error_names_the_command_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SourceError, match=r"s3://corpora/mine.*pip install s3fs=="):
        find("s3://corpora/mine")


def test_a_server_that_stops_between_listing_and_reading_is_reported_within_30_seconds(monkeypatch):
    import boto3

    running = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    use(monkeypatch, endpoint := "http://{}:{}".format(*running.get_host_and_port()))
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="corpora")
    client.put_object(Bucket="corpora", Key="mine/a.jsonl", Body=LINES)
    found = find("s3://corpora/mine")
    running.stop()
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"s3://corpora/mine/a\.jsonl.*cannot be read"):
        list(sources.rows(found[0]))
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("dead_endpoint", ["stopped"], indirect=True)
def test_a_preparation_continues_without_an_optional_unreachable_server_and_reports_it(dead_endpoint, monkeypatch, settings):
    use(monkeypatch, dead_endpoint)
    paths = [*settings.corpus_paths, "optional:s3://corpora/mine"]
    report = prepare.prepare(Run.open(settings.model_copy(update={"corpus_paths": paths})))
    assert report["records_read"] == 600
    assert len(report["absent_sources"]) == 1 and "s3://corpora/mine is optional and was left out" in report["absent_sources"][0]
    with pytest.raises(SourceError, match="corpus_paths: 's3://corpora/mine'"):
        prepare.prepare(Run.open(settings.model_copy(update={"corpus_paths": [*settings.corpus_paths, "s3://corpora/mine"]})))
