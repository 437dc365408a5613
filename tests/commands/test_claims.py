"""Claims against what is there: files and runs on disk, a store and an account on the loopback, endpoints that do not answer."""

import json
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from mistral_lib.commands import claimed_cloud, claims, claims_file
from mistral_lib.run import Run, files
from mistral_lib.run.paths import project
from tests.support.corpora import rows

EXAMPLE = project() / "params" / "claims_example.yaml"
AWS = ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL",
       "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_WEB_IDENTITY_TOKEN_FILE")  # fmt: skip


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials, and a metadata address that nobody serves."""
    for name in AWS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{free_port()}")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def account(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Credentials for an account of a server on the loopback, which is empty."""
    import requests

    for name, value in {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing",
                        "AWS_DEFAULT_REGION": "us-east-1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(claimed_cloud, "READ_SECONDS", 60)  # the server and this test share the machine
    requests.post(f"{server}/moto-api/reset", timeout=60)
    return server


def claim(home: Path, *entries: dict) -> list[claims.Checked]:
    """The findings on claims given as mappings; JSON is YAML."""
    files.write_text(home / "claims.yaml", json.dumps({"claims": list(entries)}))
    return claims.check(home / "claims.yaml")


def outcome(home: Path, **entry: object) -> tuple[str, str]:
    [one] = claim(home, entry)
    return one.status, one.reason


# -- the file -----------------------------------------------------------------------------------------------------------


def test_all_faults_of_a_file_are_listed_at_once_with_their_lines(home: Path) -> None:
    text = """claim: []
claims:
  - kind: runn
    run: a
  - kind: adapter
    foldr: a
    bytes: many
  - run: a
  - kind: run
    run: a
    run: b
  - just text
  - kind: corpus
    run: a
  - kind: gguf
    file: a
    sha256: xyz
  - kind: endpoint
    url: https://me:secret@host/
  - kind: run
    run: a
    stages: [trainin]
"""
    files.write_text(home / "c.yaml", text)
    with pytest.raises(claims_file.ClaimsError) as caught:
        claims_file.load(Path("c.yaml"))
    lines = str(caught.value).splitlines()
    expected = {
        "c.yaml:1: unknown key 'claim'; did you mean 'claims'?",
        "c.yaml:3: unknown kind 'runn'; did you mean 'run'?",
        "c.yaml:6: unknown key of adapter 'foldr'; did you mean 'folder'?",
        "c.yaml:7: bytes = 'many'",
        "c.yaml:5: adapter has no folder",
        "c.yaml:8: no `kind`; known are adapter",
        "c.yaml:11: run is given twice, in lines 10 and 11",
        "c.yaml:12: expected an entry such as `kind: run`, found 'just text'",
        "c.yaml:13: corpus: give `entries`, `domains` or both",
        "c.yaml:17: sha256 = 'xyz': expected 12 to 64 hexadecimal digits",
        "c.yaml:19: url: expected http://host:port",
        "c.yaml:22: stages = 'trainin'",
    }
    for start in expected:
        assert any(line.startswith(start) for line in lines), (start, lines)
    assert len(lines) == len(expected) and lines == sorted(lines, key=lambda line: int(line.split(":")[1]))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "c.yaml:1: expected `claims:`"), ("claims: {}", "c.yaml:1: expected `claims:`"), ("claims:\n  - {kind: run", "not valid YAML"),
     ("claims: []", "c.yaml:1: expected `claims:`")],
)  # fmt: skip
def test_a_file_that_holds_no_claims_is_refused(home: Path, text: str, fault: str) -> None:
    files.write_text(home / "c.yaml", text)
    with pytest.raises(claims_file.ClaimsError, match=fault):
        claims.check(home / "c.yaml")


def test_a_file_that_is_not_there_or_not_utf8_is_refused(home: Path) -> None:
    with pytest.raises(claims_file.ClaimsError, match=r"no such claims file; params/claims_example\.yaml"):
        claims.check(home / "none.yaml")
    (home / "c.yaml").write_bytes("claims: [ä]".encode("utf-16"))
    with pytest.raises(claims_file.ClaimsError, match="not UTF-8"):
        claims.check(home / "c.yaml")


def test_the_example_verifies_nothing_and_gives_reasons(home: Path) -> None:
    """Somebody else's server may listen on port 8001 of this machine; it is no proof of an adapter either."""
    found = claims.check(EXAMPLE)
    assert [one.status for one in found] == ["missing"] * 5 + ["unknown"] * 3 and not claims.all_verified(found)
    text = claims.text(found)
    assert "missing   line 5: run policy-assistant: no such run folder — said: “Training status: COMPLETED”" in text
    assert "unknown   line 31: bucket policy-assistant-corpus: no AWS credentials" in text
    assert text.endswith("8 claims: 5 missing, 3 unknown")


