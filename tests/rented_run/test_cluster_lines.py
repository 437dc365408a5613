"""`watch` and `run` of a cluster: the workers and what they do, the price of all, and the packages that each machine needs."""

import json
from pathlib import Path

from mistral_lib.aws import names, session
from mistral_lib.rented_run import retry, uploading, watching
from tests.support import rented
from tests.support.aws_stand_in import REGION, FalseAws


def add_worker() -> str:
    ec2 = session.client("ec2", REGION)
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
    marked = [{"ResourceType": "instance", "Tags": names.tags("small", nodes=3, worker=True)}]
    made = ec2.run_instances(ImageId=image, InstanceType="g4dn.xlarge", MinCount=1, MaxCount=1, TagSpecifications=marked)
    return made["Instances"][0]["InstanceId"]


def test_a_look_shows_the_workers_and_the_price_of_all(aws: FalseAws, home: Path) -> None:
    record = rented.rent(nodes=3)
    first, second = add_worker(), add_worker()
    status = {"phase": "running", "doing": "Ray works for the head 10.0.0.5", "trouble": None}
    rented.put(record, f"machine/workers/{first}/status.json", json.dumps(status).encode())
    shown = watching.text(watching.look("small"))
    assert "workers: 2 of 2 run" in shown and f"  {first}: running: Ray works for the head 10.0.0.5" in shown
    assert f"  {second}: running, no report yet" in shown and "1.578 USD per hour" in shown


def test_a_missing_worker_is_named_with_the_command_that_launches_it(aws: FalseAws, home: Path) -> None:
    rented.rent(nodes=3)
    add_worker()
    assert "workers: 1 of 2 run; `python -m mistral_lib instance up <file>` launches the missing ones" in watching.text(
        watching.look("small")
    )


def test_a_machine_alone_has_no_line_of_workers(aws: FalseAws, home: Path) -> None:
    rented.rent()
    assert "workers" not in watching.text(watching.look("small"))


def test_machines_of_a_cluster_get_ray_and_s3_and_a_retry_launches_as_many(aws: FalseAws, home: Path) -> None:
    assert uploading.extras_of(("gpu", "s3"), 3) == ["gpu", "s3", "ray"] and uploading.extras_of(("gpu",), 1) == ["gpu"]
    again = retry.next_options(watching.look(rented.rent(nodes=3, max_usd=20.0).run))
    assert again is not None and again.nodes == 3
