"""The corpus stage: files, row shapes, domains, lengths, repeats and problems of the corpus, before anything is changed."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mistral_lib.corpus import sources
from mistral_lib.corpus.records import Record, UnmappableError, record_of
from mistral_lib.corpus.unmapped_rows import UNKNOWN, described, key_name, limit, widths
from mistral_lib.curation import label_domains
from mistral_lib.curation.splits import unit_hash
from mistral_lib.model import base_model
from mistral_lib.preparation import stage_inputs
from mistral_lib.preparation.corpus_index import IndexWriter
from mistral_lib.run import Run, files
from mistral_lib.run.progress import bar
from mistral_lib.run.settings import Settings

MOST_SHAPES = 20  # unknown shapes of a file that are kept
LENGTH_SAMPLE = 20_000  # records whose tokens are counted; of more, a sample by hash


class NoRecordError(ValueError):
    """No row of the corpus is a record; the message says what the rows look like and which `columns` would map them."""


def explore(run: Run) -> dict[str, Any]:
    """Run the corpus stage unless it is complete, and return corpus/inventory.json. Errors: SourceError, NoRecordError."""
    found = sources.resolve(run.settings)
    tokenizer = base_model.load_tokenizer(run.settings.base_model)
    inputs = stage_inputs.hashes(run, "corpus", found.files)
    run.run_stage("corpus", inputs, lambda folder: write_inventory(folder, run.settings, found, tokenizer, inputs))
    inventory = files.read_json(run.folder / "corpus" / "inventory.json")
    totals = inventory["totals"]
    if not totals["shapes"]:
        look = described(totals["unknown_shapes"], totals["unknown_roles"])
        raise NoRecordError(
            f"none of {totals['rows']:,} rows is a record: {totals['problems']}. "
            f"{look or 'The table of row shapes is in docs/own_corpus.md'}. {run.folder.name}/corpus/inventory.json has the counts of each file"
        )
    return inventory


def write_inventory(folder: Path, settings: Settings, found: sources.Found, tokenizer: Any, hashes: dict[str, str]) -> dict[str, Any]:
    """inventory.json with an entry per file, index.parquet with a row per row, lengths.parquet with one per record; returns the totals."""
    seen: dict[int, str] = {}
    sample: list[tuple[float, str, Record]] = []
    entries, index = [], IndexWriter(folder)
    for file in bar(found.files, "files", unit="file"):
        entries.append({**survey(file, settings, seen, sample, index), "sha256": hashes[f"{file.origin}/{file.name}"]})
    index.close()
    drawn = [record for _, _, record in sorted(sample, key=lambda one: one[1])]
    answers = [record.answer if record.messages else None for record in drawn]
    labels = label_domains.of_texts([record.domain for record in drawn], answers)
    totals = {**_totals(entries, found.left_out), "label_domains": labels}
    write_lengths(folder, drawn, tokenizer)
    files.write_json(folder / "inventory.json", {"files": entries, "totals": totals})
    return totals


def survey(
    file: sources.SourceFile, settings: Settings, seen: dict[int, str], sample: list[tuple[float, str, Record]], index: IndexWriter
) -> dict[str, Any]:
    """The entry of one file. Shared by all files: `seen`, text hash → the first file with it; a `sample` of the records; the index."""
    shapes, domains, problems, repeats, encodings, left_out = (Counter() for _ in range(6))
    names = Names()
    rows = 0
    for row in sources.rows_of(file, settings):
        rows += row.records
        encodings.update([row.encoding] if row.encoding else [])
        left_out.update(row.left_out)
        record, problem = names.record_or_reason(row, settings)
        record_id = record.record_id if record else ""
        index.add(file.name, row.source, record, record_id, problem)
        if record is None:
            problems[problem] += row.records
        else:
            shapes[record.shape] += 1
            domains[record.domain] += 1
            key = int(record_id, 16)
            if key in seen:
                repeats[seen[key]] += 1
            seen.setdefault(key, file.name)
            _draw(sample, record)
    return {"name": file.name, "origin": file.origin, "bytes": file.size, "rows": rows, "shapes": dict(shapes), "domains": dict(domains),
            "problems": dict(problems), "repeats": dict(repeats), "encodings": dict(encodings), "left_out": dict(left_out),
            **names.counts()}  # fmt: skip


class Names:
    """What the rows of a file have that is not understood, by name."""

    def __init__(self) -> None:
        self.unused_keys, self.unknown_roles, self.shapes = Counter(), Counter(), Counter()
        self.widths: dict[str, dict[str, int]] = {}  # of the first row of each unknown shape

    def record_or_reason(self, row: sources.Row, settings: Settings) -> tuple[Record | None, str]:
        """The record in a row and "", or None and the reason code; counts the names."""
        try:
            record = record_of(row, settings)
        except UnmappableError as problem:
            self.unknown_roles.update([key_name(problem.role)] if problem.role else [])
            if str(problem) == UNKNOWN and isinstance(row.value, dict):
                self._add_shape(widths(row.value))
            return None, str(problem)
        self.unused_keys.update(record.unused)
        limit(self.unused_keys)
        return record, ""

    def _add_shape(self, found: dict[str, int]) -> None:
        keys = ", ".join(found)
        if len(self.widths) < MOST_SHAPES or keys in self.widths:
            self.shapes[keys] += 1
            self.widths.setdefault(keys, found)

    def counts(self) -> dict[str, Any]:
        shapes = [{"keys": found, "rows": self.shapes[keys]} for keys, found in self.widths.items()]
        return {"unused_keys": dict(self.unused_keys), "unknown_roles": dict(self.unknown_roles), "unknown_shapes": shapes}


def _draw(sample: list[tuple[float, str, Record]], record: Record) -> None:
    """Keep the LENGTH_SAMPLE records whose sources have the smallest hashes: a sample that does not depend on their order."""
    one = (-unit_hash(record.source), record.source, record)
    if len(sample) < LENGTH_SAMPLE:
        heapq.heappush(sample, one)
    elif one[:2] > sample[0][:2]:
        heapq.heapreplace(sample, one)


def _totals(entries: Iterable[dict[str, Any]], left_out: Counter) -> dict[str, Any]:
    """left_out: files that were passed over when the sources were listed."""

    def summed(key: str) -> dict[str, int]:
        return dict(sum((Counter(entry[key]) for entry in entries), Counter()))

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


def contained(entries: Iterable[dict[str, Any]]) -> list[str]:
    """Names of the redundant files: every row is a record that earlier files contain, apart from its metadata."""
    return [
        entry["name"]
        for entry in entries
        if 0 < entry["rows"] == sum(rows for earlier, rows in entry["repeats"].items() if earlier != entry["name"])
    ]


def write_lengths(folder: Path, records: list[Record], tokenizer: Any) -> None:
    """lengths.parquet: characters, and tokens by the base model's and by Mistral's v3 tokenizer, chat format not counted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ["\n".join(r.texts) for r in records]
    table = {
        "source": [r.source for r in records], "domain": [r.domain for r in records], "shape": [r.shape for r in records],
        "characters": [len(text) for text in texts], "tokens": list(token_counts(tokenizer, texts)), "mistral_tokens": mistral_counts(texts),
    }  # fmt: skip
    pq.write_table(pa.table(table), folder / "lengths.parquet")


def token_counts(tokenizer: Any, texts: list[str]) -> Iterator[int]:
    for start in range(0, len(texts), 512):
        batch = tokenizer(texts[start : start + 512], add_special_tokens=False, split_special_tokens=True)
        yield from map(len, batch.input_ids)


def mistral_counts(texts: list[str]) -> list[int]:
    """Token counts of Mistral-7B's v3 tokenizer, which is part of mistral-common: no download is needed."""
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    tokenizer = MistralTokenizer.v3().instruct_tokenizer.tokenizer
    return [len(tokenizer.encode(text, bos=False, eos=False)) for text in bar(texts, "Mistral v3 tokens", unit="text")]
