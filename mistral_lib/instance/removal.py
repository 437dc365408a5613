"""`down`: removes everything of a run, in an order that never leaves a machine without its outside timer, and shows what is left.

Order: machines, until they are gone; then disks, addresses, images; group, parameter, objects; schedule; roles last, since the schedule
uses one of them. Results that were not fetched stay unless their deletion is requested.
"""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import replace

from mistral_lib.aws import buckets, found_machines, machines, network, parameters, regions, roles, schedules, volumes, waiting
from mistral_lib.aws.errors import AwsError
from mistral_lib.instance import listing, records, resources, unfinished
from mistral_lib.instance.cluster import placement
from mistral_lib.instance.records import Record, RecordError
from mistral_lib.instance.resources import Resource, Where
from mistral_lib.instance.unfinished import RESULTS, RESULTS_LIST, Unfetched, unfetched_of
from mistral_lib.run.progress import say

END_SECONDS = 420  # until a machine is terminated or stopped
LISTED_SECONDS = 90  # until AWS no longer lists what was deleted
KEPT = (RESULTS, RESULTS_LIST, "machine/", "params.yaml")  # with results that were not fetched


def down(run: str | None, yes: bool = False, delete_results: bool = False, extra_regions: Iterable[str] | None = None) -> int:
    """Removes everything of the run, or with None of all runs, after a question. The exit code: 0 if nothing is left but kept results.

    extra_regions: to look into, and from now on, besides those that were used; without any, all of the account are looked into. Errors: as
    those of `resources.where`; RecordError if the run was launched in another account, or if nothing is known of such a run.
    """
    for region in extra_regions or ():
        regions.remember(regions.chosen(region))
    if run is not None:
        records.of_this_account(run)
    where = resources.where()
    there = resources.everything(where.regions)
    found = _of(run, there)
    if run is not None and all(one.kind == "bucket" and one.seen for one in found):
        print(f"nothing has the tag of {run} in {where}; other runs that have something there: {', '.join(_runs(there)) or 'none'}")
        _require_known(run, _runs(there))
        _forget(run)
        return _report(run, where, found, [], _buckets_removed(found))
    unfetched = [result for one in found if one.kind == "objects" if (result := unfetched_of(one))]
    question = _question(found, where, unfetched, delete_results)
    if not yes and not confirmed(question):
        print("nothing was removed")
        return 1
    kept = [] if delete_results else unfetched
    failures = []
    for name in _runs(found):
        failed, late = removed(name, where, [one for one in found if one.run == name], delete_results)
        failures, kept = failures + failed, kept + [one for one in late if one.run not in {known.run for known in kept}]
    failures += _buckets_removed(found)
    return _report(run, where, found, kept, failures)


def _require_known(run: str, there: list[str]) -> None:
    """Errors: RecordError if this computer knows no run of this name, and nothing in the account has it."""
    if records.is_known(run):
        return
    near = difflib.get_close_matches(run, sorted({*there, *records.known()}), n=3, cutoff=0.6)
    asked = f": did you mean {' or '.join(near)}?" if near else ": `python -m mistral_lib instance list` shows what there is"
    raise RecordError(f"no run {run} is known to this computer or has anything there; nothing was removed{asked}")


def _question(found: list[Resource], where: Where, unfetched: list[Unfetched], delete_results: bool) -> str:
    """Shows what is removed and what would be lost; the question."""
    print(listing.table(found, where))
    for one in unfetched:
        print(
            f"NOT FETCHED  {one}: `python -m mistral_lib instance fetch {one.run}`; {'they are deleted' if delete_results else 'they stay'}"
        )
    working = unfinished.working_in(found)
    for one in working:
        print(f"STILL WORKING  {one}; what it has not uploaded is lost")
    results = ", with the results that were not fetched" if unfetched and delete_results else ""
    runs = ", ".join(sorted({one.run for one in working}))
    return f"Remove this{results}{f', although the machine of {runs} is still working' if runs else ''}? [yes/no] "


