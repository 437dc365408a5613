"""The results of a run from the bucket into runs/<run>: each file verified, nothing that was here overwritten, then audited.

Files are downloaded into a hidden folder beside the run and moved into place when all of them are there and have the hashes of
results.json; a download that was cut resumes. A local result that differs, and that no earlier fetch brought, is moved to previous/.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mistral_lib.aws import buckets
from mistral_lib.aws.errors import AwsError
from mistral_lib.instance import records
from mistral_lib.instance.records import Record
from mistral_lib.preparation import audit
from mistral_lib.preparation.audit import Finding
from mistral_lib.run import Run, disk, files, params, paths
from mistral_lib.run.progress import bar, say
from mistral_lib.run.settings import STAGES

LISTING = "results.json"
BROUGHT = ".fetched.json"  # in the run folder: what the last fetch brought, path → sha256
CHECKPOINTS = "training/checkpoints/"  # of a complete run they are not fetched: nothing needs them any more
PREVIOUS = "previous"  # in the run folder: earlier results, of both computers
LARGE = 64 * 2**20  # bytes
SPARE = 2**30  # bytes of disk that stay free


class FetchError(RuntimeError):
    """Results that cannot be fetched; the message says what is kept and what to do."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch brought."""

    folder: Path
    count: int  # files
    size: int  # bytes
    complete: bool  # whether the run itself was complete when these results were written
    moved: Path | None  # where an earlier local result is now
    findings: tuple[Finding, ...]

    @property
    def verified(self) -> bool:
        return self.complete and all(finding.status in ("verified", "older") for finding in self.findings)

    def __str__(self) -> str:
        rest = [str(finding) for finding in self.findings if finding.status != "verified"]
        counted = sum(finding.status == "verified" for finding in self.findings)
        lines = [
            f"{paths.short(self.folder)}: {self.count} files, {files.size_text(self.size)}, each with the hash that the machine recorded",
            f"the local result that was there is now in {paths.short(self.moved)}" if self.moved else "",
            f"audit: {counted} of {len(self.findings)} artefacts verified" + ("" if rest else ", none missing, altered or stale"),
            *rest,
            "" if self.complete else "the run is not complete yet: fetch again when `instance watch` says that it is",
        ]
        return "\n".join(filter(None, lines))


def fetch(run: str) -> Fetched:
    """Fetch and audit a run. It may be called at any time, also while the machine works.

    Errors: RecordError, FetchError if there is no result yet or a file is damaged, DiskFullError, AwsError, RunInUseError.
    """
    record = records.required(run)
    listed = listing(record)
    wanted = {name: fact for name, fact in listed["files"].items() if not (listed["complete"] and name.startswith(CHECKPOINTS))}
    place = paths.runs() / run
    aside = place.with_name(f".{run}.fetched.partial")
    here = Run(place, params.Settings())
    here.refuse_if_in_use()
    size = sum(fact["bytes"] for fact in wanted.values())
    disk.require(paths.runs(), size + SPARE, f"the results of {run} and 1 GiB beside them")
    found = _download(record, wanted, place, aside, listed["complete"])
    with here.lock("fetching results"):
        moved = _move_into_place(aside, place, found)
    findings = tuple(audit.audit_run(place))
    fetched = Fetched(place, len(wanted), size, listed["complete"], moved, findings)
    if fetched.verified:
        records.save(replace(records.required(run), fetched=datetime.now(UTC)))
    return fetched


def listing(record: Record) -> dict[str, Any]:
    """results.json: `files` with path → {bytes, sha256}, and `complete`. Errors: FetchError."""
    found = buckets.get_json(record.bucket, record.prefix + LISTING, record.region)
    if found is None:
        raise FetchError(
            f"{record.run}: nothing in s3://{record.bucket}/{record.prefix} was finished yet; `python -m mistral_lib instance watch "
            f"{record.run}` shows what the machine does"
        )
    names = found.get("files")
    if not isinstance(names, dict) or "complete" not in found:
        raise FetchError(f"s3://{record.bucket}/{record.prefix}{LISTING} has the keys {sorted(found)}, expected files and complete")
    leaving = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
    if leaving:
        raise FetchError(f"{LISTING} names files outside the run folder: {', '.join(leaving[:3])}; nothing was fetched")
    return found


