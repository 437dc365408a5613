"""A model folder that is written shard by shard under a hidden name, resumed after a kill or a full disk, and renamed when complete.

Knows files and hashes; knows nothing of what the shards hold. `run.sealed` is for folders that are written again from the start.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mistral_lib.merging.tensor_files import HashedFile
from mistral_lib.run import disk, files, paths, progress, sealed

JOURNAL = "merge.json"  # what the folder is made from, and the finished shards; it stays in the complete folder


class ShardFolder:
    """finished: the shards that are complete, each as `run.files.hashes` gives it; those of an earlier process are read and compared first.

    made_from: JSON that identifies the inputs. A hidden folder that was made from others is deleted.
    """

    def __init__(self, target: Path, made_from: dict[str, Any], shards: list[str]) -> None:
        self.target, self.folder, self.made_from, self.shards = target, sealed.partial(target), made_from, shards
        try:
            earlier = files.read_json(self.folder / JOURNAL)
        except (OSError, ValueError):  # nothing there, or cut short by a power cut
            earlier = {}
        if earlier.get("made_from") != made_from:
            files.fresh_folder(self.folder)
        listed = earlier["shards"] if earlier.get("made_from") == made_from else {}
        self.finished = {name: fact for name, fact in listed.items() if same(self.folder / name, fact)}
        for path in self.folder.iterdir():
            if path.name not in {*self.finished, JOURNAL}:
                path.unlink()
        if self.finished:
            progress.say(f"resuming {paths.short(target)}: {len(self.finished)} of {len(shards)} shards are finished")

    @contextmanager
    def room(self, needed: int, what: str) -> Iterator[None]:
        """Checks that the disk has room, and reports a full one. Finished shards are kept, all else is deleted. Errors: DiskFullError."""
        partial = () if self.finished else (self.folder,)
        with disk.full_reported(self.folder, needed, what, self._kept, *partial):
            disk.require(self.folder, needed, what, self._kept)
            yield

    def _kept(self) -> str:
        number = len(self.finished)
        return f"{number} of {len(self.shards)} shards are finished and kept in {paths.short(self.folder)}." if number else ""

    @contextmanager
    def new_shard(self, name: str) -> Iterator[HashedFile]:
        """A file to write; at the end of the block it is there under its name, and recorded."""
        with files.atomic(self.folder / name) as file:
            new = HashedFile(file)
            yield new
        facts = {**self.finished, name: new.fact()}
        self.finished = {name: facts[name] for name in self.shards if name in facts}
        files.write_json(self.folder / JOURNAL, {"made_from": self.made_from, "shards": self.finished})

    def publish(self) -> None:
        """Seal the folder as `run.sealed` does, without reading the shards again, and rename it to the target."""
        others = (path for path in sorted(self.folder.iterdir()) if path.name not in {*self.finished, sealed.FILES})
        listed = {path.name: {"sha256": files.sha256(path), "bytes": path.stat().st_size} for path in others}
        files.write_json(self.folder / sealed.FILES, self.finished | listed)
        self.folder.rename(self.target)


def same(path: Path, fact: dict[str, Any]) -> bool:
    """Whether a file has the size and the hash that it was written with."""
    return path.is_file() and path.stat().st_size == fact["bytes"] and files.sha256(path) == fact["sha256"]
