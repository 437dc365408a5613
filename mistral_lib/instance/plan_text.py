"""The plan of a rented machine as lines of a terminal, about 150 characters wide."""

from pathlib import Path
from typing import Any

from mistral_lib.instance.plan import LISTED_FOR, SETUP_HOURS, OwnMachine, Plan, Row

UNSEEN = "not seen"


def text(plan: Plan, params_file: Path | str = "<file>") -> str:
    blocks = [_heading(plan), _types(plan.rows), _disk(plan), _own(plan), _unseen(plan.unseen), _recommendation(plan, params_file)]
    return "\n\n".join(block for block in blocks if block)


def table_rows(plan: Plan) -> list[dict[str, Any]]:
    """One flat row per type, for a table in a notebook."""
    return [
        {
            "type": row.type, "gpu": row.gpu, "fits": _fits(row), "hours": _range(row.hours), "usd": _range(row.usd),
            "usd_per_hour": row.usd_per_hour, "priced": row.priced, "spot_usd_per_hour": _spot(row),
            "quota_vcpus": _quota(row.quota), "zones": _zones(row), "advice": row.obstacle,
        }
        for row in plan.rows
    ]  # fmt: skip


def _heading(plan: Plan) -> str:
    where = f"in {plan.region}" if plan.region else "from params/instances.yaml alone"
    return f"Machines for {plan.run} {where}; {plan.origin}"


def _types(rows: list[Row]) -> str:
    lines = [
        f"{'type':<12} {'gpu':<5} {'fits':<12} {'hours':<12} {'USD':<12} {'USD/h':<16} {'spot USD/h now':<22} {'quota, vCPUs':<16} zones"
    ]
    for row in rows:
        price = f"{row.usd_per_hour:.3f} ({row.priced})"
        lines.append(
            f"{row.type:<12} {row.gpu:<5} {_fits(row):<12} {_range(row.hours):<12} {_range(row.usd):<12} {price:<16} {_spot(row):<22} "
            f"{_quota(row.quota):<16} {_zones(row)}"
        )
        lines += [f"{'':<12} {row.obstacle}"] if row.obstacle else []
    lines.append(
        f"hours and USD on demand: from launch to the end of the training, with {SETUP_HOURS:g} h for the set-up, without the export; "
        f"USD/h of {LISTED_FOR} at the date in brackets, check it before you rent"
    )
    return "\n".join(lines)


def _fits(row: Row) -> str:
    return "fits" if row.fit.leaves_reserve else "fits barely" if row.fit.fits else "does not fit"


def _range(both: tuple[float, float]) -> str:
    return f"{both[0]:.1f} – {both[1]:.1f}"


def _spot(row: Row) -> str:
    if row.spot is None:
        return UNSEEN
    if not row.spot:
        return "none offered"
    zone = min(row.spot, key=row.spot.__getitem__)
    return f"{row.spot[zone]:.3f} in {zone}"


def _quota(quota: Any) -> str:
    if quota is None or quota.limit is None:
        return UNSEEN
    used = "?" if quota.used is None else f"{quota.used:g}"
    return f"{used} of {quota.limit:g} in use"


def _zones(row: Row) -> str:
    return UNSEEN if row.zones is None else ", ".join(row.zones) or "none"


def _disk(plan: Plan) -> str:
    parts = ", ".join(f"{name} {size:.1f}" for name, size in plan.disk.items())
    return f"Disk: {plan.volume_gib} GiB (GiB by part: {parts})"


def _own(plan: Plan) -> str:
    if plan.region is None or not plan.own:
        return f"Own stopped machines in {plan.region}: none with a type of the table" if plan.region else ""
    return "\n".join([f"Own stopped machines in {plan.region}:", *map(_own_line, plan.own)])


def _own_line(own: OwnMachine) -> str:
    machine, row = own.machine, own.row
    fits = own.obstacle or "would fit"
    cost = f"starting it costs {_range(row.usd)} USD, as a new one does, and no second disk"
    return (
        f"  {machine.id}  {machine.type}  {machine.zone}  disk {machine.volume_gib} GiB ({own.usd_per_day:.2f} USD a day, stopped too)  "
        f"launched {own.days:.0f} days ago: {fits}; {cost}"
    )


def _unseen(unseen: list[str]) -> str:
    return "\n".join(["Not seen:", *(f"  {line}" for line in unseen)]) if unseen else ""


def _recommendation(plan: Plan, params_file: Path | str) -> str:
    reasons = [f"  {reason}" for reason in plan.reasons]
    return "\n".join([f"Recommendation: {command(plan, params_file) or 'none'}", *reasons])


def command(plan: Plan, params_file: Path | str) -> str:
    """The command that the recommendation comes to; empty if there is none."""
    if plan.recommended is None:
        return ""
    region = f" --region {plan.region}" if plan.region else " --region <region>"
    if isinstance(plan.recommended, OwnMachine):
        return f"python -m mistral_lib instance start {params_file} {plan.recommended.machine.id}{region}"
    return f"python -m mistral_lib instance up {params_file} --type {plan.recommended.type}{region}"
