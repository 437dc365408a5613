"""An index of every row of the corpus: numbers to filter by, the row in its file, and searches that read all files once.

Memory holds a few arrays, however long the texts are. Texts stay in their files: a page of rows is read when it is shown, and
`search` and `near_copies` read the files. So neither a copy of the corpus nor a secret in it is stored anywhere.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mistral_lib.corpus import sources
from mistral_lib.corpus.records import record_or_reason
from mistral_lib.curation import similarity
from mistral_lib.curation.splits import LONG_ANSWER
from mistral_lib.formats.rows import Row
from mistral_lib.preparation.record_store import prompt_text
from mistral_lib.run.settings import Settings

NAME = "index.parquet"
GROUP = 8192  # rows of the index that are written together
PAGE = 256  # rows that are read together
INTERVAL = 0.5  # seconds between two results of near_copies
SCHEMA = pa.schema([("source", pa.string()), ("record_id", pa.string()), ("characters", pa.int32()),
                    *((name, pa.string()) for name in ("file", "domain", "shape", "problem"))])  # fmt: skip
CHOICES = ("file", "domain", "shape", "problem")


class IndexWriter:
    """Appends tables of SCHEMA, in the order of reading. The file does not depend on how they are divided."""

    def __init__(self, folder: Path):
        self.writer = pq.ParquetWriter(folder / NAME, SCHEMA, use_dictionary=list(CHOICES))
        self.held = SCHEMA.empty_table()

    def add(self, table: pa.Table) -> None:
        self.held = pa.concat_tables([self.held, table])
        while len(self.held) >= GROUP:
            self._write(GROUP)

    def _write(self, rows: int) -> None:
        self.writer.write_table(self.held.slice(0, rows).combine_chunks())
        self.held = self.held.slice(rows)

    def close(self) -> None:
        if len(self.held):
            self._write(len(self.held))
        self.writer.close()


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the index."""

    number: int
    source: str
    record_id: str
    characters: int
    file: str
    domain: str
    shape: str
    problem: str  # why it is no record; "" if it is one


class CorpusIndex:
    """Reads what an IndexWriter wrote; numbers of rows are positions in the order of reading."""

    def __init__(self, folder: Path, found: Sequence[sources.SourceFile], settings: Settings):
        table = pq.read_table(folder / NAME, read_dictionary=list(CHOICES))
        self.table, self.settings = table.combine_chunks(), settings
        self.files = {file.name: (file, file.version) for file in found}
        self.characters = table["characters"].to_numpy()
        self.codes, self.names = {}, {}
        for choice in CHOICES:
            column = pa.chunked_array(table[choice]).unify_dictionaries().combine_chunks()
            self.codes[choice], self.names[choice] = column.indices.to_numpy(), column.dictionary.to_pylist()
        self.starts = np.flatnonzero(np.diff(self.codes["file"], prepend=-1))  # number of each file's first row
        self.page = lru_cache(maxsize=8)(self._page)
        self.reading: tuple[str, int, Iterator[sources.Row]] | None = None  # file, number of its rows read, the rest

    def __len__(self) -> int:
        return len(self.characters)

    def entry(self, number: int) -> Entry:
        row = {name: values[0] for name, values in self.table.slice(number, 1).to_pydict().items()}
        return Entry(number, **row)

    def choices(self, choice: str) -> list[str]:
        """The values of a column, sorted, without the empty one."""
        return sorted(name for name in self.names[choice] if name)

    def select(self, shortest: int = 0, longest: int | None = None, **chosen: str) -> np.ndarray:
        """Numbers of the rows with that file, domain, shape, problem and a length in characters within the limits, ascending.

        An empty choice selects everything, problem="any" every row that has one, problem="none" every record.
        """
        mask = self.characters >= shortest
        if longest is not None:
            mask &= self.characters <= longest
        for choice, name in chosen.items():
            if not name:
                continue
            codes, none = self.codes[choice], self._code(choice, "")
            mask &= codes != none if name == "any" else codes == (none if name == "none" else self._code(choice, name))
        return np.flatnonzero(mask)

    def _code(self, choice: str, name: str) -> int:
        return self.names[choice].index(name) if name in self.names[choice] else -1

    def row(self, number: int) -> sources.Row:
        """The row, read from its file. Errors: LookupError if the file has changed since it was indexed."""
        first = int(self.starts[np.searchsorted(self.starts, number, side="right") - 1])
        entry = self.entry(number)
        self._unchanged(entry.file)
        page, place = divmod(number - first, PAGE)
        rows = self.page(entry.file, page)
        if place >= len(rows) or rows[place].source != entry.source:
            raise _changed(entry.file)
        return rows[place]

    def _page(self, name: str, page: int) -> list[sources.Row]:
        """PAGE rows of a file. Reading continues where it stopped if the page comes later, else it begins again."""
        if self.reading is None or self.reading[0] != name or self.reading[1] > page * PAGE:
            self.reading = (name, 0, self._rows(name))
        _, done, rest = self.reading
        rows = list(islice(rest, page * PAGE - done, (page + 1) * PAGE - done))
        self.reading = (name, (page + 1) * PAGE, rest)
        return rows

    def _unchanged(self, name: str) -> sources.SourceFile:
        """The file, unchanged since the index was opened: after an inserted line, every source names another row. Errors: LookupError."""
        if name not in self.files:
            raise LookupError(f"{name} is no longer among the files of this run: run this notebook again from the top")
        file, version = self.files[name]
        with suppress(OSError):  # if the file is gone, the reader reports it better
            if file.version != version:
                raise _changed(name)
        return file

    def _rows(self, name: str) -> Iterator[sources.Row]:
        """Errors: LookupError, SourceError."""
        return sources.rows_of(self._unchanged(name), self.settings)

    def each(self) -> Iterator[tuple[int, sources.Row]]:
        """All rows with their numbers, each file read once."""
        for first in self.starts.tolist():
            yield from enumerate(self._rows(self.entry(first).file), first)

    def search(self, numbers: np.ndarray, matches: Callable[[sources.Row], bool]) -> np.ndarray:
        """The numbers whose rows match. Only files with one of the rows in `numbers` are read, each once."""
        wanted = np.zeros(len(self), bool)
        wanted[numbers] = True
        found: list[int] = []
        for first, end in pairwise([*self.starts.tolist(), len(self)]):
            mask = np.trim_zeros(wanted[first:end], "b").tolist()  # reading ends with the last wanted row
            rows = enumerate(self._rows(self.entry(first).file), first) if mask else ()
            found += (number for is_wanted, (number, row) in zip(mask, rows, strict=False) if is_wanted and matches(row))
        return np.array(found, np.int64)


