"""Which machine suits a run: fit, hours, USD, quota, zones, own stopped machines, disk; and a recommendation with its reasons.

Fit, hours and prices on demand come from params/instances.yaml and need no account. What only the account knows is asked for if there
are credentials and a region; what could not be seen is named, and nothing fails because of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from mistral_lib.aws import errors, machines, network, prices, quotas, regions, session
from mistral_lib.instance import disk_need
from mistral_lib.run import params
from mistral_lib.run.settings import Settings

Found = TypeVar("Found")
SETUP_HOURS = 0.3  # from launch until the run begins: system, packages, base model; assumed, not measured on AWS
LISTED_FOR = "us-east-1"  # the region of the prices in params/instances.yaml


@dataclass(frozen=True)
class Row:
    """One type of machine. Hours and USD as (shortest, longest), from launch to the end of the training, without export."""

    type: str
    gpu: str
    vcpus: int
    fit: Any  # training.fit_plan.Fit
    usd_per_hour: float  # on demand
    priced: str
    hours: tuple[float, float]
    spot: dict[str, float] | None = None  # USD per hour by zone, now; None: not seen
    quota: Any = None  # aws.quotas.Quota on demand; None: not seen
    spot_quota: Any = None
    zones: list[str] | None = None  # that offer the type; None: not seen

    @property
    def usd(self) -> tuple[float, float]:
        """On demand."""
        return self.hours[0] * self.usd_per_hour, self.hours[1] * self.usd_per_hour

    @property
    def obstacle(self) -> str:
        """Why this type cannot be launched, or empty. A quota or zones that were not seen are no obstacle."""
        if not self.fit.fits:
            return f"does not fit: {self.fit.advice or self.fit.host}"
        if self.zones == []:
            return "no zone of the region offers it"
        if self.quota is None or not (short := shortage(self.quota, self.vcpus)):
            return ""
        return f"{self.quota.name} ({self.quota.code}): {short}"


@dataclass(frozen=True)
class OwnMachine:
    """A stopped machine of this account whose type is in params/instances.yaml."""

    machine: Any  # aws.machines.Machine
    row: Row
    days: float  # since its last launch
    usd_per_day: float  # its disk, also while it is stopped
    obstacle: str  # why the run does not suit it, or empty


@dataclass(frozen=True)
class Plan:
    """What `plan_text.text` shows."""

    run: str
    origin: str  # where the number of tokens comes from
    rows: list[Row]
    disk: dict[str, float]  # GiB by part
    volume_gib: int
    region: str | None
    own: list[OwnMachine] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    recommended: Row | OwnMachine | None = None
    reasons: list[str] = field(default_factory=list)


def plan(settings: Settings, tokens: int = 0, region: str | None = None) -> Plan:
    """The plan of a run. tokens: training tokens of an epoch, in place of those of its data. region: else that of the environment.

    Errors: SourceError if nothing is known of the data; BaseModelError if the sizes of the base model cannot be found.
    """
    from mistral_lib.training import workload

    work = workload.work_of(settings, tokens)
    rows = rows_of(settings, work)
    disk = disk_of(settings, work, rows[0].fit)
    volume, unseen = disk_need.volume_gib(disk), []
    own: list[OwnMachine] = []
    if (place := _region(region, unseen)) is not None:
        rows = [_with_account(row, place, unseen) for row in rows]
        stopped = _seen("own stopped machines", lambda: machines.find(place, states=("stopped",), tagged=False), unseen)
        own = [_own(machine, rows, volume) for machine in stopped or [] if machine.type in {row.type for row in rows}]
    recommended, reasons = recommendation(rows, own)
    return Plan(settings.run_name, work.origin, rows, disk, volume, place, own, unseen, recommended, reasons)


def rented() -> dict[str, dict[str, Any]]:
    """The machines of params/instances.yaml that AWS rents."""
    return {name: machine for name, machine in params.instances().items() if "vcpus" in machine}


def rows_of(settings: Settings, work: Any) -> list[Row]:
    """A row for every type, by the fit plan alone."""
    from mistral_lib.training import fit_plan

    return [row_of(name, fit_plan.best(settings, work, name)) for name in rented()]


def row_of(name: str, fit: Any) -> Row:
    machine = rented()[name]
    low, high = (sum(both) / 3600 + SETUP_HOURS for both in zip(fit.seconds, fit.beyond, strict=True))
    return Row(name, machine["gpu"], machine["vcpus"], fit, machine["usd_per_hour"], machine["priced"], (low, high))


def disk_of(settings: Settings, work: Any, fit: Any) -> dict[str, float]:
    """GiB of disk by part."""
    from mistral_lib.model import model_shapes
    from mistral_lib.training import workload
    from mistral_lib.training.fit_plan import STEP

    base = model_shapes.checkpoint_bytes(model_shapes.config_of(settings.base_model))
    trainable = fit.phases[STEP]["LoRA"] // 4  # float32
    tokens = work.steps_of_a_pass * workload.effective_batch(settings) * settings.max_tokens
    return disk_need.parts(settings, tokens, base, trainable)


# -- what the account knows ---------------------------------------------------------------------------------------------


def _region(requested: str | None, unseen: list[str]) -> str | None:
    """The region to look into, None if it or the credentials are missing, which is added to `unseen`."""
    what = "the account (quotas, zones, spot prices, own stopped machines)"
    try:
        if not session.has_credentials():
            unseen.append(f"{what}: no AWS credentials; set AWS_PROFILE, or run `aws configure sso` or `aws configure`")
            return None
        return regions.chosen(requested)
    except (session.AccessError, errors.AwsError, regions.RegionError) as error:
        unseen.append(f"{what}: {error}")
        return None


def _with_account(row: Row, region: str, unseen: list[str]) -> Row:
    changes = {
        "quota": _quota(region, row.type, False, unseen),
        "spot_quota": _quota(region, row.type, True, unseen),
        "zones": _seen("zones", lambda: network.zones(region, row.type), unseen),
        "spot": _seen("spot prices", lambda: prices.spot(region, row.type), unseen),
    }
    return Row(**{**vars(row), **changes})


def _quota(region: str, type: str, spot: bool, unseen: list[str]) -> Any:
    quota = quotas.vcpus(region, type, spot)
    if quota.note and (line := f"quota {quota.name}: {quota.note}") not in unseen:
        unseen.append(line)
    return quota


def _seen(what: str, look: Callable[[], Found], unseen: list[str]) -> Found | None:
    """What `look` finds; None if the account does not answer, and the reason in `unseen` once for all types."""
    if any(line.startswith(f"{what}: ") for line in unseen):
        return None
    try:
        return look()
    except errors.AwsError as error:
        unseen.append(f"{what}: {error}")
        return None


def _own(machine: Any, rows: list[Row], volume_gib: int) -> OwnMachine:
    row = next(row for row in rows if row.type == machine.type)
    days = (datetime.now(UTC) - machine.launched).total_seconds() / 86400
    usd_per_day = machine.volume_gib * prices.DAY_PRICES["volume"]
    obstacle = row.obstacle
    if not obstacle and 0 < machine.volume_gib < volume_gib:
        obstacle = f"its disk has {machine.volume_gib} GiB, {volume_gib} are needed"
    return OwnMachine(machine, row, days, usd_per_day, obstacle)


def shortage(quota: Any, vcpus: int) -> str:
    """Why one more machine with so many vCPUs is above the quota, or empty; what was not seen is no shortage."""
    if quota.limit is None or (quota.used or 0) + vcpus <= quota.limit:
        return ""
    in_use = "unknown" if quota.used is None else f"{quota.used:g}"
    return f"the quota is {quota.limit:g} vCPUs, {in_use} in use, {vcpus} needed"


# -- the recommendation -------------------------------------------------------------------------------------------------


def recommendation(rows: list[Row], own: list[OwnMachine]) -> tuple[Row | OwnMachine | None, list[str]]:
    """The cheapest type by its longest time that fits and can be launched, or an own stopped machine of it; with the reasons."""
    possible = [row for row in rows if not row.obstacle]
    if not possible:
        return None, [f"no type can be launched; {row.type}: {row.obstacle}" for row in rows]
    roomy = [row for row in possible if row.fit.leaves_reserve] or possible
    best = min(roomy, key=lambda row: row.usd[1])
    reasons = [f"{best.type} is the cheapest that fits: at most {best.usd[1]:.2f} USD on demand, {best.hours[1]:.1f} hours"]
    if not best.fit.leaves_reserve:
        reasons.append("no type leaves the memory reserve free: this one fits barely")
    if best.spot and (cheapest := min(best.spot.values())) < best.usd_per_hour:
        reasons.append(f"spot saves up to {1 - cheapest / best.usd_per_hour:.0%}; it may be taken away, the run resumes with --retry")
    for one in own:
        if one.row.type == best.type and not one.obstacle:
            paid = f"its disk is paid for anyway ({one.usd_per_day:.2f} USD a day)"
            reasons.append(f"{one.machine.id} is a stopped {best.type}: {paid}; its zone {one.machine.zone} may have no capacity")
            return one, reasons
    return best, reasons
