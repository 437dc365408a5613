"""Uploads the run folder in the background while the run works, and at the end until everything is there."""

import threading
import time

from mistral_lib.on_machine.bucket.object_store import StoreError
from mistral_lib.on_machine.bucket.results_list import ResultsError
from mistral_lib.on_machine.bucket.uploads import Uploads
from mistral_lib.on_machine.heartbeat import Facts

EVERY = 10.0  # seconds between two rounds
LONGEST_PAUSE = 60.0  # seconds between two attempts of the last upload
SAME_ROUNDS = 3  # after which files that still change, or are damaged, are left out of the last upload


class Mirror:
    """The background thread, and the last upload after it has stopped."""

    def __init__(self, uploads: Uploads, facts: Facts, every: float = EVERY):
        self.uploads, self.facts, self.every = uploads, facts, every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="uploads", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Waits for the round that is under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                self._round()
            except Exception as error:  # the last upload raises it; until then the next round is tried
                print(f"upload: {type(error).__name__}: {error}", flush=True)
            self._stop.wait(self.every)

    def _round(self, complete: bool = False) -> tuple[str, ...] | None:
        """One round; the files that changed meanwhile, None if the round failed and is to be tried again."""
        try:
            found = self.uploads.round(complete)
        except (StoreError, ResultsError, OSError) as error:
            self.facts.trouble = f"upload: {error}"
            print(f"upload: {error}", flush=True)
            return None
        finally:
            self.facts.uploaded_bytes = self.uploads.uploaded_bytes
        self.facts.results_bytes, self.facts.trouble = found.bytes, None
        return found.changed

    def finish(self, complete: bool, until: float) -> tuple[str, ...] | None:
        """Upload until everything is there; returns what had to be left out, which is nothing if all went well.

        complete: the run has ended well. until: when it is given up, in seconds since 1970; then None.
        """
        left_out: list[tuple[str, ...]] = []
        pause = 1.0
        while len(left_out) < SAME_ROUNDS:
            changed = self._round(complete)
            if changed == ():
                return ()
            if changed is not None:
                left_out.append(changed)
            if time.time() + pause > until:
                return None
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE) if changed is None else pause
        return left_out[-1]
