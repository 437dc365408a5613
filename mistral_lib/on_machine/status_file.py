"""machine/status.json: what the machine does, for the person who watches from afar. No secret stands in it."""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mistral_lib.on_machine import programs
from mistral_lib.on_machine.folders import Folders

FOLDER = "machine"  # below the run's prefix; a worker of a cluster has its own below it
NAME = f"{FOLDER}/status.json"
PHASES = ("waiting", "setting up", "running", "uploading", "ended")
SECRETS = re.compile(r"\b(hf_|ghp_|github_pat_|sk-|AKIA|ASIA)[A-Za-z0-9_-]{12,}")  # providers' tokens and AWS key ids
MASK = "****"


@dataclass(frozen=True)
class MachineStatus:
    """One moment. Times are ISO 8601 in UTC; a value that does not exist yet is None."""

    run: str
    phase: str  # one of PHASES
    doing: str  # within the phase
    updated: str
    started: str
    ends_at: str  # when the machine ends in any case
    machine: str | None = None  # its id, if the metadata service told it
    attempt: int | None = None
    reason: str | None = None  # why the machine ends
    run_state: str | None = None  # what `python -m mistral_lib status` says of the training
    stages: dict[str, str] = field(default_factory=dict)  # stage → status word of the manifest
    exit_code: int | None = None  # of the run
    complete: bool = False  # the run has ended well, and its results are uploaded
    gpu: dict[str, float] | None = None  # use_percent, memory_used_mib, memory_mib
    log: list[str] = field(default_factory=list)  # last lines of the run
    usd_so_far: float = 0.0  # earlier machines of this run included
    usd_before: float = 0.0  # of those
    uploaded_bytes: int = 0  # by this machine
    results_bytes: int = 0  # that results.json lists
    spot_notice: dict[str, Any] | None = None
    rebalance: dict[str, Any] | None = None
    trouble: str | None = None  # what failed last and is tried again

    def to_json(self, mask: "Masker") -> bytes:
        return mask(json.dumps(asdict(self), indent=1)).encode()


def iso(moment: float) -> str:
    """A moment, in seconds since 1970, as ISO 8601 in UTC."""
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


class Masker:
    """Replaces secrets in texts: those that are given, and what looks like a token."""

    def __init__(self, secrets: Iterable[str] = ()):
        self.secrets = [secret for secret in secrets if secret]

    def __call__(self, text: str) -> str:
        for secret in self.secrets:
            text = text.replace(secret, MASK)
        return SECRETS.sub(rf"\g<1>{MASK}", text)


def tail(path: Path, limit: int = 200_000) -> bytes:
    """The last bytes of a file, from the beginning of a line; empty if it is not there."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit))
            content = file.read(limit)
    except OSError:
        return b""
    return content if size <= limit else content.partition(b"\n")[2]


def last_lines(path: Path, count: int = 12) -> list[str]:
    return tail(path, 8000).decode(errors="replace").replace("\r", "\n").splitlines()[-count:]


def gpu() -> dict[str, float] | None:
    """Use and memory of the first GPU; None without one."""
    query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        values = [float(value) for value in programs.output(query, seconds=15).splitlines()[0].split(",")]
        return dict(zip(("use_percent", "memory_used_mib", "memory_mib"), values, strict=True))
    except (programs.ProgramError, ValueError, IndexError):
        return None


def stages(run_folder: Path) -> dict[str, str]:
    """The status word of each stage in the manifest; empty if there is none yet."""
    try:
        entries = json.loads((run_folder / "manifest.json").read_bytes())["stages"]
        return {name: str(entry.get("status", "")) for name, entry in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def run_state(folders: Folders, run: str) -> str | None:
    """What the library says of the training; None if it cannot be asked."""
    if not (folders.run_folder(run) / "params.yaml").is_file() or not folders.python.exists():
        return None
    variables = {**os.environ, "MISTRAL_WORKBOOK_HOME": str(folders.home)}
    variables.pop("PYTHONPATH", None)  # of this package; the run's environment has the whole library
    command = [str(folders.python), "-m", "mistral_lib", "status", str(folders.run_folder(run))]
    try:
        return programs.output(command, any_code=True, environment=variables).strip() or None
    except programs.ProgramError:
        return None


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
