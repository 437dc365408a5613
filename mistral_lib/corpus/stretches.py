"""The corpus in stretches of about equal size, in the order of reading: small files together, large ones cut where their format allows it.

Several workers read a stretch each. The rows of all stretches, one after another, are those of the files.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from mistral_lib.corpus import pieces, sources
from mistral_lib.corpus.pieces import WHOLE, Cut, Look, Piece, Window
from mistral_lib.corpus.sources import SourceFile
from mistral_lib.formats import kinds
from mistral_lib.formats.rows import Reading, Row
from mistral_lib.formats.streams import LIMITS, Budget, damage_passed_over

SIZE = 16 * 2**20  # bytes of a stretch, as stored
REMEDY = {"gzip": "a gzip cannot be cut", "zstd": "it is one frame, or recoded; zstd of several frames can be cut"}

LookedAt = tuple[SourceFile, Cut, Window]
Looks = Callable[[Iterable[LookedAt]], Iterator[Look | None]]  # `look` of each, in order


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive pieces of files: numbers of the files, and pieces."""

    pieces: tuple[tuple[int, Piece], ...]

    def rows(self, files: Sequence[SourceFile], settings: Any, taken: int = 0) -> Iterator[tuple[SourceFile, Row]]:
        """(file, row) of each row after the first `taken`. Errors: SourceError."""
        found = ((files[number], row) for number, piece in self.pieces for row in sources.rows_of(files[number], settings, piece))
        return islice(found, taken, None)


@dataclass(frozen=True, slots=True)
class Plan:
    stretches: list[Stretch]
    uncut: list[str]  # a sentence for each large file that one worker must read as a whole

    def facts(self) -> dict[str, Any]:
        """As JSON values."""
        found = [[[number, *(getattr(piece, name) for name in Piece.__slots__)] for number, piece in one.pieces] for one in self.stretches]
        return {"stretches": found, "uncut": self.uncut}

    @classmethod
    def of_facts(cls, facts: dict[str, Any]) -> "Plan":
        found = [Stretch(tuple((number, Piece(*values)) for number, *values in one)) for one in facts["stretches"]]
        return cls(found, facts["uncut"])


def plan(files: Sequence[SourceFile], settings: Any, looks: Looks, size: int | None = None) -> Plan:
    """The stretches of all files. looks: looks at windows of files, perhaps several at once. size: bytes of a stretch. Errors: SourceError."""
    size = size or SIZE
    stretches: list[Stretch] = []
    uncut: list[str] = []
    gathered: list[tuple[int, Piece]] = []
    bytes_gathered = 0
    for number, (file, cut) in enumerate(zip(files, _cut(files, settings, looks, size), strict=True)):
        if len(cut) > 1 or bytes_gathered + file.size > size:
            stretches += [Stretch(tuple(gathered))] if gathered else []
            gathered, bytes_gathered = [], 0
        if len(cut) > 1:
            stretches += [Stretch(((number, piece),)) for piece in cut]
            continue
        uncut += [_uncut(file)] if file.size > 2 * size else []
        gathered.append((number, WHOLE))
        bytes_gathered += file.size
    return Plan([*stretches, *([Stretch(tuple(gathered))] if gathered else [])], uncut)


def uncut(files: Sequence[SourceFile], settings: Any) -> list[str]:
    """A sentence for each large file that one worker must read as a whole, by its first bytes, the headers of its frames, or its list of contents."""
    large = [file for file in files if file.size > 2 * SIZE]
    return [_uncut(file) for file in large if file.sections or _count(file, _cut_of(file, settings), settings) < 2]


def _count(file: SourceFile, cut: Cut, settings: Any) -> int:
    """The pieces of a file, as far as they are known before it is looked at."""
    if cut in ("groups", "members"):
        return len(_of_container(file, cut, settings, SIZE))
    return len(_windows(file, cut, SIZE)) if cut else 0


def _uncut(file: SourceFile) -> str:
    kind, codec = kinds.kind_of(file.name)
    why = REMEDY.get(codec or "", f"{'a compressed file' if codec else f'a file of the kind {kind}'} cannot be cut, or not this one")
    return f"{file.name} ({file.size / 2**20:,.0f} MiB) is read by one worker: {why}"


def _cut(files: Sequence[SourceFile], settings: Any, looks: Looks, size: int) -> Iterator[list[Piece]]:
    """The pieces of each file; at most one for a file that is not cut."""
    cuts = [_cut_of(file, settings) if file.size > size and not file.sections else "" for file in files]
    found = [_windows(file, cut, size) if cut in ("lines", "frames") else [] for file, cut in zip(files, cuts, strict=True)]
    wanted = ((file, cut, window) for file, cut, own in zip(files, cuts, found, strict=True) for window in own)
    looked = looks(wanted)
    for file, cut, own in zip(files, cuts, found, strict=True):
        seen = list(islice(looked, len(own)))
        if cut in ("groups", "members"):
            yield _of_container(file, cut, settings, size)
        elif own and None not in seen:
            yield pieces.pieces_of_lines(cut, list(zip(own, seen, strict=True)), pieces.most_bytes(Budget(LIMITS, file.size)))
        else:
            yield []


def _cut_of(file: SourceFile, settings: Any) -> Cut:
    with sources.opened(file) as stream:
        return pieces.cut_of(stream, file.name, _reading(settings), Budget(LIMITS, file.size))


def _windows(file: SourceFile, cut: Cut, size: int) -> list[Window]:
    with sources.opened(file) as stream:
        return pieces.windows(stream, cut, file.size, size)


def _of_container(file: SourceFile, cut: Cut, settings: Any, size: int) -> list[Piece]:
    with sources.opened(file) as stream:
        budget = Budget(LIMITS, file.size)
        if cut == "groups":
            return pieces.pieces_of_groups(stream, size, budget)
        return pieces.pieces_of_members(stream, size, _reading(settings), budget)


def _reading(settings: Any) -> Reading:
    return Reading(settings.salvage, settings.pdf_characters, LIMITS, settings.ocr)


def look(wanted: LookedAt) -> Look | None:
    """What is in a window of a file; None if it is damaged. Errors: SourceError."""
    file, cut, window = wanted
    with sources.opened(file) as stream, damage_passed_over():
        return pieces.look(stream, cut, window, Budget(LIMITS, file.size))
    return None
