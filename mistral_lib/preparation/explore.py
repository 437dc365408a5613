"""The corpus stage: files, row shapes, domains, lengths, repeats and problems of the corpus, before anything is changed."""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mistral_lib.corpus import sources
from mistral_lib.corpus.records import Record, record_or_reason
from mistral_lib.curation.splits import unit_hash
from mistral_lib.model import base_model
from mistral_lib.preparation import stage_inputs
from mistral_lib.preparation.corpus_index import IndexWriter
from mistral_lib.run import Run, files
from mistral_lib.run.progress import bar
from mistral_lib.run.settings import Settings

LENGTH_SAMPLE = 20_000  # records whose tokens are counted; of more, a sample by hash


def explore(run: Run) -> dict[str, Any]:
    """Run the corpus stage unless it is complete, and return corpus/inventory.json. Errors: SourceError."""
    source_files = sources.of_settings(run.settings)
    tokenizer = base_model.load_tokenizer(run.settings.base_model)
    inputs = stage_inputs.hashes(run, "corpus", source_files)
    run.run_stage("corpus", inputs, lambda folder: write_inventory(folder, run.settings, source_files, tokenizer, inputs))
    return files.read_json(run.folder / "corpus" / "inventory.json")


def write_inventory(
    folder: Path, settings: Settings, source_files: list[sources.SourceFile], tokenizer: Any, hashes: dict[str, str]
) -> dict[str, Any]:
    """inventory.json with an entry per file, index.parquet with a row per row, lengths.parquet with one per record; returns the totals."""
    seen: dict[int, str] = {}
    sample: list[tuple[float, str, Record]] = []
    entries, index = [], IndexWriter(folder)
    for file in bar(source_files, "files", unit="file"):
        entries.append({**survey(file, settings, seen, sample, index), "sha256": hashes[f"{file.origin}/{file.name}"]})
    index.close()
    totals = _totals(entries)
    write_lengths(folder, [record for _, _, record in sorted(sample, key=lambda one: one[1])], tokenizer)
    files.write_json(folder / "inventory.json", {"files": entries, "totals": totals})
    return totals


def survey(
    file: sources.SourceFile, settings: Settings, seen: dict[int, str], sample: list[tuple[float, str, Record]], index: IndexWriter
) -> dict[str, Any]:
    """The entry of one file. Shared by all files: `seen`, text hash → the first file with it; a `sample` of the records; the index."""
    shapes, domains, problems, repeats = Counter(), Counter(), Counter(), Counter()
    rows = 0
    for row in sources.rows_of(file, settings):
        rows += 1
        record, problem = record_or_reason(row, settings)
        record_id = record.record_id if record else ""
        index.add(file.name, row.source, record, record_id, problem)
        if record is None:
            problems[problem] += 1
        else:
            shapes[record.shape] += 1
            domains[record.domain] += 1
            key = int(record_id, 16)
            if key in seen:
                repeats[seen[key]] += 1
            seen.setdefault(key, file.name)
            _draw(sample, record)
    return {"name": file.name, "origin": file.origin, "bytes": file.size, "rows": rows, "shapes": dict(shapes), "domains": dict(domains),
            "problems": dict(problems), "repeats": dict(repeats)}  # fmt: skip


def _draw(sample: list[tuple[float, str, Record]], record: Record) -> None:
    """Keep the LENGTH_SAMPLE records whose sources have the smallest hashes: a sample that does not depend on their order."""
    one = (-unit_hash(record.source), record.source, record)
    if len(sample) < LENGTH_SAMPLE:
        heapq.heappush(sample, one)
    elif one[:2] > sample[0][:2]:
        heapq.heapreplace(sample, one)


def _totals(entries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    def summed(key: str) -> dict[str, int]:
        return dict(sum((Counter(entry[key]) for entry in entries), Counter()))

    return {
        "files": len(entries), "bytes": sum(e["bytes"] for e in entries), "rows": sum(e["rows"] for e in entries),
        "shapes": summed("shapes"), "domains": summed("domains"), "problems": summed("problems"),
        "repeats": sum(sum(e["repeats"].values()) for e in entries),
    }  # fmt: skip


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