# -- adapters, runs, corpora --------------------------------------------------------------------------------------------


def test_an_adapter_with_its_hash_and_size(trained_run: Run, home: Path) -> None:
    folder = trained_run.folder / "training" / "adapter"
    weights = folder / "adapter_model.safetensors"
    size, digest = weights.stat().st_size, files.sha256(weights)
    right = {"kind": "adapter", "folder": "runs/small/training/adapter", "bytes": size, "sha256": digest[:12].upper()}
    assert claim(home, right)[0].status == "verified"
    assert outcome(home, **right | {"bytes": size + 1}) == ("refuted", f"{weights.name} has {size:,} bytes, claimed {size + 1:,}")
    status, reason = outcome(home, **right | {"sha256": "0" * 64})
    assert status == "refuted" and digest[:12] in reason
    assert outcome(home, kind="adapter", folder="runs/other/training/adapter") == ("missing", "no such folder")
    weights.write_bytes(weights.read_bytes()[:-4])
    assert outcome(home, kind="adapter", folder=str(folder))[0] == "refuted"
    weights.unlink()
    status, reason = outcome(home, kind="adapter", folder=str(folder))
    assert status == "missing" and "cannot be loaded without it" in reason


def test_a_complete_run(trained_run: Run, home: Path) -> None:
    assert outcome(home, kind="run", run="small", stages=["data", "training"])[0] == "verified"
    assert outcome(home, kind="run", run="small") == ("missing", "never started: evaluation")
    assert outcome(home, kind="run", run="none") == ("missing", "no such run folder")
    trained_run.record("training", status="failed", error="it broke")
    status, reason = outcome(home, kind="run", run="small", stages=["training"])
    assert status == "refuted" and "not complete: failed (it broke)" in reason


def test_the_claimed_verdict_is_compared(trained_run: Run, home: Path) -> None:
    """An evaluation as its stage records it, with another verdict than claimed."""

    def work(folder: Path) -> dict:
        files.write_json(folder / "result.json", {"verdict": "do not ship"})
        return {}

    from mistral_lib.preparation import stage_inputs

    trained_run.run_stage("evaluation", stage_inputs.hashes(trained_run, "evaluation"), work)
    assert outcome(home, kind="run", run="small", verdict="do not ship")[0] == "verified"
    assert outcome(home, kind="run", run="small", verdict="ship") == ("refuted", "its verdict is do not ship, claimed ship")


def test_corpus_entries_of_a_run_and_of_files(trained_run: Run, home: Path) -> None:
    read = files.read_json(trained_run.folder / "data" / "report.json")["records_read"]
    assert read == 240
    assert outcome(home, kind="corpus", run="small", entries=240, domains=2) == ("verified", "240 entries in 2 domains")
    assert outcome(home, kind="corpus", run="small", entries=6000) == ("refuted", "240 entries, claimed 6,000")
    assert outcome(home, kind="corpus", run="small", entries=100, at_least=True)[0] == "verified"
    assert outcome(home, kind="corpus", run="small", entries=241, at_least=True)[0] == "refuted"
    assert outcome(home, kind="corpus", run="none", entries=1)[0] == "missing"
    files.write_json_lines(home / "corpora" / "more" / "blue.jsonl", [*rows("blue", 30), {"odd": 1}])
    assert outcome(home, kind="corpus", paths=["corpora/more"], entries=30, domains=1) == ("verified", "30 entries in 1 domains")
    assert outcome(home, kind="corpus", paths=["corpora/none"], entries=30)[0] == "missing"
    (trained_run.folder / "data" / "report.json").write_text("{}")
    assert outcome(home, kind="corpus", run="small", entries=240) == ("refuted", "data/report.json was altered")


# -- models and endpoints -----------------------------------------------------------------------------------------------


def test_a_complete_model_and_a_cut_one(tiny_model: str, home: Path) -> None:
    import shutil

    shutil.copytree(tiny_model, home / "merged")
    weights = home / "merged" / "model.safetensors"
    size = weights.stat().st_size
    assert outcome(home, kind="model", folder="merged", bytes=size) == ("verified", f"complete, {size:,} bytes of weights")
    assert outcome(home, kind="model", folder="merged", bytes=1)[0] == "refuted"
    weights.write_bytes(weights.read_bytes()[:-1000])
    status, reason = outcome(home, kind="model", folder="merged")
    assert status == "refuted" and "is cut short" in reason
    weights.unlink()
    assert outcome(home, kind="model", folder="merged") == ("missing", "the folder holds no safetensors file")
    assert outcome(home, kind="model", folder="nowhere") == ("missing", "no such folder")


