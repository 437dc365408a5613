"""The newest image with a driver for NVIDIA cards, Ubuntu 24.04 and Systems Manager's agent.

Source: AWS Deep Learning AMIs, "Get the latest AMI ID with SSM parameters".
"""

from mistral_lib.aws import errors, names, session, waiting

PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
FAILED = ("failed", "error", "invalid")  # states
READY_SECONDS = 3600  # an image of 150 GB takes many minutes


def newest(region: str) -> str:
    """The image's id in the region. Errors: AwsError, also if AWS publishes none there."""
    with errors.explained(f"asking for the newest image in {region}"):
        client = session.client("ssm", region)
        try:
            return client.get_parameter(Name=PARAMETER)["Parameter"]["Value"]
        except client.exceptions.ParameterNotFound as error:
            raise errors.AwsError(
                f"{region} has no public parameter {PARAMETER}: AWS publishes the image in other regions, or under a new name; name one with --image ami-…",
                "ParameterNotFound",
            ) from error


def wait(region: str, image: str, seconds: float = READY_SECONDS) -> bool:
    """Whether the image can be used within the seconds. Errors: AwsError if it failed."""
    for _ in waiting.tries(seconds, first=5.0):
        with errors.explained(f"waiting for the image {image}"):
            found = session.client("ec2", region).describe_images(ImageIds=[image])["Images"]
        state = found[0]["State"] if found else "pending"
        if state in FAILED:
            raise errors.AwsError(f"the image {image} is {state}: `down` removes it; run the command again to make another one", state)
        if state == "available":
            return True
    return False


def copied(image: str, region: str, run: str) -> str | None:
    """The id of an earlier copy of the image in the region that can be used, or soon can; None if there is none. Errors: AwsError."""
    asked = [*names.filters(run), {"Name": "name", "Values": [_copy_name(image, run)]}]
    with errors.explained(f"looking for a copy of {image} in {region}"):
        found = session.client("ec2", region).describe_images(Owners=["self"], Filters=asked)["Images"]
    return next((one["ImageId"] for one in found if one["State"] not in FAILED), None)


def copy(image: str, source: str, target: str, run: str) -> str:
    """Begin a copy of an image in another region, tagged as the run's; its id there. Errors: AwsError."""
    marked = [{"ResourceType": kind, "Tags": names.tags(run)} for kind in ("image", "snapshot")]
    with errors.explained(f"copying {image} from {source} to {target}"):
        asked = {"Name": _copy_name(image, run), "SourceImageId": image, "SourceRegion": source, "Encrypted": True}
        return session.client("ec2", target).copy_image(**asked, TagSpecifications=marked)["ImageId"]


def _copy_name(image: str, run: str) -> str:
    return f"{names.TAG}-{run}-{image}"[:128]
