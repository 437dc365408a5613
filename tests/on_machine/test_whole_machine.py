"""The generated user data, really executed: a run on the smallest parameters, and a spot machine that is taken away.

The notebooks 00 to 04: after four steps of training the adapter gains too little for a verdict on its exported forms in notebook 05.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistral_lib.on_machine import user_data
from mistral_lib.on_machine.bucket.object_store import Store, client, sha256_of
from mistral_lib.on_machine.bucket.results_list import FOLDER, Results
from mistral_lib.run import files
from tests.support import machine_jobs
from tests.support.aws_stand_in import REGION, false_aws
from tests.support.machine_sandbox import NEEDED, Sandbox, machine_sandbox, wait_for
from tests.support.metadata_server import MetadataServer, metadata_server

pytestmark = [NEEDED, pytest.mark.long]
MINUTES = 25  # of a run on a busy machine with two cores
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
TO_THE_TRAINING, TO_THE_EVALUATION = ["00", "01", "02", "03"], ["00", "01", "02", "03", "04"]
TOKEN = "hf_" + "S3cretOfTheHub" * 2


class Cloud:
    """A bucket with the job of the quick run."""

    def __init__(self, url: str):
        self.url = url
        self.s3 = client("s3", REGION)
        self.s3.create_bucket(Bucket="mistral-workbook-whole")

    def store(self, run: str) -> Store:
        return Store(self.s3, "mistral-workbook-whole", f"runs/{run}/")

    def order(self, run: str, **changes: object) -> str:
        """Upload everything; returns the user data of its machine."""
        params = (machine_jobs.PROJECT / "params" / "quick.yaml").read_text().replace("run_name: quick", f"run_name: {run}")
        store = self.store(run)
        machine_jobs.upload_job(store, run, machine_jobs.library(), params.encode(), **changes)
        return user_data.script(machine_jobs.upload_machine(store, run))


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with false_aws() as aws, pytest.MonkeyPatch.context() as patch:
        for name, value in aws.environment.items():
            patch.setenv(name, value)
        yield Cloud(aws.url)


@pytest.fixture(scope="module")
def undisturbed(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A machine that did the whole run and switched itself off."""
    client("ssm", REGION).put_parameter(Name="/mistral-workbook/whole/hf-token", Value=TOKEN, Type="SecureString")
    script = cloud.order("whole", stages=TO_THE_EVALUATION, token_parameter="/mistral-workbook/whole/hf-token")
    folder = tmp_path_factory.mktemp("machine")
    with metadata_server() as metadata, machine_sandbox(folder, script, cloud.url, metadata.url, THREADS) as machine:
        machine.wait_until_off(60 * MINUTES)
    return machine


def status(store: Store) -> dict:
    return json.loads(store.read("machine/status.json"))


def loss(store: Store) -> float:
    return json.loads(store.read(FOLDER + "training/result.json"))["validation_loss"]["adapter"]


def test_a_machine_does_the_whole_run_uploads_it_and_switches_itself_off(cloud: Cloud, undisturbed: Sandbox) -> None:
    found = status(cloud.store("whole"))
    assert (found["phase"], found["reason"], found["complete"], found["exit_code"]) == ("ended", "complete", True, 0), undisturbed.logs()
    assert undisturbed.events("shutdown")[0][:2] == ["-P", "+120"], "the hard limit comes first"
    assert undisturbed.events("shutdown")[-1] == ["-P", "now"]
    assert found["stages"] == dict.fromkeys(("corpus", "data", "training", "evaluation"), "complete")


def test_every_listed_file_is_in_the_bucket_as_it_was_on_the_machine(cloud: Cloud, undisturbed: Sandbox, tmp_path: Path) -> None:
    store, run_folder = cloud.store("whole"), undisturbed.base / "home" / "runs" / "whole"
    results = Results.from_json(store.read("results.json"))
    assert results.complete
    for name, entry in results.files.items():
        store.download(FOLDER + name, tmp_path / name, entry.sha256)
        assert sha256_of(run_folder / name) == entry.sha256, name
    manifest = files.read_json(tmp_path / "manifest.json")
    assert not [bad for stage in manifest["stages"].values() for bad in files.damages(tmp_path, stage["outputs"])]


def test_no_secret_leaves_its_place(cloud: Cloud, undisturbed: Sandbox) -> None:
    secrets = [TOKEN.encode(), b"instance-secret-"]
    places = [
        path for path in undisturbed.folder.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size < 5_000_000
    ]
    assert not [path for path in places for secret in secrets if secret in path.read_bytes()]
    objects = cloud.s3.get_paginator("list_objects_v2").paginate(Bucket="mistral-workbook-whole", Prefix="runs/whole/machine")
    for item in (item for page in objects for item in page["Contents"]):
        content = cloud.s3.get_object(Bucket="mistral-workbook-whole", Key=item["Key"])["Body"].read()
        assert not any(secret in content for secret in secrets), item["Key"]


def test_a_spot_machine_that_is_taken_away_in_the_training_is_replaced_without_loss(
    cloud: Cloud, undisturbed: Sandbox, tmp_path: Path
) -> None:
    store = cloud.store("spot")
    with metadata_server() as metadata, machine_sandbox(tmp_path / "first", cloud.order("spot", spot=True, stages=TO_THE_TRAINING), cloud.url, metadata.url, THREADS) as first:  # fmt: skip
        taken_in_training(first, metadata, store)
    before = status(store)
    assert before["reason"].startswith("spot notice: terminate at"), before
    listed = Results.from_json(store.read("results.json"))
    steps = [name for name in listed.files if name.startswith("training/checkpoints/checkpoint-") and name.endswith("/complete.json")]
    assert steps and not listed.complete
    with metadata_server() as metadata, machine_sandbox(tmp_path / "second", cloud.order("spot", spot=True, attempt=2, stages=TO_THE_TRAINING), cloud.url, metadata.url, THREADS) as second:  # fmt: skip
        second.wait_until_off(60 * MINUTES)
    after = status(store)
    assert after["complete"], f"{after}\n{second.logs()}"
    assert after["usd_before"] == pytest.approx(before["usd_so_far"])
    assert "resum" in (second.base / "home" / "runs" / "spot" / "training.out").read_text()
    undisturbed_loss, resumed_loss = loss(cloud.store("whole")), loss(store)
    print(f"validation loss: undisturbed {undisturbed_loss:.6f}, resumed {resumed_loss:.6f}")
    assert resumed_loss == pytest.approx(undisturbed_loss, rel=0.01)


def taken_in_training(machine: Sandbox, metadata: MetadataServer, store: Store) -> None:
    """A spot notice between two steps; AWS pulls the plug after two minutes, if the machine is still on then."""
    checkpoints = machine.base / "home" / "runs" / "spot" / "training" / "checkpoints"
    wait_for("the first checkpoint", lambda: [*checkpoints.glob("checkpoint-*")], 60 * MINUTES, machine)
    metadata.take_away(120)
    until = time.monotonic() + 120
    while machine.is_on and time.monotonic() < until:
        time.sleep(0.2)
    machine.power_cut()
