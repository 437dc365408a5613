"""Looks every five seconds whether this spot machine is to be taken away: two minutes are left then.

At a notice it writes the notice down for the agent, and sends SIGTERM to the run, so that the training saves after its step. It is a
service of its own, so that a busy or restarted agent costs no time.
"""

import json
import sys
import time
from collections.abc import Callable

from mistral_lib.on_machine import programs
from mistral_lib.on_machine.folders import Folders, here, write_aside
from mistral_lib.on_machine.metadata import Metadata, MetadataError
from mistral_lib.on_machine.units import RUN

EVERY = 5.0  # seconds, as AWS advises


def watch(folders: Folders, metadata: Metadata, pause: Callable[[float], None] = time.sleep, every: float = EVERY) -> None:
    """Returns after a notice. Without a metadata service it continues to ask, and says so once."""
    silent = False
    while True:
        try:
            notice, advice = metadata.spot_notice(), metadata.rebalance()
        except MetadataError as error:
            if not silent:
                print(f"{error}; it is asked again every {every:g} s", flush=True)
            silent = True
        else:
            silent = False
            if advice is not None and not folders.rebalance.exists():
                write_aside(folders.rebalance, json.dumps(advice).encode())
            if notice is not None:
                arrived(folders, notice)
                return
        pause(every)


def arrived(folders: Folders, notice: dict) -> None:
    """Write the notice down, then ask the run to save."""
    print(f"spot notice: {json.dumps(notice)}", flush=True)
    if not folders.notice.exists():
        write_aside(folders.notice, json.dumps(notice).encode())
    try:
        programs.output(["systemctl", "kill", "--signal=SIGTERM", RUN])
    except programs.ProgramError as error:  # no run yet, or none any more
        print(f"the run was not signaled: {error}", flush=True)


def main() -> int:
    watch(here(), Metadata())
    return 0


if __name__ == "__main__":
    sys.exit(main())
