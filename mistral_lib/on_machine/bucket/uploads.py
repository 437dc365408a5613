"""Mirrors the run folder into the bucket, while the run works in it.

A file is listed in results.json only after its object is complete, a checkpoint only after all its objects are. What has vanished
here is taken off the list first; its objects are deleted after that, the last checkpoint's when a newer one is there. In each round the manifest is read before the other files and
uploaded after them, so that what it calls complete is there. If S3 fails, the next round continues where this one stopped.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mistral_lib.on_machine.bucket import run_files
from mistral_lib.on_machine.bucket.object_store import Store, sha256_of
from mistral_lib.on_machine.bucket.results_list import FOLDER, NAME, Entry, Results
from mistral_lib.on_machine.bucket.run_files import MANIFEST

SMALL = 8 * 2**20  # bytes; a smaller file is read in one piece, so that it may grow meanwhile


@dataclass(frozen=True)
class Round:
    """What one round left: bytes that are listed, and files that changed or vanished meanwhile, which the next round looks at again."""

    bytes: int
    changed: tuple[str, ...] = ()


class Uploads:
    """The uploaded state of one run folder. One thread at a time may call `round`."""

    def __init__(self, store: Store, folder: Path):
        self.store, self.folder = store, folder
        self.uploaded_bytes = 0  # by this process
        self._published: Results | None = None  # results.json as it is in the bucket; None: not read yet
        self._stored: dict[str, Entry] = {}  # objects that are complete in the bucket
        self._listing: dict[str, Entry] = {}  # those to list
        self._hashes: dict[Path, tuple[tuple[int, int, int], Entry]] = {}  # of files that have not changed since

    def round(self, complete: bool = False) -> Round:
        """Upload what is new and list it. complete: the run has ended well. Errors: StoreError, ResultsError."""
        if self._published is None:
            self._published = Results.from_json(self.store.read(NAME))
            self._stored, self._listing = dict(self._published.files), dict(self._published.files)
        manifest = _read(self.folder / MANIFEST)
        files, checkpoints = run_files.outside_checkpoints(self.folder), run_files.checkpoints(self.folder)
        self._forget_all_but(files, checkpoints, manifest)
        changed = [name for name, path in sorted(files.items(), key=lambda item: _size(item[1])) if not self._upload(name, path)]
        if manifest is not None:
            self._put(MANIFEST, manifest)
        self._publish()
        changed += [self._name(place) for place in checkpoints if not self._upload_checkpoint(place)]
        self._forget_all_but(files, checkpoints, manifest)
        self._publish(complete and not changed)
        return Round(self._published.bytes, tuple(changed))

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _forget_all_but(self, files: Iterable[str], checkpoints: list[Path], manifest: bytes | None) -> None:
        """Take off the list what is not here any more, then delete its objects. Until one of the checkpoints that are here is in the
        bucket, those of before stay: a machine that is taken away meanwhile would leave nothing to resume from."""
        kept = {*files, *([MANIFEST] if manifest is not None else [])}
        folders = {f"{self._name(place)}/" for place in checkpoints}
        gone = [name for name in self._stored if name not in kept and not any(name.startswith(folder) for folder in folders)]
        here = [place for place in checkpoints if place.name.startswith(run_files.RESUMED)]
        if here and not any(f"{self._name(place)}/{run_files.LIST}" in self._listing for place in here):
            gone = [name for name in gone if not name.startswith(run_files.CHECKPOINTS + run_files.RESUMED)]
        self._unlist(gone)
        for name in gone:
            self.store.delete(FOLDER + name)
            del self._stored[name]

    def _unlist(self, names: Iterable[str]) -> None:
        for name in names:
            self._listing.pop(name, None)
        if self._published is not None and self._published.files.keys() - self._listing.keys():
            self._publish()

    def _publish(self, complete: bool = False) -> None:
        """Write results.json if it would change."""
        now = Results(dict(self._listing), complete)
        if now != self._published:
            self.store.write(NAME, now.to_json(), "application/json")
            self._published = now

    # -- files -------------------------------------------------------------------------------------------------------

    def _upload(self, name: str, path: Path) -> bool:
        """Upload one file unless its content is there; False if it changed or vanished meanwhile."""
        content, entry = None, None
        try:
            if (known := self._known(path)) is not None and self._listing.get(name) == known:
                return True
            if path.stat().st_size <= SMALL:
                before, content = run_files.signature(path), path.read_bytes()
            else:
                entry = self._hashed(path)
        except OSError:
            return False
        if content is not None:
            self._hashes[path] = before, self._put(name, content)
            return True
        if self._listing.get(name) != entry:
            self._unlist([name])  # its object is not one of the two contents while it is replaced
            if not self._store(name, path, entry):
                return False
            self._listing[name] = entry
        return True

    def _put(self, name: str, content: bytes) -> Entry:
        """Upload a content that was read in one piece, unless it is there."""
        entry = Entry(len(content), _sha256(content))
        if self._stored.get(name) != entry:
            self.store.write(FOLDER + name, content)
            self._stored[name] = entry
            self.uploaded_bytes += entry.bytes
        self._listing[name] = entry
        return entry

    def _upload_checkpoint(self, place: Path) -> bool:
        """Upload all files of a checkpoint, then list them together; False if it is damaged or was deleted meanwhile."""
        entries = self._contents(place)
        if entries is None:
            return False
        if entries.items() <= self._listing.items():
            return True
        self._unlist(name for name in [*self._listing] if name.startswith(f"{self._name(place)}/"))
        if not all(self._store(name, self.folder / name, entry) for name, entry in entries.items()):
            return False
        self._listing |= entries
        self._publish()
        return True

    def _contents(self, place: Path) -> dict[str, Entry] | None:
        """The files of a checkpoint by their paths in the run folder; hashed once, since a complete checkpoint does not change."""
        try:
            before = run_files.signature(place / run_files.LIST)
        except OSError:
            return None
        listed = {name: entry for name, entry in self._listing.items() if name.startswith(f"{self._name(place)}/")}
        known = self._hashes.get(place / run_files.LIST)
        if listed and known is not None and known[0] == before:
            return listed
        found = run_files.contents(place)
        if found is None:
            return None
        self._hashes[place / run_files.LIST] = before, found[run_files.LIST]
        return {f"{self._name(place)}/{name}": entry for name, entry in found.items()}

    def _store(self, name: str, path: Path, entry: Entry) -> bool:
        """Upload a large file whose content is known; False if it is not that content any more."""
        if self._stored.get(name) == entry:
            return True
        self._stored.pop(name, None)
        try:
            before = run_files.signature(path)
            self.store.upload(FOLDER + name, path, entry.sha256)
            if run_files.signature(path) != before or before[1] != entry.bytes:
                return False
        except OSError:
            return False
        self._stored[name] = entry
        self.uploaded_bytes += entry.bytes
        return True

    def _known(self, path: Path) -> Entry | None:
        """The content of a file that has not changed since it was hashed. Errors: OSError."""
        signature, entry = self._hashes.get(path, (None, None))
        return entry if signature == run_files.signature(path) else None

    def _hashed(self, path: Path) -> Entry:
        """Errors: OSError."""
        before = run_files.signature(path)
        entry = Entry(before[1], sha256_of(path))
        self._hashes[path] = before, entry
        return entry


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
