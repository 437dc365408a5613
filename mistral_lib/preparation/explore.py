"""The corpus stage: files, row shapes, domains, lengths, repeats and problems of the corpus, before anything is changed."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mistral_lib.corpus import sources, stretches
from mistral_lib.corpus.records import Record
from mistral_lib.corpus.unmapped_rows import described
from mistral_lib.curation import label_domains
from mistral_lib.engine import choice
from mistral_lib.engine.job import Engine, Job
from mistral_lib.model import base_model
from mistral_lib.preparation import stage_inputs
from mistral_lib.preparation.corpus_index import IndexWriter
from mistral_lib.preparation.file_survey import MOST_SHAPES, CorpusSurvey, Drawn, RowFacts
from mistral_lib.run import Run, files
from mistral_lib.run.progress import bar, say
from mistral_lib.run.settings import Settings


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
    corpus = CorpusSurvey(found.files, IndexWriter(folder))
    with choice.of_settings(settings, sum(file.size for file in found.files)) as engine:
        for facts, sample in _surveyed(found.files, settings, engine):
            corpus.add(facts, sample)
    corpus.index.close()
    entries = [{**entry, "sha256": hashes[f"{file.origin}/{file.name}"]} for file, entry in zip(found.files, corpus.entries(), strict=True)]
    drawn = corpus.drawn()
    answers = [record.answer if record.messages else None for record in drawn]
    labels = label_domains.of_texts([record.domain for record in drawn], answers)
    totals = {**_totals(entries, found.left_out), "label_domains": labels}
    write_lengths(folder, drawn, tokenizer)
    files.write_json(folder / "inventory.json", {"files": entries, "totals": totals})
    return totals


def _surveyed(found: Sequence[sources.SourceFile], settings: Settings, engine: Engine) -> Iterator[tuple[list[RowFacts], list[Drawn]]]:
    """What file_survey.surveyor found in each stretch of the corpus."""
    look = Job("mistral_lib.preparation.row_parts:looking")
    survey = Job("mistral_lib.preparation.file_survey:surveyor", (found, settings, not engine.workers))
    plan = stretches.plan(found, settings, lambda wanted: engine.map(look, ((one[0].name, one) for one in wanted)))
    items = [(f"stretch {number}", one) for number, one in enumerate(plan.stretches)]
    surveyed = engine.map(survey, items)
    yield from bar(surveyed, "stretches", len(items), "stretch", engine.described) if engine.workers else surveyed
    if engine.workers:
        say(f"corpus: rows read by {engine.described()}")


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
