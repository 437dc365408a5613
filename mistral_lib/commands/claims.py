"""Checks what somebody claims against what is there: each claim is verified, refuted, missing or unknown, with the reason.

`missing`: the thing is not there. `refuted`: it is there and is not as claimed. `unknown`: nothing can be said from here, for want of
credentials or of an answer; that is no verification. Claims about a cloud account: claimed_cloud.py.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_lib.commands import claimed_cloud, claims_file
from mistral_lib.commands.claims_file import AdapterClaim, Claim, CorpusClaim, EndpointClaim, GgufClaim, ModelClaim, RunClaim
from mistral_lib.preparation import audit
from mistral_lib.preparation.audit import WEIGHTS
from mistral_lib.run import Run, files, paths
from mistral_lib.run.folder import find_folder, summary

VERIFIED, REFUTED, MISSING, UNKNOWN = STATUSES = ("verified", "refuted", "missing", "unknown")
Outcome = tuple[str, str]  # status and reason
NO_ANSWER = ("no answer", "loading", "wrong key", "cannot be told")  # outcomes of parity after which nothing is known


@dataclass(frozen=True, slots=True)
class Checked:
    """A claim and what was found."""

    line: int  # of the claims file
    what: str  # kind and name of the thing
    status: str
    reason: str
    said: str  # the words of the report, "" if the file repeats none

    def __str__(self) -> str:
        words = f" — said: “{self.said}”" if self.said else ""
        return f"{self.status:9} line {self.line}: {self.what}: {self.reason}{words}"


def check(file: Path) -> list[Checked]:
    """Every claim of a file, checked. Errors: claims_file.ClaimsError if the file has a fault."""
    return [_checked(one.line, one.claim) for one in claims_file.load(Path(file))]


def all_verified(found: Iterable[Checked]) -> bool:
    return all(one.status == VERIFIED for one in found)


def text(found: Sequence[Checked]) -> str:
    """A line for each claim, and how many are in each state."""
    counts = Counter(one.status for one in found)
    total = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    return "\n".join([*map(str, found), f"{len(found)} claims: {total}"])


def _checked(line: int, claim: Claim) -> Checked:
    """An error while looking is a finding as well: the other claims are still checked."""
    try:
        status, reason = CHECKS[claim.kind](claim)
    except (ValueError, RuntimeError, OSError, KeyError, ImportError) as error:
        status, reason = UNKNOWN, f"it could not be checked: {type(error).__name__}: {error}"
    name = next(str(value) for key, value in claim.model_dump().items() if key not in ("kind", "said") and value)
    return Checked(line, f"{claim.kind} {name}", status, reason, claim.said)


def _place(name: str) -> Path:
    """A file or folder by its path: relative to this directory, the workbook's home or the project."""
    given = Path(name).expanduser()
    return next((place for place in (given, paths.home() / given, paths.project() / given) if place.exists()), given)


def _judged(faults: list[str], verified: str) -> Outcome:
    return (REFUTED, summary(faults)) if faults else (VERIFIED, verified)


# -- adapters and runs --------------------------------------------------------------------------------------------------


def adapter(claim: AdapterClaim) -> Outcome:
    folder = _place(claim.folder)
    if not folder.is_dir():
        return MISSING, "no such folder"
    if absent := [finding for finding in audit.audit_adapter(folder) if finding.status == "missing"]:
        return MISSING, summary([f"{finding.artefact}: {finding.reason}" for finding in absent])
    faults = [f"{one.artefact}: {one.reason}" for one in audit.audit_adapter(folder) if one.status != "verified"]
    return _judged(faults + _file_faults(folder / WEIGHTS, claim.sha256, claim.bytes), _described(folder / WEIGHTS))


def _file_faults(file: Path, sha256: str | None, size: int | None) -> list[str]:
    """How a file differs from the claimed hash and size."""
    faults, found = [], file.stat().st_size
    if size is not None and found != size:
        faults.append(f"{file.name} has {found:,} bytes, claimed {size:,}")
    if sha256 is not None and not (digest := files.sha256(file)).startswith(sha256.lower()):
        faults.append(f"{file.name} has sha256 {digest[:12]}…, claimed {sha256[:12]}…")
    return faults


def _described(file: Path) -> str:
    return f"{file.name}, {file.stat().st_size:,} bytes, sha256 {files.sha256(file)[:12]}"


def run(claim: RunClaim) -> Outcome:
    folder = find_folder(Path(claim.run))
    if not (folder / "params.yaml").is_file():
        return MISSING, "no such run folder"
    found = Run.existing(folder)
    if absent := [stage for stage in claim.stages if not found.entry(stage)]:
        return MISSING, f"never started: {', '.join(absent)}"
    faults = [f"{one.artefact}: {one.reason}" for stage in claim.stages for one in audit.unverified(found, stage)]
    if claim.verdict is not None and not faults:
        result = files.read_json(folder / "evaluation" / "result.json") if found.status("evaluation") == "complete" else {}
        if (verdict := result.get("verdict", "none: it was not evaluated")) != claim.verdict:
            faults.append(f"its verdict is {verdict}, claimed {claim.verdict}")
    return _judged(faults, f"{', '.join(claim.stages)} complete, every file as recorded")