def write_gguf(path: Path) -> Path:
    """A small GGUF file of two tensors."""
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    for number in range(2):
        writer.add_tensor(f"blk.{number}.attn_output.weight", np.ones((64, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_and_a_cut_one(home: Path) -> None:
    path = write_gguf(home / "model.gguf")
    size, digest = path.stat().st_size, files.sha256(path)
    assert outcome(home, kind="gguf", file="model.gguf", bytes=size, sha256=digest)[0] == "verified"
    assert outcome(home, kind="gguf", file="model.gguf", sha256="0" * 12)[0] == "refuted"
    path.write_bytes(path.read_bytes()[:-5000])
    status, reason = outcome(home, kind="gguf", file="model.gguf")
    assert status == "refuted" and "incomplete" in reason
    path.write_bytes(b"<html>not found</html>")
    assert outcome(home, kind="gguf", file="model.gguf")[0] == "refuted"
    assert outcome(home, kind="gguf", file="none.gguf") == ("missing", "no such file")


def test_an_endpoint_that_does_not_answer_is_unknown(home: Path) -> None:
    files.write_text(home / "key", "very-secret-key")
    [one] = claim(home, {"kind": "endpoint", "url": f"http://127.0.0.1:{free_port()}", "key_file": "key"})
    assert one.status == "unknown" and "very-secret-key" not in str(one)
    assert outcome(home, kind="endpoint", url="http://127.0.0.1:9", key_file="none")[1].startswith("there is no such key file")
    assert outcome(home, kind="endpoint", url="http://127.0.0.1:9", run="none")[1].startswith("no run none here")


# -- the account --------------------------------------------------------------------------------------------------------


def test_a_bucket_and_a_prefix(account: str, home: Path) -> None:
    import boto3

    store = boto3.client("s3")
    store.create_bucket(Bucket="policies")
    assert outcome(home, kind="bucket", bucket="policies") == ("missing", "the bucket is empty")
    store.put_object(Bucket="policies", Key="texts/a.jsonl", Body=b"{}")
    assert outcome(home, kind="bucket", bucket="policies") == ("verified", "the bucket exists and holds texts/a.jsonl")
    assert outcome(home, kind="bucket", bucket="policies", prefix="texts/")[0] == "verified"
    assert outcome(home, kind="bucket", bucket="policies", prefix="other/")[0] == "missing"
    assert outcome(home, kind="bucket", bucket="no-such-bucket") == ("missing", "no such bucket")


def test_an_instance_in_a_state(account: str, home: Path) -> None:
    import boto3

    compute = boto3.client("ec2")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "trainer"}]}]
    made = compute.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1, InstanceType="g4dn.xlarge", TagSpecifications=tags)
    name = made["Instances"][0]["InstanceId"]
    assert outcome(home, kind="instance", instance="trainer", state="running", type="g4dn.xlarge")[0] == "verified"
    assert outcome(home, kind="instance", instance=name, state="stopped") == (
        "refuted",
        f"{name} (g4dn.xlarge) is running; claimed stopped",
    )
    compute.stop_instances(InstanceIds=[name])
    assert outcome(home, kind="instance", instance=name, state="stopped")[0] == "verified"
    assert outcome(home, kind="instance", instance=name, state="stopped", type="g5.xlarge")[0] == "refuted"
    assert outcome(home, kind="instance", instance="nobody", state="stopped")[0] == "missing"
    assert outcome(home, kind="instance", instance="i-0123456789abcdef0", state="stopped")[0] == "missing"


def test_without_credentials_region_or_answer_nothing_is_known(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert outcome(home, kind="bucket", bucket="policies")[1].startswith("no AWS credentials")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    status, reason = outcome(home, kind="instance", instance="trainer", state="stopped")
    assert status == "unknown" and "region" in reason
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    status, reason = outcome(home, kind="bucket", bucket="policies", region="us-east-1")
    assert status == "unknown" and "EndpointConnectionError" in reason


def test_a_metadata_address_that_does_not_answer_is_asked_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It accepts connections and says nothing, as a firewall makes it seem. botocore waits a second for each request."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert outcome(home, kind="bucket", bucket="policies")[1].startswith("no AWS credentials")
        silent.setblocking(False)
        connections = 0
        with suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                connections += 1
    assert 1 <= connections <= 2, "a token and, without one, the role's name"


def test_a_refused_request_is_no_finding(account: str, home: Path) -> None:
    from botocore.exceptions import ClientError

    def look() -> tuple[str, str]:
        raise ClientError({"Error": {"Code": "403", "Message": "Forbidden"}}, "HeadBucket")

    status, reason = claimed_cloud._looked(look, "no such bucket")
    assert status == "unknown" and "somebody else" in reason


def test_without_boto3_the_account_is_unknown(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    monkeypatch.setitem(__import__("sys").modules, "botocore.exceptions", None)
    assert outcome(home, kind="bucket", bucket="policies") == ("unknown", "the package boto3 is not installed: pip install boto3")
