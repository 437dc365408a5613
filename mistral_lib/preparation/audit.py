"""Artefacts compared with their records: each is verified, missing, altered, stale or older, with the reason.

Audits a run folder, or any adapter folder, without loading a base model.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mistral_lib.preparation import stage_inputs
from mistral_lib.run import Run, files, paths
from mistral_lib.run.folder import OLDER, find_folder
from mistral_lib.run.settings import STAGES

WEIGHTS = "adapter_model.safetensors"
STATUSES = ("verified", "missing", "altered", "stale", "older")


@dataclass(frozen=True, slots=True)
class Finding:
    artefact: str
    status: str  # verified, missing, altered, stale, or older: made by an older version of the library, and nothing else differs
    reason: str

    def __str__(self) -> str:
        return f"{self.status:9} {self.artefact}: {self.reason}"


def audit(folder: Path) -> list[Finding]:
    """The findings for a run, by folder or name, or an adapter folder; a folder that is neither is `missing`."""
    folder = find_folder(Path(folder))
    if (folder / "params.yaml").exists() or (folder / "manifest.json").exists():
        return audit_run(folder)
    if not folder.is_dir():
        return [Finding(paths.short(folder.resolve()), "missing", "no such folder")]
    return audit_adapter(folder)


def audit_run(folder: Path) -> list[Finding]:
    """Every stage that was started: its status, each file it wrote, and whether its inputs are still the same."""
    absent = [name for name in ("params.yaml", "manifest.json") if not (folder / name).exists()]
    if absent == ["manifest.json"] and not any((folder / stage).exists() for stage in STAGES):
        return [Finding(folder.name, "missing", "no stage of this run was ever started: run it, or delete its folder")]
    if absent:
        return [Finding(f"{folder.name}/{absent[0]}", "missing", "without it nothing in this folder can be verified")]
    try:
        run = Run.existing(folder)
        stages = run.manifest()["stages"]
    except (ValueError, KeyError) as error:
        return [Finding(folder.name, "altered", f"its record cannot be read: {error}")]
    findings = [finding for stage in stages for finding in _stage(run, stage)]
    return findings or [Finding(folder.name, "missing", "no stage was ever started")]


def unverified(run: Run, stage: str) -> list[Finding]:
    """Why one stage cannot be used as it is: its findings that are not `verified`; empty only if it is complete.

    A result of an older version is no finding if `Run.keeps_older` says that it is used.
    """
    try:
        accepted = ("verified", "older") if run.keeps_older(stage) else ("verified",)
        return [finding for finding in _stage(run, stage) if finding.status not in accepted]
    except (ValueError, KeyError) as error:
        return [Finding(f"{run.folder.name}/{stage}", "altered", f"the run's record cannot be read: {error}")]


def _stage(run: Run, stage: str) -> Iterator[Finding]:
    entry, place = run.entry(stage), f"{run.folder.name}/{stage}"
    status = run.status(stage)
    if status != "complete":
        yield Finding(place, "missing", f"not complete: {status}" + (f" ({entry['error']})" if entry.get("error") else ""))
        return
    yield from _outputs(run, entry)
    if stage == "training":
        found = audit_adapter(run.folder / stage / "adapter")
        yield from (replace(finding, artefact=f"{place}/{finding.artefact}") for finding in found if finding.status != "verified")
    if reasons := stage_inputs.outdated(run, stage):
        yield Finding(place, "stale", "; ".join(reasons))
    elif run.is_older(stage):
        yield Finding(place, "older", f"{OLDER}; it is usable as it is")


def _outputs(run: Run, entry: dict[str, Any]) -> Iterator[Finding]:
    for name, fact in entry["outputs"].items():
        path = run.folder / name
        if not path.is_file():
            yield Finding(f"{run.folder.name}/{name}", "missing", "recorded as complete, but not on disk")
        elif files.sha256(path) != fact["sha256"]:
            yield Finding(f"{run.folder.name}/{name}", "altered", "its content is not what the stage wrote")
        else:
            yield Finding(f"{run.folder.name}/{name}", "verified", f"sha256 {fact['sha256'][:12]}")


def audit_adapter(folder: Path) -> list[Finding]:
    """Whether a folder contains a trained adapter: readable, finite weights that training changed, and a provenance of these weights."""
    name = folder.name
    if not folder.is_dir():
        return [Finding(name, "missing", "no such folder")]
    findings = [Finding(f"{name}/{file}", "missing", "an adapter cannot be loaded without it")
                for file in ("adapter_config.json", WEIGHTS) if not (folder / file).is_file()]  # fmt: skip
    if (folder / WEIGHTS).is_file():
        findings.append(_weights(folder))
    if not (folder / "provenance.json").is_file():
        findings.append(Finding(f"{name}/provenance.json", "missing", "no file records what this adapter was trained from"))
    elif (folder / WEIGHTS).is_file():
        findings.append(_provenance(folder))
    return findings


def _weights(folder: Path) -> Finding:
    from safetensors import SafetensorError, safe_open

    place = f"{folder.name}/{WEIGHTS}"
    trained = 0
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as tensors:
            names = list(tensors.keys())
            for name in names:
                tensor = tensors.get_tensor(name)
                if not tensor.isfinite().all():
                    return Finding(place, "altered", f"{name} contains NaN or infinity")
                trained += "lora_B" in name and bool(tensor.any())
    except (SafetensorError, OSError) as error:
        return Finding(place, "altered", f"cannot be read: {error}")
    if not trained:
        return Finding(place, "missing", "every lora_B is zero, as before the first step: nothing was trained")
    return Finding(place, "verified", f"{len(names)} finite tensors, {trained} trained lora_B")


def _provenance(folder: Path) -> Finding:
    place = f"{folder.name}/provenance.json"
    try:
        recorded = files.read_json(folder / "provenance.json")["weights_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        return Finding(place, "altered", f"cannot be read: {error}")
    if recorded != files.sha256(folder / WEIGHTS):
        return Finding(f"{folder.name}/{WEIGHTS}", "altered", "its content is not what training wrote")
    return Finding(place, "verified", f"weights have sha256 {recorded[:12]}")


def table(folders: list[Path]) -> list[dict[str, Any]]:
    """For each run: the status of every stage by its manifest, and how many artefacts are in each state."""
    rows = []
    for folder in folders:
        findings = audit_run(folder)
        counts = {s: sum(f.status == s for f in findings) for s in STATUSES}
        rows.append({"run": folder.name, "claimed": claimed(folder), **counts})
    return rows


def claimed(folder: Path) -> str:
    try:
        run = Run.existing(folder)
        return ", ".join(f"{stage} {run.status(stage)}" for stage in STAGES if run.entry(stage)) or "nothing"
    except (ValueError, OSError):
        return "unreadable"
