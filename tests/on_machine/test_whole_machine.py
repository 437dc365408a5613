"""The generated user data, really executed: a run on the smallest parameters, and a spot machine that is taken away.

The notebooks 00 to 04: after so few steps of training the adapter gains too little for a verdict on its exported forms in notebook 05.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mistral_lib.on_machine import user_data
from mistral_lib.on_machine.bucket.object_store import Store, client, sha256_of
from mistral_lib.on_machine.bucket.results_list import FOLDER, Results
from mistral_lib.run import files
from tests.support import machine_jobs, spot_moments
from tests.support.aws_stand_in import REGION, FalseAws, false_aws
from tests.support.machine_sandbox import NEEDED, Sandbox, machine_sandbox
from tests.support.metadata_server import metadata_server
from tests.support.spot_moments import Machine, Moment

pytestmark = [NEEDED, pytest.mark.long]
STEPS = 8  # of training, with a checkpoint after every second one
MINUTES = 60  # of a run on a machine with two cores that others use as well
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
TO_THE_TRAINING, TO_THE_EVALUATION = ["00", "01", "02", "03"], ["00", "01", "02", "03", "04"]
TOKEN = "hf_" + "S3cretOfTheHub" * 2


class Cloud:
    """A bucket with the job of the quick run."""

    def __init__(self, aws: FalseAws):
        self.aws, self.url = aws, aws.url
        self.s3 = client("s3", REGION)
        self.s3.create_bucket(Bucket="mistral-workbook-whole")

    def store(self, run: str) -> Store:
        return Store(self.s3, "mistral-workbook-whole", f"runs/{run}/")

    def order(self, run: str, **changes: object) -> str:
        """Upload everything; returns the user data of its machine."""
        params = (machine_jobs.PROJECT / "params" / "quick.yaml").read_text()
        params = params.replace("run_name: quick", f"run_name: {run}").replace("max_steps: 4 ", f"max_steps: {STEPS} ")
        store = self.store(run)
        machine_jobs.upload_job(store, run, machine_jobs.library(), params.encode(), **changes)
        return user_data.script(machine_jobs.upload_machine(store, run))


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    with false_aws() as aws, pytest.MonkeyPatch.context() as patch:
        for name, value in aws.environment.items():
            patch.setenv(name, value)
        yield Cloud(aws)


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


class Spot:
    """A run whose spot machines are taken away, one after the other."""

    def __init__(self, cloud: Cloud, run: str, folder: Path):
        self.cloud, self.run, self.folder = cloud, run, folder
        self.store, self.attempt, self.usd = cloud.store(run), 0, 0.0

    @contextmanager
    def machine(self) -> Iterator[Machine]:
        """The next machine. When it is off: it began from the newest checkpoint that the one before had left, and said so."""
        expected = self.newest_checkpoint()
        self.attempt += 1
        script = self.cloud.order(self.run, spot=True, attempt=self.attempt, stages=TO_THE_TRAINING)
        with metadata_server() as metadata, machine_sandbox(self.folder / f"{self.attempt}", script, self.cloud.url, metadata.url, THREADS) as sandbox:  # fmt: skip
            machine = Machine(sandbox, metadata, self.cloud.aws, self.run, 60 * MINUTES)
            yield machine
        assert [event["from_step"] for event in machine.events("started")[:1]] in ([], [expected or 0]), sandbox.logs()
        assert status(self.store)["usd_before"] == pytest.approx(self.usd)
        self.usd = status(self.store)["usd_so_far"]
        if self.attempt > 1:
            said = f"its newest checkpoint is checkpoint-{expected}" if expected else "a training starts over"
            assert said in (sandbox.base / "setup.txt").read_text()

    def newest_checkpoint(self) -> int | None:
        """The step of the newest checkpoint in the bucket; every file that is listed of it is there with its hash."""
        listed = Results.from_json(self.store.read("results.json"))
        complete = [
            name for name in listed.files if name.startswith("training/checkpoints/checkpoint-") and name.endswith("/complete.json")
        ]
        for number, (name, entry) in enumerate(listed.files.items()):
            if name.startswith("training/checkpoints/"):
                self.store.download(FOLDER + name, self.folder / "listed" / f"{self.attempt}-{number}", entry.sha256)
        return max((int(name.split("/")[2].removeprefix("checkpoint-")) for name in complete), default=None)

    def taken_away(self, moment: Moment) -> None:
        """A machine gets a notice at this moment; AWS pulls the plug after two minutes, if it is still on then."""
        with self.machine() as machine:
            disturbed = moment(machine)
            machine.pull_the_plug()
        found = status(self.store)
        print(f"machine {self.attempt}: {disturbed} -> checkpoint {self.newest_checkpoint()}, {found['phase']}: {found['reason']}")
        assert found["reason"].startswith("spot notice: terminate at") and not found["complete"], machine.sandbox.logs()
        assert not Results.from_json(self.store.read("results.json")).complete

    def finished_as(self, undisturbed: Store) -> None:
        """The last machine completes the run, with the loss of the undisturbed one."""
        with self.machine() as machine:
            machine.sandbox.wait_until_off(60 * MINUTES)
        assert status(self.store)["complete"], f"{status(self.store)}\n{machine.sandbox.logs()}"
        print(f"validation loss: undisturbed {loss(undisturbed):.6f}, after {self.attempt} machines {loss(self.store):.6f}")
        assert loss(self.store) == pytest.approx(loss(undisturbed), rel=0.01)


def test_a_spot_machine_that_is_taken_away_at_a_random_moment_is_replaced_without_loss(
    cloud: Cloud, undisturbed: Sandbox, tmp_path: Path
) -> None:
    times = [event["time"] for event in spot_moments.events(undisturbed.base / "home" / "runs" / "whole" / "training")]
    spot = Spot(cloud, "spot", tmp_path)
    spot.taken_away(spot_moments.after(spot_moments.moments_of("spot").uniform(0, 0.9 * (times[-1] - times[0]))))
    spot.finished_as(cloud.store("whole"))


def test_a_notice_before_the_first_checkpoint_while_one_is_written_and_while_one_is_uploaded(
    cloud: Cloud, undisturbed: Sandbox, tmp_path: Path
) -> None:
    random, spot = spot_moments.moments_of("moments"), Spot(cloud, "moments", tmp_path)
    spot.taken_away(spot_moments.before_the_first_step(random.random()))
    assert spot.newest_checkpoint() is None
    spot.taken_away(spot_moments.while_a_checkpoint_is_written(random.uniform(0, 60)))
    assert spot.newest_checkpoint()
    spot.taken_away(spot_moments.during_an_upload(random.randint(1, 8)))
    assert spot.newest_checkpoint()
    spot.finished_as(cloud.store("whole"))
