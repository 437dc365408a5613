"""`plan`: fit, hours and USD from the table alone; with an account quota, zones, spot prices and own machines; what was not seen is named."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from mistral_lib.aws import images, network, prices, session
from mistral_lib.instance import disk_need, plan, plan_text
from mistral_lib.instance.plan import OwnMachine, Row
from mistral_lib.run import params, paths
from mistral_lib.run.settings import Settings
from tests.support.aws_stand_in import FalseAws

REGION = "us-east-1"


@pytest.fixture(scope="module")
def seven() -> Settings:
    return params.load(paths.params() / "g5_mistral_7b.yaml", ["run_name=seven"])


@pytest.fixture(scope="module")
def table(seven: Settings) -> Iterator[list[Row]]:
    """The rows of the table alone, computed once."""
    from mistral_lib.training import workload

    yield plan.rows_of(seven, workload.work_of(seven, 2_000_000))


@pytest.fixture
def quick_rows(table: list[Row], monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """The fit plan is not computed again."""
    monkeypatch.setattr(plan, "rows_of", lambda settings, work: table)
    return table


def own_stopped(type: str, gib: int) -> str:
    client = session.client("ec2", REGION)
    disk = [{"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": gib}}]
    subnet = next(iter(network.subnets(REGION).values()))
    asked = {"ImageId": images.newest(REGION), "InstanceType": type, "SubnetId": subnet, "BlockDeviceMappings": disk}
    made = client.run_instances(MinCount=1, MaxCount=1, **asked)["Instances"][0]["InstanceId"]
    client.stop_instances(InstanceIds=[made])
    return made


def test_without_credentials_the_table_alone_is_shown_and_what_was_not_seen(
    home, seven: Settings, quick_rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "has_credentials", lambda: False)
    found = plan.plan(seven, tokens=2_000_000)
    assert found.region is None and {row.type for row in found.rows} == set(plan.rented())
    assert "cpu" not in plan.rented() and found.recommended.type in plan.rented()
    shown = plan_text.text(found, "params/mine.yaml")
    for word in ("no AWS credentials", "not seen", "2,000,000 training tokens, stated", "0.526 (2026-11)", "Disk: ", "base model 13.5"):
        assert word in shown
    assert f"instance up params/mine.yaml --type {found.recommended.type} --region <region>" in shown


def test_without_a_region_none_is_guessed(home, aws: FalseAws, seven: Settings, quick_rows: list[Row]) -> None:
    found = plan.plan(seven, tokens=2_000_000)
    assert found.region is None and "none is guessed" in found.unseen[0]
    assert not aws.asked("ec2")


def test_with_an_account_quota_zones_spot_prices_and_own_machines_are_seen(
    home, aws: FalseAws, seven: Settings, quick_rows: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prices, "spot", lambda region, type: {"us-east-1b": 0.2, "us-east-1c": 0.3})
    small, large = own_stopped("g4dn.xlarge", 30), own_stopped("g4dn.xlarge", 500)
    found = plan.plan(seven, tokens=2_000_000, region=REGION)
    row = next(row for row in found.rows if row.type == "g4dn.xlarge")
    assert row.quota.limit == 8 and row.zones and row.spot["us-east-1b"] == 0.2
    own = {one.machine.id: one for one in found.own}
    assert f"its disk has 30 GiB, {found.volume_gib} are needed" in own[small].obstacle and not own[large].obstacle
    shown = plan_text.text(found)
    assert "0 of 8 in use" in shown and "0.200 in us-east-1b" in shown and "500 GiB" in shown and "launched 0 days ago" in shown


def test_an_own_stopped_machine_of_the_best_type_is_recommended(home, aws: FalseAws, seven: Settings, quick_rows: list[Row]) -> None:
    best = plan.plan(seven, tokens=2_000_000, region=REGION).recommended
    own = own_stopped(best.type, 500)
    found = plan.plan(seven, tokens=2_000_000, region=REGION)
    assert isinstance(found.recommended, OwnMachine) and found.recommended.machine.id == own
    assert f"instance start mine.yaml {own} --region {REGION}" in plan_text.text(found, "mine.yaml")


def test_a_type_above_the_quota_or_without_a_zone_is_not_recommended(home, aws: FalseAws, seven: Settings, quick_rows: list[Row]) -> None:
    aws.quotas["L-DB2E81BA"] = 4
    found = plan.plan(seven, tokens=2_000_000, region=REGION)
    obstacles = {row.type: row.obstacle for row in found.rows}
    assert "the quota is 4 vCPUs, 0 in use, 8 needed" in obstacles["g5.2xlarge"] and found.recommended.vcpus == 4
    aws.quotas["L-DB2E81BA"] = 0
    found = plan.plan(seven, tokens=2_000_000, region=REGION)
    assert found.recommended is None and "Recommendation: none" in plan_text.text(found)


def test_what_the_account_refuses_is_named_and_the_rest_is_shown(home, aws: FalseAws, seven: Settings, quick_rows: list[Row]) -> None:
    for service, action in (("service-quotas", "*"), ("ec2", "DescribeSpotPriceHistory"), ("ec2", "DescribeInstanceTypeOfferings")):
        aws.deny(service, action)
    found = plan.plan(seven, tokens=2_000_000, region=REGION)
    text = "\n".join(found.unseen)
    for word in ("servicequotas:", "ec2:DescribeSpotPriceHistory", "ec2:DescribeInstanceTypeOfferings"):
        assert word in text
    assert len(found.unseen) <= 4 and found.recommended is not None


def test_the_recommendation_is_the_cheapest_that_leaves_the_reserve_free(table: list[Row]) -> None:
    def row(type: str, usd: float, fits: bool = True, reserve: bool = True, **changes: Any) -> Row:
        class Fit:
            leaves_reserve, advice, host = reserve, "needs more", ""

        Fit.fits = fits
        return replace(table[0], type=type, usd_per_hour=usd, hours=(1.0, 1.0), fit=Fit(), **changes)

    cheap, barely, costly, broken = row("b", 2.0), row("a", 1.0, reserve=False), row("c", 3.0), row("d", 0.5, fits=False)
    assert plan.recommendation([barely, costly, cheap, broken], [])[0] is cheap
    found, reasons = plan.recommendation([barely, broken], [])
    assert found is barely and any("fits barely" in reason for reason in reasons)
    found, reasons = plan.recommendation([broken], [])
    assert found is None and reasons == ["no type can be launched; d: does not fit: needs more"]
    spot = plan.recommendation([row("b", 2.0, spot={"z": 0.5})], [])[1]
    assert any("spot saves up to 75%" in reason for reason in spot)


def test_the_disk_holds_base_model_checkpoints_and_exports(seven: Settings) -> None:
    gib = 2**30
    none = disk_need.parts(seven.model_copy(update={"export_forms": []}), 2_000_000, 14 * gib, 168_000_000)
    all_of = disk_need.parts(seven, 2_000_000, 14 * gib, 168_000_000)
    assert none["export"] == 0 and none["base model"] == 14 and none["checkpoints"] > 3 * 12 * 168_000_000 / gib
    assert all_of["export"] > 14 * 2 and disk_need.volume_gib(all_of) % 10 == 0
    assert 100 <= disk_need.volume_gib(all_of) <= 200
    assert disk_need.volume_gib({"system": 1.0}) == disk_need.LEAST_GIB
