"""What one may claim of a run: its adapter, its exported files, the address at which it is served. claims.py checks such a file."""

from pathlib import Path
from typing import Any

import yaml

from mistral_lib.preparation.audit import WEIGHTS
from mistral_lib.run import Run, files, paths

Claims = list[dict[str, Any]]
HEAD = "# What is claimed of this run. Check it: python -m mistral_lib audit --claims {place}\n"


def of_run(run: Run, url: str | None = None, key_file: Path | None = None) -> Claims:
    """The claims that hold of a run whose export is complete; with `url`, that its adapter answers there."""
    place, adapter = paths.short(run.folder), run.folder / "training" / "adapter" / WEIGHTS
    report = files.read_json(run.folder / "data" / "report.json")
    claimed: Claims = [
        {"kind": "run", "run": run.folder.name, "stages": ["data", "training", "evaluation", "export", "parity"]},
        {"kind": "adapter", "folder": f"{place}/training/adapter", "bytes": adapter.stat().st_size, "sha256": files.sha256(adapter)},
        {"kind": "corpus", "run": run.folder.name, "entries": report["records_read"]},
    ]
    for form, facts in files.read_json(run.folder / "export" / "result.json")["forms"].items():
        file = f"{place}/export/{facts['file']}"
        claimed.append({"kind": "model", "folder": file} if form == "merged" else {"kind": "gguf", "file": file, "bytes": facts["bytes"]})
    if url is not None:
        claimed.append({"kind": "endpoint", "url": url, "run": run.folder.name, **({"key_file": str(key_file)} if key_file else {})})
    return claimed


def with_other_size(claimed: Claims) -> Claims:
    """The claim about the adapter, with one byte more than it has: a false claim to try the check on."""
    return [{**claim, "bytes": claim["bytes"] + 1} for claim in claimed if claim["kind"] == "adapter"]


def write(run: Run, claimed: Claims, name: str) -> Path:
    """Write claims into the run folder."""
    place = run.folder / name
    files.write_text(place, HEAD.format(place=paths.short(place)) + yaml.safe_dump({"claims": claimed}, sort_keys=False, width=10_000))
    return place
