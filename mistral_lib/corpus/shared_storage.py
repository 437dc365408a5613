"""A bucket that all machines of a cluster reach: finished parts are copied to it and from it, and what fails is tried again.

A part is there when its list of files is: that one is written last. What arrives is compared with the hashes in the list.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_lib.corpus import object_store
from mistral_lib.run import sealed
from mistral_lib.run.progress import say

PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before each further attempt


class SharedStorageError(OSError):
    """A part cannot be copied to the bucket or from it; the message names the part."""


@dataclass(frozen=True, slots=True)
class Bucket:
    url: str  # s3://bucket/prefix

    def put(self, folder: Path, name: str) -> None:
        """Copy a finished part. Errors: SharedStorageError."""
        paths = sorted(path for path in folder.iterdir() if path.name != sealed.FILES)

        def copy(store: Any) -> None:
            for path in [*paths, folder / sealed.FILES]:
                store.pipe_file(self._key(name, path.name), path.read_bytes())

        self._tried(copy, name, "written to")

    def get(self, name: str, folder: Path) -> None:
        """Copy a part into an empty folder. Errors: SharedStorageError."""

        def copy(store: Any) -> None:
            for key in store.find(self._key(name)):
                (folder / key.rpartition("/")[2]).write_bytes(store.cat_file(key))
            if not sealed.is_complete(folder):
                raise object_store.StoreError("what arrived is not what was written")

        self._tried(copy, name, "read from")

    def names(self) -> set[str]:
        """The parts that are there. Errors: SharedStorageError."""
        found = self._tried(lambda store: store.find(self._key()), "the list of parts", "read from")
        return {key.rsplit("/", 2)[1] for key in found if key.endswith(f"/{sealed.FILES}")}

    def has(self, name: str) -> bool:
        """Whether the part is there. Errors: SharedStorageError."""
        return bool(self._tried(lambda store: store.exists(self._key(name, sealed.FILES)), name, "found in"))

    def remove(self) -> None:
        """Delete all parts. Errors: SharedStorageError."""

        def delete(store: Any) -> None:
            keys = store.find(self.url.removeprefix("s3://"))
            if keys:
                store.rm(keys)

        self._tried(delete, "all parts", "deleted from")

    def _key(self, *names: str) -> str:
        return "/".join([self.url.removeprefix("s3://").rstrip("/"), *names])

    def _tried(self, action: Callable[[Any], Any], name: str, what: str) -> Any:
        for pause in (*PAUSES, None):
            try:
                with object_store.explained():
                    return action(object_store.store())
            except object_store.StoreError as error:
                if pause is None:
                    raise SharedStorageError(
                        f"{name} cannot be {what} {self.url}, tried {len(PAUSES) + 1} times: {error}. The parts that are finished stand: run "
                        "again when the storage answers"
                    ) from None
                say(f"{name}: {self.url} does not answer ({error}); tried again in {pause:g} s")
                time.sleep(pause)
        return None
