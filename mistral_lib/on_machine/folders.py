"""Where everything is on the machine. Tests set MISTRAL_MACHINE_FOLDER, MISTRAL_MACHINE_RUNTIME and MISTRAL_MACHINE_UNITS."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from mistral_lib.on_machine.user_data import BASE, Place

RUNTIME = "/run/mistral-workbook"  # emptied by a restart of the machine
UNITS = "/etc/systemd/system"
USER = "workbook"  # runs the training; it may write below home/ alone


@dataclass(frozen=True)
class Folders:
    """Paths below the base folder, and below the runtime folder."""

    base: Path
    runtime: Path
    units: Path = Path(UNITS)

    @property
    def agent(self) -> Path:
        """The unpacked machine.tar.gz."""
        return self.base / "agent"

    @property
    def boot_python(self) -> Path:
        """Of the small environment with uv and boto3."""
        return self.base / "boot" / "bin" / "python"

    @property
    def code(self) -> Path:
        return self.base / "code"

    @property
    def environment(self) -> Path:
        return self.base / "venv"

    @property
    def python(self) -> Path:
        """Of the run's environment."""
        return self.environment / "bin" / "python"

    @property
    def home(self) -> Path:
        """MISTRAL_WORKBOOK_HOME of the run."""
        return self.base / "home"

    @property
    def params(self) -> Path:
        return self.base / "params.yaml"

    @property
    def job(self) -> Path:
        """The job that was begun, for an agent that is started again while S3 cannot be reached."""
        return self.base / "job.json"

    @property
    def setup_log(self) -> Path:
        return self.base / "setup.txt"

    @property
    def run_log(self) -> Path:
        return self.base / "run.log"

    @property
    def notice(self) -> Path:
        """The spot notice that has arrived."""
        return self.runtime / "notice.json"

    @property
    def rebalance(self) -> Path:
        """The recommendation to move to another machine, which comes before some spot notices."""
        return self.runtime / "rebalance.json"

    @property
    def run_environment(self) -> Path:
        """Variables of the run, with the hub's token: mode 0600, there only while the run starts."""
        return self.runtime / "run.env"

    @property
    def run_end(self) -> Path:
        """How the run's process ended, written by its unit."""
        return self.runtime / "run.end"

    def done(self, what: str) -> Path:
        """A note that a part of the set-up is done, with what it depends on."""
        return self.base / "done" / what

    def run_folder(self, run: str) -> Path:
        return self.home / "runs" / run

    def place(self) -> Place:
        """What the user data wrote down. Errors: OSError, ValueError, TypeError if that was never done."""
        return Place(**json.loads((self.base / "place.json").read_text()))

    def started(self) -> float:
        """When the user data began, in seconds since 1970."""
        return float((self.base / "started").read_text())


def here() -> Folders:
    """The folders of this machine."""
    named = {"FOLDER": BASE, "RUNTIME": RUNTIME, "UNITS": UNITS}
    return Folders(*(Path(os.environ.get(f"MISTRAL_MACHINE_{name}", place)) for name, place in named.items()))


def write_aside(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
