"""What notebook 00 shows of rented machines, as texts: those that suit a run, and what runs and costs now.

Nothing here raises an error or asks a question, and a notebook waits some seconds at most: without boto3, credentials or an answer of AWS
it shows a sentence instead.
"""

import math
from collections.abc import Iterator
from queue import Empty, SimpleQueue
from threading import Thread

from mistral_lib.aws import regions, session
from mistral_lib.display.run_estimate import RentalOptions
from mistral_lib.instance import launch_options, listing, plan, plan_text, resources
from mistral_lib.instance.plan import OwnMachine, Plan
from mistral_lib.run import paths
from mistral_lib.run.settings import Settings

SECONDS = 8.0  # for AWS to answer
NO_ACCOUNT = "No AWS account was looked into: that needs the package boto3 and credentials (docs/instance.md)."
NO_REGION = "This computer has used no region of AWS, and none is set; in a terminal: python -m mistral_lib instance list"
HOURS_ROOM = 1.25  # times the longest training: for evaluation and export, which the plan does not count
SPAN = "Hours and USD on demand, from launch to the end of the training;"
COLUMNS = {
    "type": "machine", "gpu": "GPU", "fits": "fits", "hours": "hours", "usd": "USD", "usd_per_hour": "USD an hour",
    "spot_usd_per_hour": "spot USD an hour now", "quota_vcpus": "quota, vCPUs", "advice": "why not",
}  # fmt: skip


def running(seconds: float = SECONDS) -> str:
    """What `python -m mistral_lib instance list` prints, or a sentence that says why it is not known. seconds: the longest wait."""
    answer: SimpleQueue[str] = SimpleQueue()
    Thread(target=lambda: answer.put(_listed()), daemon=True).start()
    try:
        return answer.get(timeout=seconds)
    except Empty:
        return f"AWS did not answer within {seconds:g} seconds; in a terminal: python -m mistral_lib instance list"


def _listed() -> str:
    try:
        if not session.has_credentials():
            return NO_ACCOUNT
        places = _configured_region()
        return listing.text(places) if resources.looked_into(places) else NO_REGION
    except Exception as error:  # whatever AWS or this computer does, the notebook continues
        return f"What runs on AWS is not known ({error}); in a terminal: python -m mistral_lib instance list"


def _configured_region() -> list[str]:
    """That of the environment or the profile, where another computer may have launched a machine."""
    try:
        return [regions.chosen(None)]
    except regions.RegionError:
        return []


def machines(settings: Settings) -> Iterator[RentalOptions]:
    """Machines for a run: first from params/instances.yaml alone, then with what the account knows."""
    from mistral_lib.training import workload

    try:
        work = workload.work_of(settings)
        table = Plan(settings.run_name, work.origin, plan.rows_of(settings, work), {}, 0, None)
        yield _options(table, settings, ["The account is being asked …"])
        found = plan.plan(settings)
        yield _options(found, settings, [f"Disk: {found.volume_gib} GiB.", *(f"Not seen: {line}" for line in found.unseen)])
    except Exception as error:  # the form shows it in place of the machines
        yield RentalOptions(notes=[f"Not known: {error}"])


def _options(found: Plan, settings: Settings, notes: list[str]) -> RentalOptions:
    own = [_own(one) for one in found.own]
    return RentalOptions(_rows(found), own, commands(found, settings), [f"{SPAN} {found.origin}.", *notes])


def _rows(found: Plan) -> list[dict[str, str]]:
    """A row per type; columns without a value in any row are left out."""
    rows = plan_text.table_rows(found)
    shown = [name for name in COLUMNS if any(row[name] not in ("", plan_text.UNSEEN) for row in rows)]
    return [{COLUMNS[name]: str(row[name]) for name in shown} for row in rows]


def _own(own: OwnMachine) -> dict[str, str]:
    machine = own.machine
    return {
        "id": machine.id, "machine": machine.type, "zone": machine.zone, "disk, GiB": f"{machine.volume_gib}",
        "launched": f"{own.days:.0f} days ago", "USD a day while stopped": f"{own.usd_per_day:.2f}", "fits": own.obstacle or "would fit",
    }  # fmt: skip


def commands(found: Plan, settings: Settings) -> dict[str, list[str]]:
    """What rents each type for the run's saved parameter file: a new machine, or an own stopped one. Empty if the type cannot be launched."""
    file = paths.short(paths.runs() / f"{settings.run_name}.yaml")
    rent: dict[str, list[str]] = {}
    for row in found.rows:
        hours = math.ceil(HOURS_ROOM * row.hours[1])
        options = f"--region {found.region or '<region>'}" + (f" --max-hours {hours}" if hours > launch_options.MAX_HOURS else "")
        own = [one.machine.id for one in found.own if one.row.type == row.type and not one.obstacle]
        starts = [f"python -m mistral_lib instance start {file} {machine} {options}" for machine in own]
        rent[row.type] = [] if row.obstacle else [f"python -m mistral_lib instance up {file} {options}", *starts]
    return rent
