"""The parts of a survey taken together, in the order of the corpus: an entry for each file, repeats among files, the totals."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mistral_lib.corpus.sources import SourceFile
from mistral_lib.corpus.unmapped_rows import most_frequent
from mistral_lib.preparation.record_store import GrownColumn
from mistral_lib.preparation.survey.corpus_index import IndexWriter
from mistral_lib.preparation.survey.length_sample import LengthSample
from mistral_lib.preparation.survey.row_facts import INDEX, LENGTHS, MOST_SHAPES, FileFacts, read_table

COUNTS = ("shapes", "domains", "problems", "repeats", "encodings", "left_out", "unused_keys", "unknown_roles")


class Inventory:
    """All files. Memory holds two numbers of each record."""

    def __init__(self, files: Sequence[SourceFile], folder: Path) -> None:
        """folder: where the index is written."""
        self.files, self.sample = files, LengthSample()
        self.facts = {file.name: FileFacts(file.name) for file in files}
        self.place = {name: number for number, name in enumerate(self.facts)}
        self.index = IndexWriter(folder)
        self.key, self.file = GrownColumn("u8"), GrownColumn("i4")  # of each record: the hash of its text, the place of its file

    def add(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], folder: Path) -> None:
        """The next part, and its folder."""
        for one in facts["files"]:
            self.facts[one["name"]].add(one)
        records = [one["records"] for one in facts["files"]]
        self.key.append(arrays["key"])
        self.file.append(np.repeat([self.place[one["name"]] for one in facts["files"]], records))
        self.index.add(read_table(folder / INDEX))
        self.sample.add(read_table(folder / LENGTHS))

    def entries(self, hashes: Mapping[str, str]) -> list[dict[str, Any]]:
        """An entry for each file. hashes: by origin and name."""
        found = repeats(self.key.array(), self.file.array(), list(self.facts))
        return [_entry(file, self.facts[file.name], found[file.name], hashes[f"{file.origin}/{file.name}"]) for file in self.files]


def repeats(key: np.ndarray, file: np.ndarray, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """For each file how many of its records are in an earlier place, by the name of the first file that has them.

    key: uint64 (records,), in the order of reading; file: int32 (records,), the places of their names.
    """
    order = np.argsort(key, kind="stable")
    again = np.diff(key[order], prepend=key[order[:1]] + np.uint64(1)) == 0
    first = order[np.maximum.accumulate(np.where(again, 0, np.arange(len(order))))]  # of equal records the first one
    pairs = file[order[again]].astype(np.int64) * len(names) + file[first[again]]
    found: dict[str, dict[str, int]] = {name: {} for name in names}
    for pair, number in zip(*(values.tolist() for values in np.unique(pairs, return_counts=True)), strict=True):
        found[names[pair // len(names)]][names[pair % len(names)]] = number
    return found


def _entry(file: SourceFile, facts: FileFacts, repeated: dict[str, int], sha256: str) -> dict[str, Any]:
    counts: dict[str, Mapping[str, int]] = {name: getattr(facts, name, repeated) for name in COUNTS}
    counts |= {name: most_frequent(getattr(facts, name)) for name in ("unused_keys", "unknown_roles")}
    counts["left_out"] = dict(sorted(facts.left_out.items()))
    return {"name": file.name, "origin": file.origin, "bytes": file.size, "rows": facts.rows,
            **{name: dict(found) for name, found in counts.items()},
            "unknown_shapes": list(facts.unknown_shapes.values()), "sha256": sha256}  # fmt: skip


def totals(entries: Iterable[dict[str, Any]], left_out: Counter) -> dict[str, Any]:
    """Of all files. left_out: files that were passed over when the sources were listed."""

    def summed(key: str) -> dict[str, int]:
        found: Counter = Counter()
        for entry in entries:
            found.update(entry[key])
        return dict(found)

    return {
        "files": len(entries), "bytes": sum(e["bytes"] for e in entries), "rows": sum(e["rows"] for e in entries),
        "shapes": summed("shapes"), "domains": summed("domains"), "problems": summed("problems"),
        "encodings": summed("encodings"), "left_out": dict(sorted((left_out + Counter(summed("left_out"))).items())),
        "repeats": sum(sum(e["repeats"].values()) for e in entries),
        "unused_keys": summed("unused_keys"), "unknown_roles": summed("unknown_roles"), "unknown_shapes": _shapes_together(entries),
    }  # fmt: skip


def _shapes_together(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The unknown shapes of all files, the most frequent first."""
    found: dict[str, dict[str, Any]] = {}
    for one in (one for entry in entries for one in entry["unknown_shapes"]):
        same = found.setdefault(", ".join(one["keys"]), {"keys": one["keys"], "rows": 0})
        same["rows"] += one["rows"]
    return sorted(found.values(), key=lambda one: -one["rows"])[:MOST_SHAPES]
