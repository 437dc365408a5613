"""A finished stage of one run taken over by another that would compute the very same: hard links, verified, with where it is from.

Only what a stage reads and does counts: its parameters and inputs must be equal. The run that takes it over still
compares the inputs with what is on disk now when the stage's turn comes, and computes anew what no longer fits.
"""

import os
import shutil
from collections.abc import Iterable

from mistral_lib.run import Run, files, paths, sealed
from mistral_lib.run.folder import FORMAT, now
from mistral_lib.run.progress import say

SHARED = ("corpus", "data")  # what training reads; a training itself is never taken over


def take_over(run: Run, others: Iterable[Run]) -> dict[str, str]:
    """Take over what other runs hold of the shared stages; `{stage: the run that it is from}`. Errors: RunInUse."""
    taken = {}
    candidates = [other for other in others if other.folder != run.folder]
    for stage in SHARED:
        if run.status(stage) == "complete" and run.entry(stage).get("parameters") == run.settings.stage(stage):
            continue  # its own result; whether it is still right is looked at when the stage's turn comes
        for other in candidates:
            if fits(run, other, stage) and adopt(run, other, stage):
                taken[stage] = other.folder.name
                break
    return taken


def fits(run: Run, other: Run, stage: str) -> bool:
    """Whether the other run's stage is complete, and made with the parameters that this run has now."""
    entry = other.entry(stage)
    same = entry.get("parameters") == run.settings.stage(stage) and entry.get("format") == FORMAT[stage]
    return same and other.status(stage) == "complete"


def adopt(run: Run, other: Run, stage: str) -> bool:
    """Link the other run's stage into this one and record it; False, and nothing changed, if its files are not what it recorded."""
    entry = other.entry(stage)
    with run.lock(f"stage {stage}, from {other.folder.name}"):
        if files.hashes(other.folder / stage, other.folder) != entry["outputs"]:
            say(f"{stage}: not taken over from {paths.short(other.folder)}, whose files are not those that it recorded")
            return False
        with sealed.new_folder(run.folder / stage, run.previous(stage)) as folder:
            shutil.copytree(other.folder / stage, folder, copy_function=_link, dirs_exist_ok=True)
        run.record(stage, **{**entry, "taken_over": {"from": paths.short(other.folder), "at": now()}})
    say(f"{stage}: taken over from {paths.short(other.folder)}, verified: same parameters, same inputs")
    return True


def _link(source: str, target: str) -> None:
    """A hard link costs no disk, and stages are only ever replaced as a whole, never written in place. Else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
