"""Takes over a complete stage of another run that would compute the same: hard links, verified, with their origin recorded.

The stage's parameters must be equal. When the stage's turn comes, its inputs are compared with the disk as for any other stage,
and it runs again if they differ.
"""

import os
import shutil
from collections.abc import Iterable

from mistral_lib.run import Run, files, paths, sealed
from mistral_lib.run.folder import FORMAT, now
from mistral_lib.run.progress import say

SHARED = ("corpus", "data")  # what training reads; a training itself is never taken over


def take_over(run: Run, others: Iterable[Run]) -> dict[str, str]:
    """Take over the shared stages from other runs; returns `{stage: name of the other run}`. Errors: RunInUseError."""
    taken = {}
    candidates = [other for other in others if other.folder != run.folder]
    for stage in SHARED:
        if fits(run, run, stage):
            continue  # its own result; it is checked when the stage's turn comes
        for other in candidates:
            if fits(run, other, stage) and adopt(run, other, stage):
                taken[stage] = other.folder.name
                break
    return taken


def fits(run: Run, other: Run, stage: str) -> bool:
    """Whether the other run's stage is complete, in this library's format, and made with the parameters that this run has now."""
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
    """A hard link, which is safe because stages are replaced and never written in place; a copy if the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
