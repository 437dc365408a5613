"""Whether this machine is a head or a worker, and its private address.

All machines of a cluster are launched by one request with the same script; the first one of the request is the head.
Source: EC2, "Instance metadata categories": ami-launch-index, local-ipv4.
"""

from mistral_lib.on_machine.metadata import Metadata, MetadataError
from mistral_lib.on_machine.user_data import Place


def is_worker(place: Place, metadata: Metadata) -> bool:
    """Errors: MetadataError."""
    if place.worker or place.nodes == 1:
        return place.worker
    return _fact(metadata, "ami-launch-index") != "0"


def has_the_run(place: Place, metadata: Metadata) -> bool:
    """Whether the results of the run are this machine's to upload; no if it is not known."""
    try:
        return not is_worker(place, metadata)
    except MetadataError:
        return False


def private_address(metadata: Metadata) -> str:
    """The address inside the network; no other machine than those of the cluster reaches it. Errors: MetadataError."""
    return _fact(metadata, "local-ipv4")


def _fact(metadata: Metadata, name: str) -> str:
    found = metadata.get(name)
    if not found:
        raise MetadataError(f"metadata service: it has no {name}")
    return found
