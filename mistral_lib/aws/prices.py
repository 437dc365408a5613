"""Spot prices now, on-demand prices as AWS publishes them, and what storage costs.

Source: EC2 API, DescribeSpotPriceHistory; AWS Price List Query API, GetProducts; the pages "Amazon EBS pricing", "Amazon VPC pricing" and "Amazon S3 pricing".
"""

import json
from datetime import UTC, datetime
from typing import Any

from mistral_lib.aws import errors, session

PRICED = "2026-11"  # month in which these were read, for us-east-1
GP3_PER_GIB_MONTH = 0.08  # USD
SNAPSHOT_PER_GIB_MONTH = 0.05
S3_PER_GIB_MONTH = 0.023
ADDRESS_PER_HOUR = 0.005  # every public IPv4 address, also one in use
DAYS_PER_MONTH = 30.4
DAY_PRICES = {  # USD a day: per GiB for storage, per piece for an address
    "volume": GP3_PER_GIB_MONTH / DAYS_PER_MONTH,
    "snapshot": SNAPSHOT_PER_GIB_MONTH / DAYS_PER_MONTH,
    "bucket": S3_PER_GIB_MONTH / DAYS_PER_MONTH,
    "address": ADDRESS_PER_HOUR * 24,
}
PRICE_LIST_REGION = "us-east-1"  # one of the few that answer; it holds the prices of all


def spot(region: str, type: str) -> dict[str, float]:
    """`{zone: USD per hour}` now; empty if the type is not offered as spot. Errors: AwsError."""
    asked = {"InstanceTypes": [type], "ProductDescriptions": ["Linux/UNIX"], "StartTime": datetime.now(UTC)}
    newest: dict[str, tuple[datetime, float]] = {}
    with errors.explained(f"asking for the spot price of {type} in {region}"):
        for page in session.client("ec2", region).get_paginator("describe_spot_price_history").paginate(**asked):
            for one in page["SpotPriceHistory"]:
                row = (one["Timestamp"], float(one["SpotPrice"]))
                newest[one["AvailabilityZone"]] = max(newest.get(one["AvailabilityZone"], row), row)
    return {zone: price for zone, (_, price) in sorted(newest.items())}


def on_demand(region: str, type: str) -> float | None:
    """USD per hour for Linux, by AWS's price list; None if it has no such row. Errors: AwsError."""
    wanted = {"regionCode": region, "instanceType": type, "operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA", "capacitystatus": "Used"}  # fmt: skip
    asked = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
    with errors.explained(f"asking for the price of {type} in {region}"):
        found = session.client("pricing", PRICE_LIST_REGION).get_products(ServiceCode="AmazonEC2", Filters=asked)["PriceList"]
    hourly = [price for row in found for price in _hourly(json.loads(row))]
    return min(hourly, default=None)


def _hourly(row: dict[str, Any]) -> list[float]:
    terms = row.get("terms", {}).get("OnDemand", {}).values()
    sizes = [size for term in terms for size in term["priceDimensions"].values()]
    return [float(size["pricePerUnit"]["USD"]) for size in sizes if size["unit"] == "Hrs" and float(size["pricePerUnit"].get("USD", 0))]
