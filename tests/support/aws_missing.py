"""What moto lacks of AWS, as `aws_stand_in` answers it:

- SSM GetParameter of the public image parameters (an image that moto has);
- Service Quotas of EC2, and AWS's price list, from tables of the test;
- SSM DescribeInstanceInformation: every running machine with an instance profile is online;
- SSM SendCommand and GetCommandInvocation: what the test's `shell` function prints and returns (moto runs nothing and always succeeds);
- ClientToken of RunInstances: the same token gets the first answer again;
- the tags of an image's snapshot, and of a copied image;
- placement groups (aws_placement.py);
- S3's x-amz-expected-bucket-owner, and buckets that belong to another account;
- InvalidInstanceId of SendCommand for a machine that is not online.
"""

import json
import re
import threading
import uuid
from typing import TYPE_CHECKING, Any

from tests.support import aws_placement
from tests.support.aws_requests import Asked, error_body

if TYPE_CHECKING:
    from tests.support.aws_stand_in import FalseAws

ACCOUNT = "123456789012"  # moto's
Answer = tuple[int, bytes, dict[str, str]]  # status, body, headers
PLAIN = {"Content-Type": "application/x-amz-json-1.1"}


def backend(service: str, region: str) -> Any:
    """moto's own state of a service."""
    from moto.backends import get_backend

    return get_backend(service)[ACCOUNT][region]


def answer(aws: "FalseAws", asked: Asked) -> Answer | None:
    """The answer to what moto lacks; None leaves the request to moto."""
    if asked.service == "s3":
        return _s3(aws, asked)
    found = ANSWERS.get((asked.service, asked.action))
    return found(aws, asked) if found else None


def image(region: str) -> str:
    """An image that moto has in the region: Linux, x86_64, on a volume."""
    fits = (ami for ami in backend("ec2", region).amis.values() if ami.architecture == "x86_64" and not ami.platform and ami.root_device_type == "ebs")  # fmt: skip
    return next(fits).id


def machine(region: str, machine_id: str) -> Any:
    return backend("ec2", region).get_instance(machine_id)


def _image_parameter(aws: "FalseAws", asked: Asked) -> Answer | None:
    name = asked.parameters["Name"]
    if not name.startswith("/aws/service/deeplearning/"):
        return None
    if asked.region in aws.without_image:
        return error(asked, 400, "ParameterNotFound", "no such parameter")
    return _ok({"Parameter": {"Name": name, "Type": "String", "Value": image(asked.region), "Version": 1}})


def _quota(aws: "FalseAws", asked: Asked) -> Answer:
    code = asked.parameters["QuotaCode"]
    if code not in aws.quotas:
        return error(asked, 400, "NoSuchResourceException", f"no quota {code}")
    return _ok({"Quota": {"ServiceCode": "ec2", "QuotaCode": code, "Value": aws.quotas[code], "Adjustable": True}})


def _prices(aws: "FalseAws", asked: Asked) -> Answer:
    wanted = {one["Field"]: one["Value"] for one in asked.parameters["Filters"]}
    price = aws.prices.get((wanted["regionCode"], wanted["instanceType"]))
    size = {"unit": "Hrs", "pricePerUnit": {"USD": f"{price}"}}
    row = {"product": {"attributes": wanted}, "terms": {"OnDemand": {"a": {"priceDimensions": {"b": size}}}}}
    return _ok({"FormatVersion": "aws_v1", "PriceList": [json.dumps(row)] if price else []})


def online(aws: "FalseAws", region: str) -> list[str]:
    """Running machines with an instance profile, except those that the test made unreachable."""
    machines = backend("ec2", region).all_instances()
    profiles = {one.instance.id for one in backend("ec2", region).iam_instance_profile_associations.values()}
    return [one.id for one in machines if one.state == "running" and one.id in profiles and one.id not in aws.unreachable]


def _information(aws: "FalseAws", asked: Asked) -> Answer:
    filters = asked.parameters.get("Filters", [])
    wanted = {value for one in filters if one["Key"] == "InstanceIds" for value in one["Values"]}
    found = [one for one in online(aws, asked.region) if not wanted or one in wanted]
    rows = [{"InstanceId": one, "PingStatus": "Online", "PlatformType": "Linux", "ResourceType": "EC2Instance"} for one in found]
    return _ok({"InstanceInformationList": rows})


