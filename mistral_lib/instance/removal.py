"""`down`: removes everything of a run, in an order that never leaves a machine without its outside timer, and shows what is left.

Order: machines, until they are gone; then disks, addresses, images; group, parameter, objects; schedule; roles last, since the schedule
uses one of them. Results that were not fetched stay unless their deletion is requested.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from mistral_lib.aws import buckets, found_machines, machines, network, parameters, roles, schedules, volumes, waiting
from mistral_lib.aws.errors import AwsError
from mistral_lib.instance import listing, records, resources
from mistral_lib.instance.resources import Resource
from mistral_lib.run import files
from mistral_lib.run.progress import say

END_SECONDS = 420  # until a machine is terminated or stopped
LISTED_SECONDS = 90  # until AWS no longer lists what was deleted
RESULTS, RESULTS_LIST = "results/", "results.json"  # below a run's prefix
KEPT = (RESULTS, RESULTS_LIST, "machine/", "params.yaml")  # with results that were not fetched


@dataclass(frozen=True)
class Unfetched:
    """Results of a run in the bucket that were not fetched since they were written."""

    run: str
    place: str  # s3://bucket/runs/<run>/results/
    objects: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.run}: {self.objects:,} objects, {files.size_text(self.bytes)} in {self.place} were not fetched"


def down(run: str | None, yes: bool = False, delete_results: bool = False) -> int:
    """Removes everything of the run, or with None of all runs, after a question. The exit code: 0 if nothing is left but kept results.

    Errors: AccessError without boto3 or credentials.
    """
    found = _of(run, resources.everything())
    if run is not None and all(one.kind == "bucket" for one in found):
        _forget(run, [])
        return _report(run, [], _buckets_removed(found))
    unfetched = [result for one in found if one.kind == "objects" if (result := unfetched_of(one))]
    print(listing.table(found, resources.looked_into()))
    for one in unfetched:
        print(
            f"NOT FETCHED  {one}: `python -m mistral_lib instance fetch {one.run}`; {'they are deleted' if delete_results else 'they stay'}"
        )
    if not yes and not confirmed(
        f"Remove this{', with the results that were not fetched' if unfetched and delete_results else ''}? [yes/no] "
    ):
        print("nothing was removed")
        return 1
    kept = [] if delete_results else unfetched
    failures = [failure for name in _runs(found) for failure in removed(name, [one for one in found if one.run == name], kept)]
    failures += _buckets_removed(found)
    return _report(run, kept, failures)


def confirmed(question: str) -> bool:
    """Whether the answer is `yes`; without a terminal to answer at it is no."""
    try:
        return input(question).strip().lower() in ("yes", "y")
    except EOFError:
        print("\nno answer: --yes removes without the question")
        return False


def unfetched_of(objects: Resource) -> Unfetched | None:
    """The run's results, if there are some that were not fetched since. Errors: AwsError."""
    bucket, prefix = _place(objects)
    sizes = buckets.listing(bucket, prefix + RESULTS, objects.region)
    record = records.load(objects.run)
    written = buckets.modified(bucket, prefix + RESULTS_LIST, objects.region)
    fetched = record.fetched if record else None
    if not sizes or (fetched is not None and (written is None or written <= fetched)):
        return None
    return Unfetched(objects.run, f"s3://{bucket}/{prefix}{RESULTS}", len(sizes), sum(sizes.values()))


def _place(objects: Resource) -> tuple[str, str]:
    """Bucket and prefix of `s3://bucket/runs/<run>/`."""
    bucket, _, prefix = objects.id.removeprefix("s3://").partition("/")
    return bucket, prefix


def _of(run: str | None, found: list[Resource]) -> list[Resource]:
    """What belongs to the run, and what was not seen; with None everything."""
    return [one for one in found if run is None or one.run == run or one.kind == "bucket" or not one.seen]


def _runs(found: list[Resource]) -> list[str]:
    return sorted({one.run for one in found if one.seen and one.kind != "bucket"})