def confirmed(question: str) -> bool:
    """Whether the answer is `yes`; without a terminal to answer at it is no."""
    try:
        return input(question).strip().lower() in ("yes", "y")
    except EOFError:
        print("\nno answer: --yes removes without the question")
        return False


def _of(run: str | None, found: list[Resource]) -> list[Resource]:
    """What belongs to the run, and what was not seen; with None everything."""
    return [one for one in found if run is None or one.run == run or one.kind == "bucket" or not one.seen]


def _runs(found: list[Resource]) -> list[str]:
    return sorted({one.run for one in found if one.seen and one.kind != "bucket"})


# -- removing -----------------------------------------------------------------------------------------------------------


def removed(run: str, where: Where, found: list[Resource], delete_results: bool) -> tuple[list[str], list[Unfetched]]:
    """Removes what was found of a run; the failures in words, and the results that stay. If a machine does not end, its timer and the rest
    stay."""
    record = records.mine(run)
    seen_in = {one.region for one in found} | ({record.region} if record else set())
    places = sorted(seen_in - {resources.GLOBAL} or where.regions)
    by_kind = {kind: [one for one in found if one.kind == kind] for kind in resources.KINDS}
    several = by_kind["machine"] if len(by_kind["machine"]) > 1 else []  # of a cluster: none waits for the end of another one
    failures = _tried([lambda one=one: machines.terminate(one.region, one.id) for one in several])
    failures += _tried([lambda one=one: _ended(one) for one in by_kind["machine"]])
    failures += _tried([lambda one=one: _given_back(one) for one in by_kind["adopted machine"]])
    failures += _tried([lambda place=place: _require_none(run, place) for place in places])
    if failures:
        return [*failures, f"{run}: its timer and everything else stay until its machines have ended; run the command again"], []
    kept: list[Unfetched] = []
    if not delete_results:  # looked at again: until its end the machine may have uploaded more
        failures += _tried([lambda one=one: kept.extend(filter(None, [unfetched_of(one)])) for one in by_kind["objects"]])
    failures += _tried([lambda place=place: _leftovers_removed(run, place) for place in places])
    failures += _tried([lambda place=place: network.delete_group(run, place) for place in _regions(by_kind["security group"])])
    failures += _tried([lambda place=place: placement.delete(run, place) for place in _regions(by_kind["placement group"])])
    failures += _tried([lambda place=place: parameters.delete(run, place) for place in _regions(by_kind["parameter"])])
    if delete_results or not failures:  # what could not be looked at is not deleted
        failures += _tried([lambda one=one: _objects_removed(one, KEPT if kept else ()) for one in by_kind["objects"]])
    failures += _tried([lambda place=place: schedules.delete(run, place) for place in _regions(by_kind["schedule"])])
    if by_kind["role"] or by_kind["profile"]:
        failures += _tried([lambda: roles.delete(run, places[0])])
    if not failures:
        _forget(run)
    return failures, kept


def _tried(removals: list[Callable[[], object]]) -> list[str]:
    """Does every one of them; what AWS refused, in words."""
    failures = []
    for remove in removals:
        try:
            remove()
        except AwsError as error:
            failures.append(str(error))
    return failures


def _regions(found: list[Resource]) -> list[str]:
    return sorted({one.region for one in found})


def _ended(machine: Resource) -> None:
    """Terminates a machine and waits until it is gone. Errors: AwsError."""
    say(f"{machine.id} is terminated")
    machines.terminate(machine.region, machine.id)
    if not machines.wait(machine.region, machine.id, "terminated", END_SECONDS):
        raise AwsError(f"{machine.id} is not terminated after {END_SECONDS} s: run the command again", "NotTerminated")


def _require_none(run: str, region: str) -> None:
    """Errors: AwsError if the run has a machine in the region, for example one that AWS did not list yet, or if that is not shown."""
    if there := machines.find(region, run):
        raise AwsError(f"{there[0].id} of {run} is {there[0].state}: run the command again", "NotTerminated")


