"""`up` in a process that is killed once its record has reached a step: `python -m tests.support.killed_up STEP [NODES]`."""

import os
import signal
import sys

from mistral_lib.instance import launch, records
from mistral_lib.instance.launch_options import UpOptions
from mistral_lib.instance.records import Record
from mistral_lib.run import params

saved = records.save


def save_and_die(record: Record) -> None:
    saved(record)
    if record.step == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    records.save = save_and_die
    nodes = int(sys.argv[2]) if len(sys.argv) > 2 else None
    settings = params.validate({"run_name": "first", "instance": "g4dn.xlarge"})
    launch.up("params/mine.yaml", settings, UpOptions(region="us-east-1", disk_gib=90, ignore_fit=True, wait_minutes=0, nodes=nodes))
