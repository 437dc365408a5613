"""A base model behind s3://, fetched from a real S3 API server over HTTP: once, complete, verified, resuming after an interruption."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistral_lib.model import base_model, s3_model
from mistral_lib.model.base_model import BaseModelError
from mistral_lib.run import files

pytest.importorskip("s3fs", reason="s3fs is an extra: pip install -e .[s3]")
pytest.importorskip("moto.server", reason="moto[server] is an extra of the tests")
URL = "s3://models/mistral/tiny"


@pytest.fixture
def client(server: str, tiny_model: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """An S3 client whose bucket `models` has the tiny model, and other objects that are not part of it."""
    import boto3

    for name, value in {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
                        "AWS_DEFAULT_REGION": "us-east-1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=server)
    client.create_bucket(Bucket="models")
    for path in Path(tiny_model).iterdir():
        client.put_object(Bucket="models", Key=f"mistral/tiny/{path.name}", Body=path.read_bytes())
    for name in ("tiny/consolidated.safetensors", "tiny/original/config.json", "tiny/README.md", "tiny/.hidden.json", "tiny-2/config.json"):
        client.put_object(Bucket="models", Key=f"mistral/{name}", Body=b"not wanted")
    yield client
    for fact in client.list_objects_v2(Bucket="models").get("Contents", []):
        client.delete_object(Bucket="models", Key=fact["Key"])
    client.delete_bucket(Bucket="models")


def test_a_prefix_is_fetched_once_and_completely_and_loads(client, tiny_model: str, home: Path, capsys) -> None:
    place = base_model.folder(URL)
    assert place.parent == home / "models" and "MiB, from s3://models/mistral/tiny, once" in capsys.readouterr().err
    expected = {path.name: files.sha256(path) for path in Path(tiny_model).iterdir()}
    assert {path.name: files.sha256(path) for path in place.iterdir() if path.name != "fetched.json"} == expected
    receipt = files.read_json(place / "fetched.json")
    assert receipt["url"] == URL and {name: fact["sha256"] for name, fact in receipt["files"].items()} == expected
    assert base_model.fingerprint(URL) == base_model.fingerprint(tiny_model) and len(base_model.load_tokenizer(URL)) == 49152
    client.delete_object(Bucket="models", Key="mistral/tiny/config.json")
    assert base_model.folder(URL) == place == base_model.folder(URL + "/") and "fetching" not in capsys.readouterr().err


def test_a_model_without_a_file_is_not_put_in_place_and_resumes_with_the_file(client, tiny_model: str, home: Path, capsys) -> None:
    client.delete_object(Bucket="models", Key="mistral/tiny/tokenizer.json")
    with pytest.raises(BaseModelError, match=rf"{URL} \(fetched\) cannot be used(.|\n)*tokenizer\.json: missing"):
        base_model.folder(URL)
    assert not [path for path in (home / "models").iterdir() if not path.name.startswith(".")]
    client.put_object(Bucket="models", Key="mistral/tiny/tokenizer.json", Body=(Path(tiny_model) / "tokenizer.json").read_bytes())
    capsys.readouterr()
    assert base_model.folder(URL).is_dir() and "fetching 1 files" in capsys.readouterr().err


def test_a_broken_fetch_resumes_and_fetches_what_changed_meanwhile(client, tiny_model: str, home: Path, capsys, monkeypatch) -> None:
    """The fetch breaks within the weights: a limit on the size of this process's files raises a real error of the system."""
    import resource
    import signal

    monkeypatch.setattr(s3_model, "SPARE", 0)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6 * 2**20, before[1]))
    try:
        with pytest.raises(BaseModelError, match=r"File too large; what was fetched is kept, and the same command resumes from there"):
            base_model.folder(URL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    partial = next((home / "models").glob(".*.partial"))
    assert (partial / "config.json").is_file() and not (partial / "model.safetensors").exists()
    config = (Path(tiny_model) / "config.json").read_bytes()
    client.put_object(Bucket="models", Key="mistral/tiny/config.json", Body=config + b"\n")
    capsys.readouterr()
    place = base_model.folder(URL)
    assert (place / "config.json").read_bytes() == config + b"\n"
    whole = {path.name for path in Path(tiny_model).iterdir()} | {"fetched.json"}
    assert "fetching" in capsys.readouterr().err and {path.name for path in place.iterdir()} == whole


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://models/mistral", r"no config\.json directly below it \(found: tiny-2/config\.json"),
        ("s3://models/nothing", r"no config\.json directly below it \(found: nothing\)"),
        ("s3://no-such-bucket/x", "no such bucket"),
    ],
)
def test_the_error_for_a_prefix_without_a_model_names_it(client, url: str, expected: str) -> None:
    with pytest.raises(BaseModelError, match=f"base_model = '{url}'.*({expected})"):
        base_model.folder(url)


def test_a_disk_that_is_too_small_is_reported_before_anything_is_fetched(client, home: Path, monkeypatch) -> None:
    monkeypatch.setattr(s3_model, "SPARE", 2**60)
    with pytest.raises(BaseModelError, match=r"no room on disk for the base model and 1 GiB beside it: [\d,.]+ GiB are needed"):
        base_model.folder(URL)
    assert not list((home / "models").glob("*/*.safetensors"))


def test_two_concurrent_requests_fetch_the_model_once(client, capsys) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(base_model.folder(URL))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2 and found[0] == found[1] and capsys.readouterr().err.count("fetching") == 1


def test_the_error_for_an_unreachable_server_names_it(home: Path, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(BaseModelError, match=rf"base_model = '{URL}': the server does not answer.*127\.0\.0\.1:9"):
        base_model.folder(URL)
