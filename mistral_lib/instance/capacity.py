"""Finds a zone with capacity: one zone after the other, then again after growing pauses, up to a limit.

Capacity is what AWS has free in a zone at the moment; the quota is what the account may have. Only the first one changes by waiting.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from mistral_lib.aws import machines
from mistral_lib.aws.machines import CapacityError, Machine, Order
from mistral_lib.run.progress import say

PAUSES = (15, 30, 60, 120, 300)  # seconds between two rounds over the zones; the last one repeats
LONGEST_TOKEN = 64  # characters of an idempotence token


class NoCapacityError(RuntimeError):
    """No zone had capacity within the time."""


def launched(order: Order, places: Mapping[str, str], wait_minutes: float) -> Machine:
    """The machine, launched in the first zone that has capacity. places: zone → subnet, in the order to try.

    Errors: NoCapacityError after wait_minutes; QuotaError and AwsError at once.
    """
    if not places:
        raise NoCapacityError(
            f"no zone of {order.region} offers {order.type} in a subnet of this account; take another --type, --region or --subnet"
        )

    wanted = order.type if order.count == 1 else f"{order.count} {order.type} together"

    def one_round(number: int) -> Machine | None:
        for zone, subnet in places.items():
            token = f"{order.token}-{number}-{zone}"[:LONGEST_TOKEN]
            try:
                return machines.launch(replace(order, subnet=subnet, zone=zone, token=token))
            except CapacityError:
                say(f"{zone}: no capacity for {wanted}")
        return None

    what = f"{wanted} in {', '.join(places)}"
    advice = "try later, --wait-minutes, another --type or --region" + (", or without --spot" if order.spot else "")
    return until_there_is_capacity(one_round, what, wait_minutes, advice)


def until_there_is_capacity(attempt: Callable[[int], Machine | None], what: str, wait_minutes: float, advice: str) -> Machine:
    """Repeats `attempt(number of the round)` until it returns a machine, with growing pauses. The last attempt is made when the time
    is over. Errors: NoCapacityError."""
    began, rounds = time.monotonic(), 0
    while True:
        machine = attempt(rounds)
        if machine is not None:
            return machine
        left = 60 * wait_minutes - (time.monotonic() - began)
        if left <= 0:
            raise NoCapacityError(f"no capacity for {what} after {rounds + 1} attempt(s) in {wait_minutes:g} minutes; {advice}")
        pause = min(left, PAUSES[min(rounds, len(PAUSES) - 1)])
        rounds += 1
        say(f"no capacity for {what}: attempt {rounds + 1} in {pause:.0f} s; {left / 60:.0f} minutes of waiting are left")
        time.sleep(pause)
