"""What is in each file of the corpus: shapes, domains, repeats, problems and names that are not understood.

Workers read the rows and find the facts of each; here the facts are taken together, in the order of the corpus.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mistral_lib.corpus.records import Record, UnmappableError, record_of
from mistral_lib.corpus.sources import Row, SourceFile
from mistral_lib.corpus.stretches import Stretch
from mistral_lib.corpus.unmapped_rows import UNKNOWN, key_name, limit, widths
from mistral_lib.curation.splits import unit_hash
from mistral_lib.engine.job import Finished
from mistral_lib.preparation.corpus_index import IndexWriter
from mistral_lib.run.progress import bar
from mistral_lib.run.settings import Settings

MOST_SHAPES = 20  # unknown shapes of a file that are kept
LENGTH_SAMPLE = 20_000  # records whose tokens are counted; of more, a sample by hash

Drawn = tuple[float, str, Record]  # minus the hash of its source, source, record


@dataclass(frozen=True, slots=True)
class RowFacts:
    """What is counted of a row."""

    file: str
    source: str
    rows: int  # for how many it stands
    encoding: str
    left_out: Mapping[str, int]
    problem: str  # why it is no record; "" if it is one
    record_id: str = ""
    characters: int = 0
    domain: str = ""
    shape: str = ""
    unused: Sequence[str] = ()  # keys
    role: str = ""  # the unknown one
    widths: dict[str, int] | None = None  # of a row of unknown shape

    @classmethod
    def of(cls, file: str, row: Row, settings: Settings) -> tuple["RowFacts", Record | None]:
        common = (file, row.source, row.records, row.encoding, row.left_out)
        try:
            record = record_of(row, settings)
        except UnmappableError as problem:
            unknown = str(problem) == UNKNOWN and isinstance(row.value, dict)
            role, shape = key_name(problem.role) if problem.role else "", widths(row.value) if unknown else None
            return cls(*common, str(problem), role=role, widths=shape), None
        known = (record.record_id, len(record.canonical), record.domain, record.shape, record.unused)
        return cls(*common, "", *known), record


def surveyor(files: Sequence[SourceFile], settings: Settings, shows_rows: bool) -> Callable[[Stretch], Finished]:
    """The work of surveying stretches: the facts of the rows, and the records that may be in the sample.

    shows_rows: whether rows are counted on a progress bar.
    """

    def survey(stretch: Stretch) -> Finished:
        facts, sample = [], Sample()
        rows = stretch.rows(files, settings)
        for file, row in bar(rows, "rows", unit="row") if shows_rows else rows:
            found, record = RowFacts.of(file.name, row, settings)
            facts.append(found)
            if record is not None:
                sample.add((-unit_hash(record.source), record.source, record))
        return Finished((facts, sample.drawn), len(facts))

    return survey


class Sample:
    """The LENGTH_SAMPLE records whose sources have the smallest hashes: a sample that does not depend on their order."""

    def __init__(self) -> None:
        self.drawn: list[Drawn] = []

    def add(self, one: Drawn) -> None:
        if len(self.drawn) < LENGTH_SAMPLE:
            heapq.heappush(self.drawn, one)
        elif one[:2] > self.drawn[0][:2]:
            heapq.heapreplace(self.drawn, one)


class CorpusSurvey:
    """All files. The facts of their rows are added in the order of the corpus."""

    def __init__(self, files: Sequence[SourceFile], index: IndexWriter) -> None:
        self.files, self.index, self.sample = [FileSurvey(file) for file in files], index, Sample()
        self.by_name = {one.file.name: one for one in self.files}
        self.seen: dict[int, str] = {}  # text hash → the first file with it

    def add(self, facts: Iterable[RowFacts], drawn: Iterable[Drawn]) -> None:
        for one in facts:
            self.index.add(one.source, one.record_id, one.characters, one.file, one.domain, one.shape, one.problem)
            self.by_name[one.file].add(one, self.seen)
        for record in drawn:
            self.sample.add(record)

    def entries(self) -> list[dict[str, Any]]:
        """An entry of the inventory for each file."""
        return [one.entry() for one in self.files]

    def drawn(self) -> list[Record]:
        """The sample, in the order of the sources' names."""
        return [record for _, _, record in sorted(self.sample.drawn, key=lambda one: one[1])]


class FileSurvey:
    """One file."""

    def __init__(self, file: SourceFile) -> None:
        self.file, self.rows = file, 0
        self.shapes, self.domains, self.problems, self.repeats, self.encodings, self.left_out = (Counter() for _ in range(6))
        self.unused_keys, self.unknown_roles, self.unknown_shapes = Counter(), Counter(), Counter()
        self.widths: dict[str, dict[str, int]] = {}  # of the first row of each unknown shape

    def add(self, row: RowFacts, seen: dict[int, str]) -> None:
        """seen: text hash → the first file of the corpus with it."""
        self.rows += row.rows
        self.encodings.update([row.encoding] if row.encoding else [])
        self.left_out.update(row.left_out)
        if row.problem:
            self.problems[row.problem] += row.rows
            self.unknown_roles.update([row.role] if row.role else [])
            self._add_shape(row.widths)
            return
        self.shapes[row.shape] += 1
        self.domains[row.domain] += 1
        self.unused_keys.update(row.unused)
        limit(self.unused_keys)
        key = int(row.record_id, 16)
        if key in seen:
            self.repeats[seen[key]] += 1
        seen.setdefault(key, self.file.name)

    def _add_shape(self, found: dict[str, int] | None) -> None:
        keys = ", ".join(found or ())
        if found is not None and (len(self.widths) < MOST_SHAPES or keys in self.widths):
            self.unknown_shapes[keys] += 1
            self.widths.setdefault(keys, found)

    def entry(self) -> dict[str, Any]:
        shapes = [{"keys": found, "rows": self.unknown_shapes[keys]} for keys, found in self.widths.items()]
        counts = ("shapes", "domains", "problems", "repeats", "encodings", "left_out", "unused_keys", "unknown_roles")
        return {"name": self.file.name, "origin": self.file.origin, "bytes": self.file.size, "rows": self.rows,
                **{name: dict(getattr(self, name)) for name in counts}, "unknown_shapes": shapes}  # fmt: skip