def _send(aws: "FalseAws", asked: Asked) -> Answer:
    machine_id, lines = asked.parameters["InstanceIds"][0], asked.parameters["Parameters"]["commands"]
    if machine_id not in online(aws, asked.region):
        return error(asked, 400, "InvalidInstanceId", "Instances not in a valid state for account")
    command = str(uuid.uuid4())
    row: dict[str, Any] = {"Status": "InProgress", "ResponseCode": -1, "StandardOutputContent": "", "StandardErrorContent": ""}
    aws.invocations[command] = row

    def run() -> None:
        exit_code, output = aws.shell(machine_id, lines)
        row.update(ResponseCode=exit_code, StandardOutputContent=output, Status="Failed" if exit_code else "Success")

    threading.Thread(target=run, daemon=True).start()
    return _ok({"Command": {"CommandId": command, "InstanceIds": [machine_id], "Status": "Pending"}})


def _invocation(aws: "FalseAws", asked: Asked) -> Answer:
    command = asked.parameters["CommandId"]
    if command not in aws.invocations:
        return error(asked, 400, "InvocationDoesNotExist", "")
    return _ok({"CommandId": command, "InstanceId": asked.parameters["InstanceId"], **aws.invocations[command]})


def _launched(aws: "FalseAws", asked: Asked) -> Answer | None:
    token = (asked.region, asked.parameters.get("ClientToken", ""))
    known = aws.launches.get(token) if asked.parameters.get("DryRun") != "true" else None
    return (200, known, {"Content-Type": "text/xml"}) if known else aws_placement.unknown(aws, asked)


def note_launch(aws: "FalseAws", asked: Asked, status: int, body: bytes) -> None:
    """Remember the answer to a ClientToken."""
    token = asked.parameters.get("ClientToken", "")
    if status == 200 and token and asked.action == "RunInstances":
        aws.launches[(asked.region, token)] = body
        aws_placement.note(aws, asked, launched_ids(body))


def _image_made(aws: "FalseAws", asked: Asked) -> Answer:
    """An image of a machine, or a copy of an image, with tags on it and on its snapshot."""
    state, given = backend("ec2", asked.region), asked.parameters
    if asked.action == "CopyImage":
        made = state.copy_image(given["SourceImageId"], given["SourceRegion"], given["Name"])
    else:
        made = state.create_image(given["InstanceId"], given["Name"], "", [])
    for number in ("1", "2"):
        thing = made if given.get(f"TagSpecification.{number}.ResourceType") == "image" else made.ebs_snapshot
        for place in (key for key in given if key.startswith(f"TagSpecification.{number}.Tag.") and key.endswith(".Key")):
            thing.add_tag(given[place], given[place.removesuffix("Key") + "Value"])
    return 200, f"<{asked.action}Response><imageId>{made.id}</imageId></{asked.action}Response>".encode(), {"Content-Type": "text/xml"}


def _s3(aws: "FalseAws", asked: Asked) -> Answer | None:
    bucket = asked.parameters.get("Bucket", "")
    owner = asked.headers.get("x-amz-expected-bucket-owner", ACCOUNT)
    if bucket in aws.foreign_buckets and asked.action == "CreateBucket":
        return error(asked, 409, "BucketAlreadyExists", "The requested bucket name is not available.")
    if bucket in aws.foreign_buckets or owner != ACCOUNT:
        return error(asked, 403, "AccessDenied", "Access Denied")
    return None


def error(asked: Asked, status: int, code: str, message: str) -> Answer:
    body, headers = error_body(asked, code, message)
    return status, body, headers


def launched_ids(body: bytes) -> list[str]:
    """The ids of the machines in an answer to RunInstances."""
    return re.findall(r"<instanceId>(i-\w+)</instanceId>", body.decode())


def _ok(value: dict[str, Any]) -> Answer:
    return 200, json.dumps(value).encode(), PLAIN


ANSWERS = {
    **aws_placement.ANSWERS,
    ("ssm", "GetParameter"): _image_parameter,
    ("ssm", "DescribeInstanceInformation"): _information,
    ("ssm", "SendCommand"): _send,
    ("ssm", "GetCommandInvocation"): _invocation,
    ("service-quotas", "GetServiceQuota"): _quota,
    ("service-quotas", "GetAWSDefaultServiceQuota"): _quota,
    ("pricing", "GetProducts"): _prices,
    ("ec2", "RunInstances"): _launched,
    ("ec2", "CreateImage"): _image_made,
    ("ec2", "CopyImage"): _image_made,
}
