"""`list`: the resources as lines of a terminal, with what each costs a day and all together."""

from collections.abc import Iterable

from mistral_lib.instance import resources
from mistral_lib.instance.resources import Resource


def text(extra_regions: Iterable[str] | None = None) -> str:
    """Everything that `resources.everything` finds. Errors: AccessError without boto3 or credentials."""
    places = resources.looked_into(extra_regions)
    if not places:
        return "Nothing was made from this computer, and no region was named: `--region` looks into one"
    return table(resources.everything(extra_regions), places)


def table(found: list[Resource], places: list[str]) -> str:
    """A line for each thing; what was not seen comes last. places: the regions that were looked into."""
    seen, unseen = [one for one in found if one.seen], [one for one in found if not one.seen]
    where = f"in {', '.join(places)}"
    if not found:
        return f"Nothing with the workbook's tag {where}"
    lines = [f"{'kind':<16} {'run':<20} {'id':<48} {'region':<14} {'state':<14} {'USD a day':>9}  note"] if seen else []
    lines += [
        f"{one.kind:<16} {one.run:<20} {one.id:<48} {one.region:<14} {one.state:<14} {one.usd_per_day:>9.2f}  {one.note}" for one in seen
    ]
    if seen:
        total = sum(one.usd_per_day for one in seen)
        lines.append(f"{len(seen)} {where}: {total:.2f} USD a day as they are, at the prices of us-east-1")
    lines += [f"not seen: {one.kind} in {one.region}: {one.note}" for one in unseen]
    return "\n".join(lines)
