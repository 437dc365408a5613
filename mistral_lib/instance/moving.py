"""A stopped machine in a zone without capacity: an image of it, launched in another zone or region.

The image and its snapshots have the run's tag, so that `list` shows what they cost and `down` removes them.
"""

from dataclasses import replace

from mistral_lib.aws import found_machines, images, machines, regions, schedules
from mistral_lib.aws.errors import AwsError
from mistral_lib.aws.machines import Machine
from mistral_lib.aws.regions import RegionError
from mistral_lib.instance import capacity, launch_steps, records
from mistral_lib.instance.launch_options import LaunchError, StartOptions
from mistral_lib.instance.records import Record
from mistral_lib.run.progress import say


def moved(record: Record, machine: Machine, place: str, options: StartOptions) -> tuple[Record, Machine]:
    """The record and the new machine. place: a zone or a region. The old machine stays stopped; one that was there before the run gets back
    what it had. Errors: LaunchError, NoCapacityError, AwsError."""
    region, zone = region_and_zone(place)
    record = _with_image(record, machine)
    if record.adopted:
        found_machines.release(record.region, machine.id)
    schedules.delete(record.run, record.region)
    record = replace(record, machine="", ends_at=None, adopted=False)
    image = record.image
    if region != record.region:
        record, image = _in_region(record, region, options)
    places = launch_steps.places(record, options.subnet)
    if zone is not None:
        places = {name: subnet for name, subnet in places.items() if name == zone}
    return record, capacity.launched(launch_steps.order(record, image), places, options.retry_minutes)


def region_and_zone(place: str) -> tuple[str, str | None]:
    """The region, and the zone if `place` is one. Errors: RegionError if there is no such region."""
    try:
        return regions.chosen(place), None
    except RegionError:
        if not place or not place[-1].isalpha() or not place[:-1][-1:].isdigit():
            raise
        return regions.chosen(place[:-1]), place


def _with_image(record: Record, machine: Machine) -> Record:
    """The record with an image of the machine that can be used. One that an earlier call began is taken."""
    if not record.image:
        record = replace(record, image=machines.image_of(machine, record.run))
        records.save(record)
    say(f"waiting for {record.image}, an image of {machine.id}: some minutes for each 100 GiB")
    _wait(record.region, record.image)
    return record


def _in_region(record: Record, region: str, options: StartOptions) -> tuple[Record, str]:
    """The record for another region, with a bucket and a group there, and the copy of its image."""
    if options.bucket:
        raise LaunchError(f"--bucket {options.bucket} with --move-to {region}: leave it out, the machine needs a bucket in its own region")
    regions.remember(region)
    image = images.copied(record.image, region, record.run) or images.copy(record.image, record.region, region, record.run)
    say(f"waiting for {image}, the copy of {record.image} in {region}")
    _wait(region, image)
    record = replace(record, region=region, bucket="", group="", step="region")
    launch_steps.require_quota(record)
    return launch_steps.prepared(record, options), image


def _wait(region: str, image: str) -> None:
    if not images.wait(region, image):
        raise AwsError(
            f"the image {image} is not ready after {images.READY_SECONDS // 60} minutes: run the command again, it is found", "NotReady"
        )