# -- removing -----------------------------------------------------------------------------------------------------------


def removed(run: str, found: list[Resource], kept: list[Unfetched]) -> list[str]:
    """Removes what was found of a run; the failures in words. If a machine does not end, its timer and the rest stay."""
    places = sorted({one.region for one in found} - {resources.GLOBAL} or resources.looked_into())
    by_kind = {kind: [one for one in found if one.kind == kind] for kind in resources.KINDS}
    failures = _tried([lambda one=one: _ended(one) for one in by_kind["machine"]])
    failures += _tried([lambda one=one: _given_back(one) for one in by_kind["adopted machine"]])
    if failures:
        return [*failures, f"{run}: its timer and everything else stay until its machines have ended; run the command again"]
    keep = KEPT if any(one.run == run for one in kept) else ()
    failures += _tried([lambda place=place: _leftovers_removed(run, place) for place in places])
    failures += _tried([lambda place=place: network.delete_group(run, place) for place in _regions(by_kind["security group"])])
    failures += _tried([lambda place=place: parameters.delete(run, place) for place in _regions(by_kind["parameter"])])
    failures += _tried([lambda one=one: _objects_removed(one, keep) for one in by_kind["objects"]])
    failures += _tried([lambda place=place: schedules.delete(run, place) for place in _regions(by_kind["schedule"])])
    if by_kind["role"] or by_kind["profile"]:
        failures += _tried([lambda: roles.delete(run, places[0])])
    if not failures:
        _forget(run, kept)
    return failures


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
    bucket, prefix = _place(objects)
    if not keep:
        buckets.empty(bucket, prefix, objects.region)
        return
    kept = tuple(prefix + name for name in keep)
    buckets.delete(bucket, [key for key in buckets.listing(bucket, prefix, objects.region) if not key.startswith(kept)], objects.region)


def _buckets_removed(found: list[Resource]) -> list[str]:
    """Deletes the workbook's buckets that are empty now; another run's objects keep theirs."""
    return _tried([lambda one=one: buckets.delete_if_empty(one.id, one.region) for one in found if one.kind == "bucket" and one.seen])


def _forget(run: str, kept: list[Unfetched]) -> None:
    """Deletes the record. It stays, without a step, if `fetch` still needs it."""
    record = records.load(run)
    if record is not None and any(one.run == run for one in kept):
        records.save(replace(record, step=""))
    else:
        records.delete(run)


# -- what is left -------------------------------------------------------------------------------------------------------


def _report(run: str | None, kept: list[Unfetched], failures: list[str]) -> int:
    """Lists what is left, once AWS no longer lists what was deleted."""
    left: list[Resource] = []
    for _ in waiting.tries(0 if failures else LISTED_SECONDS, first=2.0):
        left = [one for one in _of(run, resources.everything()) if not _is_kept(one, kept) and not _is_others(run, one)]
        if not left:
            break
    for failure in failures:
        print(f"NOT REMOVED  {failure}")
    for one in kept:
        print(f"kept: {one}; `instance fetch {one.run}` fetches them, `instance down {one.run} --delete-results` deletes them")
    places = ", ".join(resources.looked_into()) or "the account"
    if not left and not failures:
        print(f"nothing is left of {run or 'any run'} in {places}{', but the kept results' if kept else ''}")
        return 0
    print(f"left:\n{listing.table(left, resources.looked_into())}")
    return 1


def _is_kept(one: Resource, kept: list[Unfetched]) -> bool:
    """Objects that stay with the results, and their bucket."""
    return (one.kind == "objects" and any(result.run == one.run for result in kept)) or (
        one.kind == "bucket" and any(result.place.startswith(f"s3://{one.id}/") for result in kept)
    )


def _is_others(run: str | None, one: Resource) -> bool:
    """Whether it is a bucket that objects of another run keep."""
    return run is not None and one.kind == "bucket" and one.seen
