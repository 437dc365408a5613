"""`list`: the resources as lines of a terminal, with what each costs a day and all together."""

from collections.abc import Iterable

from mistral_lib.instance import records, resources
from mistral_lib.instance.resources import Resource, Where


def text(extra_regions: Iterable[str] | None = None) -> str:
    """Everything that `resources.everything` finds, and the records of other accounts. Errors: as those of `resources.where`."""
    where = resources.where(extra_regions)
    return "\n".join([table(resources.everything(where.regions), where), *elsewhere(where)])


def elsewhere(where: Where) -> list[str]:
    """A line for each run that this computer launched in another account, which is not looked into."""
    return [
        f"not looked into: {record.run}, launched in account {record.account}: set AWS_PROFILE to a profile of that account"
        for record in records.all_records()
        if record.account not in ("", where.account)
    ]


def table(found: list[Resource], where: Where) -> str:
    """A line for each thing; what was not seen comes last. where: what was looked into."""
    seen, unseen = [one for one in found if one.seen], [one for one in found if not one.seen]
    if not found:
        return f"Nothing with the workbook's tag in {where}"
    lines = [f"{'kind':<16} {'run':<20} {'id':<48} {'region':<14} {'state':<14} {'USD a day':>9}  note"] if seen else []
    lines += [
        f"{one.kind:<16} {one.run:<20} {one.id:<48} {one.region:<14} {one.state:<14} {one.usd_per_day:>9.2f}  {one.note}" for one in seen
    ]
    if seen:
        total = sum(one.usd_per_day for one in seen)
        lines.append(f"{len(seen)} in {where}: {total:.2f} USD a day as they are, at the prices of us-east-1")
    lines += [f"not seen: {one.kind} in {one.region}: {one.note}" for one in unseen]
    return "\n".join(lines)
