"""The data stage tried on a sample of the rows, in memory: what other parameters would do, before the whole is prepared.

The very preparation that the data stage runs works on whole source documents drawn by a hash. Duplicates whose other copy
stands outside the sample are not seen, so repeats and leaks of the whole corpus are at least what the sample shows.
"""

import contextlib
import heapq
import io
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from mistral_lib import sources
from mistral_lib.preparation import Preparation
from mistral_lib.records import Unmappable, map_row
from mistral_lib.settings import Settings
from mistral_lib.splits import unit_hash

ROWS = 1500  # rows of a sample: a trial then takes a second or two
LOOKED_AT = 100_000  # rows of the corpus that are read for it, as many of each file


@dataclass(frozen=True, slots=True)
class SampledFile:
    """Rows of one file as JSON lines in memory; reads like a sources.SourceFile."""

    name: str  # the file's name with .jsonl behind it, so that its domain stays
    origin: str
    data: bytes
    remote: None = None

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def place(self) -> str:
        return f"sample/{self.origin}/{self.name}"

    def open(self) -> io.BytesIO:
        return io.BytesIO(self.data)


@dataclass(frozen=True, slots=True)
class Sample:
    files: list[SampledFile]
    rows: int
    looked_at: int
    unreadable: int  # rows that could not be read or mapped: they are rejected whatever the parameters of this stage


def draw(found: Iterable[sources.SourceFile], settings: Settings, rows: int = ROWS, looked_at: int = LOOKED_AT) -> Sample:
    """About `rows` rows: the source documents with the smallest hashes, whole, so that the order of the files does not matter."""
    found = list(found)
    documents: dict[tuple[int, str], list[bytes]] = defaultdict(list)
    heap: list[tuple[float, str]] = []  # the documents that are held, the one with the largest hash on top
    held = looked = unreadable = 0
    for number, file in enumerate(found):
        for document, line in _lines(file, settings, -(-looked_at // len(found))):
            looked += 1
            if document is None:
                unreadable += 1
                continue
            key = (-unit_hash(document), document)
            if len(heap) > 1 and held >= rows and key < heap[0]:
                continue
            if document not in documents:
                documents[document] = []
                heapq.heappush(heap, key)
            documents[document].append((number, line))
            held += 1
            while held - len(documents[heap[0][1]]) >= rows and len(heap) > 1:
                held -= len(documents.pop(heapq.heappop(heap)[1]))
    return Sample(_files(found, documents.values()), held, looked, unreadable)