def _download(record: Record, listed: dict[str, Any], place: Path, aside: Path, complete: bool) -> dict[str, str]:
    """Every listed file, verified, in the folder `aside`: taken from the run folder if it is there already, or from the bucket.

    Returns `{name: sha256}`. While the machine works, an object may be newer than the list; its own hash then counts.
    """
    found: dict[str, str] = {}
    for name in bar(sorted(listed), "results", unit="file"):
        target, fact = aside / name, listed[name]
        found[name] = fact["sha256"]
        if _is(target, fact):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if _is(place / name, fact):
            _copy(place / name, target, fact["bytes"])
            continue
        found[name] = _from_bucket(record, name, target, fact["sha256"], complete)
    for path in [path for path in aside.rglob("*") if path.is_file() and str(path.relative_to(aside)) not in listed]:
        path.unlink()  # of an earlier, cut fetch; the machine has replaced it since
    return found


def _copy(path: Path, target: Path, size: int) -> None:
    """A file that is here already. A large one is weights, which nothing changes in place: it gets a second name, no second copy."""
    if size > LARGE:
        os.link(path, target)
    else:
        shutil.copyfile(path, target)


def _from_bucket(record: Record, name: str, target: Path, sha256: str, complete: bool) -> str:
    """Download one result; its hash. Errors: AwsError."""
    key = f"{record.prefix}results/{name}"
    try:
        buckets.download(record.bucket, key, target, sha256, record.region)
        return sha256
    except AwsError as error:
        newer = None if complete or error.code != "Altered" else buckets.sha256_of(record.bucket, key, record.region)
        if not newer or newer == sha256:
            raise
    buckets.download(record.bucket, key, target, newer, record.region)
    return newer


def _is(path: Path, fact: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == fact["bytes"] and files.sha256(path) == fact["sha256"]


def _move_into_place(aside: Path, place: Path, found: dict[str, str]) -> Path | None:
    """Rename the entries of `aside` into the run folder; the manifest comes last. Returns where own results were moved to.

    A process that is killed in between leaves the hidden folder with what remains, and the next fetch completes it.
    """
    brought = files.read_json(place / BROUGHT) if (place / BROUGHT).exists() else {}
    entries = sorted({Path(name).parts[0] for name in found} - {PREVIOUS}, key=lambda name: (name == "manifest.json", name))
    own = [entry for entry in (*entries, *STAGES) if (place / entry).exists() and _is_own(place / entry, place, found, brought)]
    moved = _keep(place, dict.fromkeys(own))
    for entry in entries:
        if not (aside / entry).exists():
            continue
        old = place.with_name(f".{place.name}.replaced.partial")
        _remove(old)
        if (place / entry).exists():
            (place / entry).rename(old)
        (aside / entry).rename(place / entry)
        _remove(old)
    for name in found:  # earlier results of the machine join those that are here
        if Path(name).parts[0] == PREVIOUS and not (place / name).exists():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).rename(place / name)
    files.write_json(place / BROUGHT, found)
    shutil.rmtree(aside, ignore_errors=True)
    return moved


def _is_own(entry: Path, place: Path, found: dict[str, str], brought: dict[str, str]) -> bool:
    """Whether a file or folder of the run holds something that neither this fetch nor the last one brought."""
    there = [entry] if entry.is_file() else [path for path in entry.rglob("*") if path.is_file() and not path.name.startswith(".")]
    names = {str(path.relative_to(place)): path for path in there}
    return any(files.sha256(path) not in (found.get(name), brought.get(name)) for name, path in names.items())


def _keep(place: Path, entries: dict[str, None]) -> Path | None:
    """Move entries of the run folder to previous/fetched-<time>/."""
    if not entries:
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    kept = place / PREVIOUS / f"before-fetch-{stamp}"
    kept.mkdir(parents=True)
    for entry in entries:
        (place / entry).rename(kept / entry)
    say(f"{paths.short(place)}: {', '.join(entries)} differ from what the machine made; moved to {paths.short(kept)}")
    return kept


def _remove(path: Path) -> None:
    action: Callable[[Path], Any] = shutil.rmtree if path.is_dir() else lambda file: file.unlink(missing_ok=True)
    action(path)