# -- corpora ------------------------------------------------------------------------------------------------------------


def corpus(claim: CorpusClaim) -> Outcome:
    """Records that could be read, before rejections and duplicates are taken out; and their domains."""
    counted = _of_run(claim.run) if claim.run else _of_files(claim.paths)
    if not isinstance(counted, dict):
        return counted
    faults = []
    for what, claimed in (("entries", claim.entries), ("domains", claim.domains)):
        found = counted[what]
        if claimed is not None and (found < claimed or (found > claimed and not claim.at_least)):
            faults.append(f"{found:,} {what}, claimed {'at least ' if claim.at_least else ''}{claimed:,}")
    return _judged(faults, f"{counted['entries']:,} entries in {counted['domains']} domains")


def _of_run(name: str) -> dict[str, int] | Outcome:
    """What a run's data stage read."""
    folder = find_folder(Path(name))
    if not (folder / "params.yaml").is_file():
        return MISSING, "no such run folder, so nobody has counted this corpus"
    found = Run.existing(folder)
    if found.status("data") != "complete":
        return MISSING, f"its data stage is {found.status('data')}: nothing has been counted"
    if damages := found.damages("data"):
        return REFUTED, summary(damages)
    import pyarrow.parquet as pq

    domains = pq.read_table(folder / "data" / "records.parquet", columns=["domain"]).column("domain").unique()
    return {"entries": files.read_json(folder / "data" / "report.json")["records_read"], "domains": len(domains)}


def _of_files(names: Sequence[str]) -> dict[str, int] | Outcome:
    """The records of files, read as the corpus stage reads them."""
    from mistral_lib.corpus import sources
    from mistral_lib.corpus.records import record_or_reason
    from mistral_lib.run.settings import Settings

    settings = Settings(corpus_paths=list(names))
    try:
        found = sources.of_settings(settings)
    except sources.SourceError as error:
        return MISSING, str(error).splitlines()[0]
    records = (record_or_reason(row, settings)[0] for file in found for row in sources.rows_of(file, settings))
    domains = Counter(record.domain for record in records if record is not None)
    return {"entries": domains.total(), "domains": len(domains)}


# -- models and endpoints -----------------------------------------------------------------------------------------------


def model(claim: ModelClaim) -> Outcome:
    from mistral_lib.model import model_folder

    folder = _place(claim.folder)
    if not folder.is_dir() or not any(folder.glob("*.safetensors")):
        return MISSING, "no such folder" if not folder.is_dir() else "the folder holds no safetensors file"
    try:
        model_folder.check(folder, shown=claim.folder)
    except model_folder.BaseModelError as error:
        return REFUTED, " ".join(str(error).split())
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    faults = [f"its weights have {size:,} bytes, claimed {claim.bytes:,}"] if claim.bytes not in (None, size) else []
    return _judged(faults, f"complete, {size:,} bytes of weights")


def gguf(claim: GgufClaim) -> Outcome:
    from mistral_lib.export import parity

    file = _place(claim.file)
    if not file.is_file():
        return MISSING, "no such file"
    fault = parity.gguf_fault(file)
    return _judged([fault] if fault else _file_faults(file, claim.sha256, claim.bytes), _described(file))


def endpoint(claim: EndpointClaim) -> Outcome:
    """Whether something answers there, under the claimed name, and is the run's adapter."""
    from mistral_lib.export import endpoint_parity
    from mistral_lib.serving import access_key
    from mistral_lib.serving.endpoint import Endpoint, EndpointError

    key_file = _place(claim.key_file) if claim.key_file else None
    if key_file is not None and not key_file.is_file():
        return UNKNOWN, "there is no such key file, so nothing can be asked"
    if claim.run is not None:
        folder = find_folder(Path(claim.run))
        if not (folder / "params.yaml").is_file():
            return UNKNOWN, f"no run {claim.run} here, and with it no probe to compare the endpoint with"
    try:
        server = Endpoint(claim.url, access_key.read(key_file) if key_file else None)
        names = server.models() if server.health() == "ready" else []
    except EndpointError as error:
        return UNKNOWN, str(error)
    if not names:
        return UNKNOWN, "the server is still loading, or lists no model"
    if claim.alias is not None and claim.alias not in names:
        return REFUTED, f"it serves {', '.join(names)}, claimed {claim.alias}"
    if claim.run is None:
        return VERIFIED, f"it answers and serves {', '.join(names)}; whether that is an adapter of yours was not claimed"
    finding = endpoint_parity.check_url(Run.existing(folder), claim.url, key_file, claim.alias)
    status = VERIFIED if finding.passed else UNKNOWN if finding.outcome in NO_ANSWER else REFUTED
    return status, f"{finding.outcome}: {finding.sentence}"


CHECKS: dict[str, Callable[[Any], Outcome]] = {
    "adapter": adapter, "run": run, "corpus": corpus, "model": model, "gguf": gguf, "endpoint": endpoint,
    "bucket": claimed_cloud.bucket, "instance": claimed_cloud.instance,
}  # fmt: skip
