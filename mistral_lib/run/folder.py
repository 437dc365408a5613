"""A run folder: its stages, its lock and the manifest, which records what each stage read, did and wrote.

A stage is written into a hidden folder, renamed into place, hashed, and only then recorded as `complete`. Status words:
`running`, `interrupted`, `failed`, `complete`.
"""

import fcntl
import os
import platform
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from mistral_lib.run import files, params, paths, sealed
from mistral_lib.run.progress import say

FORMAT = {
    "corpus": 5,
    "data": 6,
    "training": 1,
    "evaluation": 5,
    "export": 1,
    "parity": 1,
}  # raise one when a stage's results change their meaning
OLDER = "an older version of the library made it, in another form"
MEASURING = ".evaluation.measured"  # in the run folder, while the evaluation measures: a file for each measurement that has begun
NOT_HASHED = ("checkpoints", "tensorboard")  # folders that a stage may hold beside its result
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets", "accelerate")


class RunInUseError(RuntimeError):
    """Another process works in this run folder."""


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Run:
    """One folder below runs/, with the settings that it was opened with."""

    def __init__(self, folder: Path, settings: params.Settings):
        self.folder = folder
        self.settings = settings

    @classmethod
    def open(cls, settings: params.Settings) -> "Run":
        """The run named in the settings; created if it is new. Its params.yaml then holds these settings.

        Errors: RunInUseError if another process works in the folder with other settings.
        """
        run = cls(paths.runs() / settings.run_name, settings)
        place, text = run.folder / "params.yaml", params.to_yaml(settings)
        if not place.exists() or place.read_text() != text:
            with run.lock("writing params.yaml"):
                files.write_text(place, text)
        return run

    @classmethod
    def existing(cls, folder: Path) -> "Run":
        """An existing run, by its folder or by its name. Errors: FileNotFoundError."""
        place = find_folder(folder)
        if not (place / "params.yaml").is_file():
            others = ", ".join(path.name for path in all_runs()) or "no runs yet"
            raise FileNotFoundError(
                f"{paths.short(folder)}: no params.yaml there, so this is no run folder; {paths.short(paths.runs())}/ holds: {others}"
            )
        return cls(place, params.recorded(place / "params.yaml"))

    # -- the manifest ---------------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        path = self.folder / "manifest.json"
        return files.read_json(path) if path.exists() else {"stages": {}}

    def entry(self, stage: str) -> dict[str, Any]:
        """The manifest's entry of a stage; an empty dict if it never ran."""
        return self.manifest()["stages"].get(stage, {})

    def status(self, stage: str) -> str:
        """The stage's status word, or `not started`; a `running` stage whose process has ended is `interrupted`, even if another process works here."""
        status = self.entry(stage).get("status", "not started")
        return "interrupted" if status == "running" and not self.works_on(stage) else status

    def record(self, stage: str, **facts: Any) -> None:
        """Merge facts into the stage's entry. Call it only while holding the lock."""
        manifest = self.manifest()
        manifest["stages"].setdefault(stage, {}).update(facts)
        files.write_json(self.folder / "manifest.json", manifest)

    # -- the lock -------------------------------------------------------------------------------------------------

    @contextmanager
    def lock(self, what: str) -> Iterator[None]:
        """Hold the run folder. The kernel drops the lock when its process dies, so no lock is ever stale."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / ".lock", "a+b") as file:
            if not _locked(file):
                raise self._in_use(self.holder() or {})
            file.truncate(0)
            file.write(orjson.dumps({"pid": os.getpid(), "host": socket.gethostname(), "what": what, "since": now()}))
            file.flush()
            yield

    def holder(self) -> dict[str, Any] | None:
        """The process that holds the lock: pid, host, what, since; None if no process does, whatever the lock file contains."""
        path = self.folder / ".lock"
        if not path.exists():
            return None
        with open(path, "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                text = file.read()
                return orjson.loads(text) if text else {}

    def works_on(self, stage: str) -> bool:
        """Whether a process is running this stage now."""
        what = (self.holder() or {}).get("what") or ""
        return what.split(",")[0] == f"stage {stage}"

    def refuse_if_in_use(self) -> None:
        """Errors: RunInUseError if any process works in the folder."""
        if (holder := self.holder()) is not None:
            raise self._in_use(holder)

    def _in_use(self, holder: Mapping[str, Any]) -> RunInUseError:
        return RunInUseError(
            f"{paths.short(self.folder)} is in use by process {holder.get('pid')} on {holder.get('host')} "
            f"({holder.get('what')}, since {holder.get('since')}); wait for it, stop it, or choose another run_name"
        )

    # -- stages ---------------------------------------------------------------------------------------------------

    def reasons_to_run(self, stage: str, inputs: Mapping[str, str]) -> list[str]:
        """Why the stage must run, as texts; empty if the files on disk are the result of these settings and inputs."""
        entry = self.entry(stage)
        if not entry:
            return ["it has no result yet"]
        reasons = self.changes(stage, inputs, older=not self.keeps_older(stage))
        if self.status(stage) != "complete":
            reasons.append(f"it ended as {self.status(stage)}")
        return reasons + self.damages(stage)

    def damages(self, stage: str, below: str = "") -> list[str]:
        """Which files that the stage wrote are missing or altered, as texts. below: only files whose names begin so."""
        return files.damages(self.folder, self.entry(stage).get("outputs", {}), below)

    def changes(self, stage: str, inputs: Mapping[str, str], older: bool = True) -> list[str]:
        """What differs between the stage's last start and now: parameters, inputs and, with `older`, the version of the library.

        A parameter that the library did not have then differs only if it is not the default.
        """
        entry = self.entry(stage)
        was, now_ = entry.get("parameters", {}), self.settings.stage(stage)
        was = {key: was.get(key, params.default(key)) for key in now_}
        reasons = [f"{key}: {was[key]!r} became {now_[key]!r}" for key in now_ if was[key] != now_[key]]
        before = entry.get("inputs", {})
        reasons += [f"input {name} {'changed' if name in before else 'is new'}" for name in inputs if before.get(name) != inputs[name]]
        reasons += [f"input {name} is gone" for name in before if name not in inputs]
        return reasons + ([OLDER] if older and self.is_older(stage) else [])

    def is_older(self, stage: str) -> bool:
        """Whether the stage was last started by a version of the library whose results had another form or meaning."""
        return bool(self.entry(stage)) and self.entry(stage).get("format") != FORMAT[stage]

    def keeps_older(self, stage: str) -> bool:
        """Whether a result of an older version is used as it is: a complete training, and the data that it was trained on."""
        trained, data = self.entry("training"), self.entry("data").get("outputs", {})
        if trained.get("status") != "complete" or stage not in ("data", "training"):
            return False
        read = {name: digest for name, digest in trained["inputs"].items() if name.startswith("data/")}
        return stage == "training" or all(data.get(name, {}).get("sha256") == digest for name, digest in read.items())

    def run_stage(self, stage: str, inputs: Mapping[str, str], work: Callable[[Path], dict[str, Any]]) -> None:
        """Run a stage if `reasons_to_run` is not empty: `work(folder)` fills an empty folder and returns its figures.

        The folder is renamed into place after `work` has returned; an earlier result is moved to `previous/`.
        """
        reasons = self.reasons_to_run(stage, inputs)
        if not reasons:
            version_ = ", made by an older version of the library," if self.is_older(stage) else ""
            say(f"{stage}: unchanged, the result of {self.entry(stage)['ended']}{version_} is used")
            return
        say(f"{stage}: runs, because {summary(reasons)}")
        with self.lock(f"stage {stage}"), self.recording(stage, inputs):
            with sealed.new_folder(self.folder / stage, self.previous(stage)) as folder:
                figures = work(folder)
            self.complete(stage, figures)

    @contextmanager
    def recording(self, stage: str, inputs: Mapping[str, str]) -> Iterator[None]:
        """Record a stage as `running` and, if the block raises, as `failed` or `interrupted`. Needs the lock."""
        self.record(stage, status="running", started=now(), ended=None, error=None, format=FORMAT[stage],
                    parameters=self.settings.stage(stage), inputs=dict(inputs), outputs={}, machine=machine(), taken_over=None)  # fmt: skip
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, (KeyboardInterrupt, SystemExit))
            self.record(stage, status="interrupted" if stopped else "failed", ended=now(), error=f"{type(error).__name__}: {error}")
            raise

    def complete(self, stage: str, figures: Mapping[str, Any]) -> None:
        """Hash the files of the stage and record it as `complete`."""
        outputs = files.hashes(self.folder / stage, self.folder, without=NOT_HASHED)
        self.record(stage, status="complete", ended=now(), outputs=outputs, figures=dict(figures))

    def previous(self, stage: str) -> Path:
        """Where an earlier result of the stage is moved to: a path that does not exist yet."""
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        places = (self.folder / "previous" / f"{stage}-{stamp}{suffix}" for suffix in ["", *(f"-{n}" for n in range(1, 1000))])
        return next(place for place in places if not place.exists())

    def require(self, stage: str, remedy: str) -> dict[str, Any]:
        """The entry of a complete stage. Errors: RuntimeError that names the remedy; if it is running now: to wait."""
        status = self.status(stage)
        if status == "running":
            since = self.entry(stage)["started"]
            raise RuntimeError(
                f"{paths.short(self.folder)}: stage {stage} is running since {since}; wait until it is complete, then run this again"
            )
        if status != "complete":
            others = [path.name for path in all_runs() if path != self.folder and Run(path, self.settings).status(stage) == "complete"]
            misspelt = f" (or is run_name misspelt? It is complete in {', '.join(others[:5])})" if others else ""
            raise RuntimeError(f"{paths.short(self.folder)}: stage {stage} is {status}, expected complete; {remedy}{misspelt}")
        return self.entry(stage)


def _locked(file: Any) -> bool:
    """Take the exclusive lock; try for half a second, because `holder` takes it for a moment."""
    for _ in range(10):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.05)
    return False


def summary(reasons: list[str]) -> str:
    return "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more reasons" if len(reasons) > 3 else "")


def machine() -> dict[str, Any]:
    """The versions of Python and of the libraries, and the kind of machine, as recorded with a result."""
    versions = {name: version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count(), **versions}


def find_folder(folder: Path) -> Path:
    """The first existing folder: the path itself, or below the home or its runs/. The path as given if there is none."""
    return next((place for place in (folder, paths.home() / folder, paths.runs() / folder) if place.is_dir()), folder)


def all_runs() -> list[Path]:
    """Every run folder below runs/, by name."""
    return sorted(path.parent for path in paths.runs().glob("[!.]*/params.yaml"))
