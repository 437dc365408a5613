"""Puts what it reads on stdin into the run's bucket, as root on the machine: `python -m mistral_lib.on_machine.bucket.handover NAME < text`.

`instance lab` gets addresses with keys in this way: Systems Manager would keep them in its history of commands.
"""

import sys

from mistral_lib.on_machine.bucket.object_store import Store, client
from mistral_lib.on_machine.folders import here


def main() -> int:
    """Errors: StoreError; ValueError without a text."""
    place, text = here().place(), sys.stdin.buffer.read()
    if not text.strip():
        raise ValueError("there is no text on stdin: the program has not printed how to reach it yet; run the command again")
    Store(client("s3", place.region), place.bucket, place.prefix).write(sys.argv[1], text, "text/plain; charset=utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