def _changed(name: str) -> LookupError:
    return LookupError(f"{name} has changed since it was indexed: run this notebook again from the top")


def near_copies(index: CorpusIndex, number: int) -> Iterator[tuple[int, np.ndarray]]:
    """The near-duplicates of one record among all rows: (rows read, numbers found so far), several times while the files are read.

    Found are records whose prompt and answer both agree with this one's (equal, or near by near_duplicate_threshold), and the record
    itself. Texts of fewer than five words agree only if they are equal; for a short answer the words of the prompt must be the same.
    Templates of prompts are not left out, symbols not compared. Errors: LookupError, SourceError.
    """
    wanted, threshold = [Compared(text) for text in _texts(index, index.row(number))], index.settings.near_duplicate_threshold
    thresholds = [threshold] * len(wanted)
    if len(wanted) > 1 and len(similarity.folded_words(wanted[0].text)) < LONG_ANSWER:
        thresholds[-1] = 1.0
    found, reported = {number}, time.monotonic()
    for place, row in index.each() if wanted else ():
        texts = _texts(index, row)
        if len(texts) == len(wanted) and all(map(Compared.agrees, wanted, texts, thresholds)):
            found.add(place)
        if time.monotonic() - reported > INTERVAL:
            reported = time.monotonic()
            yield place + 1, np.array(sorted(found))
    yield len(index), np.array(sorted(found))


class Compared:
    """A text that many others are compared with."""

    def __init__(self, text: str) -> None:
        self.text, self.shingles = text.strip(), similarity.shingles(text)

    def agrees(self, other: str, threshold: float) -> bool:
        """Whether the other text is equal or a near-duplicate."""
        if not self.shingles or self.text == other.strip():
            return self.text == other.strip()
        words = similarity.folded_words(other)
        if len(words) - similarity.GRAM + 1 < threshold * len(self.shingles):  # of fewer shingles, too few can be shared
            return False
        return similarity.are_near(self.shingles, similarity.grams(words), threshold)


def _texts(index: CorpusIndex, row: Row) -> list[str]:
    """The answer of a record, its system message and the rest of its prompt; one text of a plain document; nothing of a row without a record."""
    record, _ = record_or_reason(row, index.settings)
    if record is None or record.messages is None:
        return [record.text] if record else []
    return [record.answer, "\n".join(m["content"] for m in record.prompt if m["role"] == "system"), prompt_text(record.messages)]
