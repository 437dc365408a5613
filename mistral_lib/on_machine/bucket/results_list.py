"""results.json: which files of the run folder are in the bucket, complete, below results/.

It is written after the objects that it lists. A small file may have been replaced by a newer version since; that object then carries
its own SHA-256 as metadata (`sha256`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

NAME = "results.json"
FOLDER = "results/"


class ResultsError(ValueError):
    """results.json is damaged."""


@dataclass(frozen=True)
class Entry:
    """One file: its size and its content."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Results:
    """The listed files by their paths in the run folder."""

    files: Mapping[str, Entry] = field(default_factory=dict)
    complete: bool = False  # the run has ended well, and everything in its folder is listed

    @classmethod
    def from_json(cls, text: bytes | None) -> "Results":
        """None: nothing was uploaded yet. Errors: ResultsError."""
        if text is None:
            return cls()
        try:
            values = json.loads(text)
            listed = {path: Entry(int(fact["bytes"]), str(fact["sha256"])) for path, fact in values["files"].items()}
            return cls(listed, bool(values["complete"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ResultsError(f"{NAME} is damaged ({type(error).__name__}: {error}); expected files and complete") from None

    def to_json(self) -> bytes:
        files = {path: {"bytes": entry.bytes, "sha256": entry.sha256} for path, entry in sorted(self.files.items())}
        return json.dumps({"complete": self.complete, "files": files}, indent=1).encode()

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.files.values())
