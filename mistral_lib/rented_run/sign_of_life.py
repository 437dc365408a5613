"""A sign of life for the machine while this computer prepares and sends its job, which may take hours over a slow line.

The machine ends after some minutes without a job. Each new uploading.json below the run's prefix lets it wait as long again; if this
computer fails, the signs stop, and the machine ends.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Event, Thread

from mistral_lib.aws import buckets
from mistral_lib.aws.errors import AwsError
from mistral_lib.instance.records import Record
from mistral_lib.on_machine.preparation import UPLOADING

EVERY = 60.0  # seconds


@contextmanager
def given(record: Record, seconds: float = EVERY) -> Iterator[None]:
    """Writes uploading.json now and every `seconds` until the block ends."""
    end = Event()

    def work() -> None:
        while not end.is_set():
            give(record)
            end.wait(seconds)

    thread = Thread(target=work, name="sign of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join(timeout=seconds)


def give(record: Record) -> bool:
    """Writes uploading.json with the time; False if AWS refused or did not answer: what is sent meets the same, and says so."""
    try:
        buckets.put_json({"at": datetime.now(UTC).isoformat()}, record.bucket, record.prefix + UPLOADING, record.region)
    except AwsError:
        return False
    return True
