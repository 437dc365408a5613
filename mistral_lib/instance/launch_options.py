"""What may be chosen for a launch or a restart, and what follows from it: type, price, time limit, size of the disk."""

from dataclasses import dataclass

from mistral_lib.aws import errors, prices
from mistral_lib.instance import disk_need, plan
from mistral_lib.run.progress import say
from mistral_lib.run.settings import Settings

MAX_HOURS = 12.0  # from launch to the end, unless requested otherwise
IDLE_MINUTES = 30.0  # that a new machine waits for its job; `run` makes it wait longer while it sends
SPOT_ROOM = 1.25  # times the highest spot price of now: the bid
ASSUMED_DISK_GIB = 150  # if the sizes of the base model cannot be found


class LaunchError(RuntimeError):
    """A machine that cannot be launched as requested; the message says what to change."""


@dataclass(frozen=True)
class UpOptions:
    """Of `up`. None: chosen by the rules in `launch`, and printed."""

    region: str | None = None  # else AWS_REGION, AWS_DEFAULT_REGION or that of the profile
    type: str | None = None  # else `instance` of the parameters
    spot: bool = False
    nodes: int | None = None  # machines together, a head and workers; None: one, or as many as the run has
    max_hours: float | None = None  # from launch to the end; None: MAX_HOURS
    max_usd: float | None = None  # of this machine; None: no limit besides max_hours
    idle_minutes: float = IDLE_MINUTES  # without a job, after which the machine ends
    usd_per_hour: float | None = None  # else that of params/instances.yaml, or for spot the bid
    bucket: str | None = None  # else one is made
    profile_name: str | None = None  # an instance profile that an administrator made
    timer_role: str | None = None  # the ARN of a role that an administrator made for the outside timer
    subnet: str | None = None  # else those of the default VPC
    image: str | None = None  # else the newest one with a driver
    disk_gib: int | None = None  # else what the plan needs
    wait_minutes: float = 30.0  # for capacity
    ignore_fit: bool = False  # launch even if the run does not fit by the plan
    dry_run: bool = False


@dataclass(frozen=True)
class StartOptions:
    """Of `start`. The last three are done only if they are requested here, or answered at the question."""

    region: str | None = None
    max_hours: float | None = None
    max_usd: float | None = None
    idle_minutes: float = IDLE_MINUTES
    usd_per_hour: float | None = None
    bucket: str | None = None
    profile_name: str | None = None
    timer_role: str | None = None
    subnet: str | None = None  # for move_to
    ignore_fit: bool = False
    retry_minutes: float = 0.0  # how long to wait for capacity
    change_type: str | None = None  # a type to change to, if there is no capacity for the present one
    move_to: str | None = None  # a zone or region to launch an image of it in, if there is no capacity


def type_of(settings: Settings, requested: str | None) -> str:
    """Errors: LaunchError if it is no machine that AWS rents, or not in params/instances.yaml."""
    chosen, known = requested or settings.instance, plan.rented()
    if chosen in known:
        return chosen
    if requested is None:
        raise LaunchError(
            f"instance is {chosen!r} in the parameters, which is no machine of AWS; pass --type with one of {', '.join(known)}, "
            "or set `instance` in the parameters"
        )
    raise LaunchError(f"--type {chosen}: not in params/instances.yaml, which has {', '.join(known)}; add a line for it there")


def usd_per_hour(type: str, region: str, spot: bool, requested: float | None) -> float:
    """The price that the time limit is counted with. For spot it is the bid: above the present prices of all zones, at most the price on
    demand."""
    on_demand = requested or _on_demand(type, region)
    if not spot:
        return on_demand
    try:
        now = prices.spot(region, type)
    except errors.AwsError as error:
        say(f"spot prices were not seen ({error}); the bid is the price on demand")
        now = {}
    return min(on_demand, round(SPOT_ROOM * max(now.values()), 4)) if now else on_demand


def _on_demand(type: str, region: str) -> float:
    """USD per hour by AWS's price list, or by params/instances.yaml if that is not seen, which is said."""
    listed = plan.rented()[type]
    try:
        now = prices.on_demand(region, type)
    except errors.AwsError:
        now = None
    if now is None:
        say(
            f"{listed['usd_per_hour']} USD per hour: the price in {plan.LISTED_FOR} of {listed['priced']}; --usd-per-hour sets that of {region}"
        )
    return now or listed["usd_per_hour"]


def hours(options: UpOptions | StartOptions, price: float) -> float:
    """From launch to the end at the latest. price: USD per hour. Errors: LaunchError if a limit is not positive."""
    limits = {"--max-hours": options.max_hours, "--max-usd": options.max_usd, "--idle-minutes": options.idle_minutes}
    for name, value in limits.items():
        if value is not None and value <= 0:
            raise LaunchError(f"{name} is {value:g}, expected a number above 0")
    by_time = MAX_HOURS if options.max_hours is None else options.max_hours
    return by_time if options.max_usd is None else min(by_time, options.max_usd / price)


def disk_gib(settings: Settings, type: str, requested: int | None, ignore_fit: bool) -> int:
    """The size of the volume, after a look at whether the run fits on this type at all. Errors: LaunchError if it does not."""
    if requested and ignore_fit:
        return requested
    from mistral_lib.corpus.sources import SourceError
    from mistral_lib.model.base_model import BaseModelError
    from mistral_lib.training import fit_plan, workload

    try:
        work = workload.work_of(settings)
    except SourceError as error:
        say(f"nothing is known of the data ({str(error).splitlines()[0]}); the disk is sized for a small corpus")
        work = workload.work_of(settings, tokens=1_000_000)
    try:
        fit = fit_plan.best(settings, work, type)
    except BaseModelError as error:
        say(f"the sizes of the base model cannot be found ({error}); the disk gets {requested or ASSUMED_DISK_GIB} GiB, unchecked")
        return requested or ASSUMED_DISK_GIB
    if not fit.fits and not ignore_fit:
        raise LaunchError(f"the run does not fit on {type}: {fit.advice}; change it, take another --type, or pass --ignore-fit")
    needed = disk_need.volume_gib(plan.disk_of(settings, work, fit))
    if requested and requested < needed:
        say(f"--disk-gib {requested}: the plan needs {needed} GiB")
    return requested or needed