def _given_back(machine: Resource) -> None:
    """Stops a machine that was there before the run, and gives it back its groups and profile. Errors: AwsError."""
    say(f"{machine.id} is stopped, not terminated: it was there before the run")
    if machine.state in ("pending", "running"):
        machines.stop(machine.region, machine.id)
    if not machines.wait(machine.region, machine.id, "stopped", END_SECONDS):
        raise AwsError(f"{machine.id} is not stopped after {END_SECONDS} s: run the command again", "NotStopped")
    found_machines.release(machine.region, machine.id)


def _leftovers_removed(run: str, region: str) -> None:
    """Deletes volumes, images, snapshots and addresses. A volume of a machine that has just ended is deleted by AWS itself. Errors: AwsError."""
    for left in waiting.tries(LISTED_SECONDS, first=2.0):
        there = volumes.leftovers(region, run)
        for one in there:
            if one.state != "in-use" or left <= 0:
                volumes.delete(one)
        if all(one.state != "in-use" for one in there):
            return


def _objects_removed(objects: Resource, keep: tuple[str, ...]) -> None:
    """Deletes the objects of the run, except those below `keep`. Errors: AwsError."""
    bucket, prefix = unfinished.place_of(objects)
    if not keep:
        buckets.empty(bucket, prefix, objects.region)
        return
    kept = tuple(prefix + name for name in keep)
    buckets.delete(bucket, [key for key in buckets.listing(bucket, prefix, objects.region) if not key.startswith(kept)], objects.region)


def _buckets_removed(found: list[Resource]) -> list[str]:
    """Deletes the workbook's buckets that are empty now; another run's objects keep theirs."""
    return _tried([lambda one=one: buckets.delete_if_empty(one.id, one.region) for one in found if one.kind == "bucket" and one.seen])


def _forget(run: str) -> None:
    """Deletes the record. It stays, without a step, if `fetch` still needs it: objects of the run are left, or are not shown."""
    record = records.mine(run)
    if record is not None and record.bucket and _has_objects(record):
        records.save(replace(record, step=""))
    elif record is not None:
        records.delete(run)


def _has_objects(record: Record) -> bool:
    try:
        return bool(buckets.listing(record.bucket, record.prefix, record.region))
    except AwsError as error:
        return not error.not_there


# -- what is left -------------------------------------------------------------------------------------------------------


def _report(run: str | None, where: Where, found: list[Resource], kept: list[Unfetched], failures: list[str]) -> int:
    """Lists what is left, once AWS no longer lists what was deleted. found: what was there before; only its regions are looked into again."""
    left, again = [], {one.region for one in found} - {resources.GLOBAL} or where.regions[:1]
    for _ in waiting.tries(0 if failures else LISTED_SECONDS, first=2.0):
        left = [one for one in _of(run, resources.everything(again)) if not _is_kept(one, kept) and not _is_others(run, one)]
        if not left:
            break
    for failure in failures:
        print(f"NOT REMOVED  {failure}")
    for one in kept:
        print(f"kept: {one}; `instance fetch {one.run}` fetches them, `instance down {one.run} --delete-results` deletes them")
    elsewhere = listing.elsewhere(where) if run is None else []
    for line in elsewhere:
        print(line)
    if not left and not failures:
        print(f"nothing is left of {run or 'any run'} in {where}{', but the kept results' if kept else ''}")
        return 1 if elsewhere else 0
    print(f"left:\n{listing.table(left, where)}")
    return 1


def _is_kept(one: Resource, kept: list[Unfetched]) -> bool:
    """Objects that stay with the results, and their bucket."""
    return (one.kind == "objects" and any(result.run == one.run for result in kept)) or (
        one.kind == "bucket" and any(result.place.startswith(f"s3://{one.id}/") for result in kept)
    )


def _is_others(run: str | None, one: Resource) -> bool:
    """Whether it is a bucket that objects of another run keep."""
    return run is not None and one.kind == "bucket" and one.seen
