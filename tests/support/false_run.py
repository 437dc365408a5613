"""In place of `python -m mistral_lib run` for an alternative of a sweep: what it does is told by the alternative's name.

meets     waits until two of them run, and is done
fails     ends with an error
resumes   waits to be ended the first time, and is done the second time
waits     waits to be ended
prepares  prepares its data, in a few seconds
"""

import signal
import sys
import time
from pathlib import Path
from types import FrameType

from mistral_lib.run import Run, files, paths

SECONDS = 90.0  # the longest that one waits
COPY = "00_start_here.ipynb"  # the only notebook that these sweeps name


def words(run: Run, only: object) -> tuple[str, ...]:
    """As sweep_runs.command."""
    return "-m", "tests.support.false_run", str(run.folder)


def finish(run: Run) -> None:
    """The run's executed notebook, as a complete one."""
    from mistral_lib.commands import notebook_runs

    files.write_json(run.folder / "notebooks" / COPY, {"metadata": {}})
    notebook_runs.mark_complete(run.folder / "notebooks" / COPY, notebook_runs.key(run, paths.notebooks() / COPY))


def wait(number: int, pattern: str) -> None:
    """Until so many files have this name."""
    until = time.monotonic() + SECONDS
    while len(list(paths.runs().glob(pattern))) < number and time.monotonic() < until:
        time.sleep(0.05)


def save(number: int, frame: FrameType | None) -> None:
    print("saved", flush=True)
    sys.exit(3)


def main(folder: Path) -> None:
    signal.signal(signal.SIGTERM, save)
    run, behaviour = Run.existing(folder), folder.name.split("-")[1]
    (folder / f"began.{len(list(folder.glob('began.*')))}").touch()
    print(f"began {time.time():.2f}", flush=True)
    if behaviour == "fails":
        sys.exit("ValueError: this one is broken")
    if behaviour == "prepares":
        from mistral_lib.preparation import prepare

        prepare.prepare(run)
    elif behaviour == "meets":
        wait(2, "*-meets-*/began.0")
    elif behaviour == "waits" or not (folder / "began.1").exists():
        wait(1, "never")
    finish(run)
    print(f"ended {time.time():.2f}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
