"""The workers of a cluster as lines of a terminal, for `watch`: which ones run, and what each last reported."""

from mistral_lib.aws import buckets
from mistral_lib.aws.machines import Machine
from mistral_lib.instance.cluster import workers
from mistral_lib.instance.records import Record
from mistral_lib.on_machine.cluster.head import WORKERS


def of(record: Record) -> tuple[str, ...]:
    """Empty for a machine alone. Errors: AwsError."""
    if record.nodes == 1:
        return ()
    there, wanted = workers.there(record), record.nodes - 1
    missing = "" if len(there) >= wanted else "; `python -m mistral_lib instance up <file>` launches the missing ones"
    return (f"workers: {len(there)} of {wanted} run{missing}", *(f"  {machine.id}: {_doing(record, machine)}" for machine in there))


def _doing(record: Record, machine: Machine) -> str:
    status = buckets.get_json(record.bucket, f"{record.prefix}{WORKERS}{machine.id}/status.json", record.region)
    if not status:
        return f"{machine.state}, no report yet"
    trouble = f"; trouble, tried again: {status['trouble']}" if status.get("trouble") else ""
    return f"{status.get('phase')}: {status.get('doing')}{trouble}"
