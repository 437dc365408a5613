"""The corpus stage: files, row shapes, domains, lengths, repeats and problems of the corpus, before anything is changed.

A killed stage resumes: finished parts are in the hidden folder .corpus.work of the run.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mistral_lib.corpus import sources
from mistral_lib.corpus.unmapped_rows import described
from mistral_lib.engine import choice
from mistral_lib.engine.job import Engine, Job
from mistral_lib.model import base_model
from mistral_lib.preparation import part_cache, stage_inputs
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.stretch_parts import Reading
from mistral_lib.preparation.survey import inventory, length_sample
from mistral_lib.run import Run, disk, files
from mistral_lib.run.settings import Settings


class NoRecordError(ValueError):
    """No row of the corpus is a record; the message says what the rows look like and which `columns` would map them."""


def explore(run: Run) -> dict[str, Any]:
    """Run the corpus stage unless it is complete, and return corpus/inventory.json. Errors: SourceError, NoRecordError."""
    found = sources.resolve(run.settings)
    tokenizer = base_model.load_tokenizer(run.settings.base_model)
    inputs = stage_inputs.hashes(run, "corpus", found.files)
    size, work = sum(file.size for file in found.files), run.folder / ".corpus.work"

    def work_in(folder: Path) -> dict[str, Any]:
        with disk.full_reported(run.folder, size // 2, "what is counted of the corpus, about half of its size", "", folder, work):
            cache = part_cache.of_run(run.settings, work, part_cache.key(run.settings, "corpus", inputs))
            with choice.of_settings(run.settings, size) as engine:
                totals = write_inventory(folder, run.settings, found, tokenizer, inputs, cache, engine)
        cache.discard()
        return totals

    run.run_stage("corpus", inputs, work_in)
    made = files.read_json(run.folder / "corpus" / "inventory.json")
    totals = made["totals"]
    if not totals["shapes"]:
        look = described(totals["unknown_shapes"], totals["unknown_roles"])
        raise NoRecordError(
            f"none of {totals['rows']:,} rows is a record: {totals['problems']}. "
            f"{look or 'The table of row shapes is in docs/own_corpus.md'}. {run.folder.name}/corpus/inventory.json has the counts of each file"
        )
    return made


def write_inventory(
    folder: Path, settings: Settings, found: sources.Found, tokenizer: Any, hashes: dict[str, str], cache: PartCache, engine: Engine
) -> dict[str, Any]:
    """inventory.json with an entry per file, index.parquet with a row per row, lengths.parquet with one per record; returns the totals."""
    corpus = inventory.Inventory(found.files, folder)
    survey = Job("mistral_lib.preparation.survey.row_facts:survey", (settings, tokenizer))
    reading = Reading("corpus", found.files, settings, survey, corpus.sample.bound)
    for name, facts, arrays in reading.parts(cache, engine):
        corpus.add(facts, arrays, cache.path(name))
    corpus.index.close()
    entries, sample = corpus.entries(hashes), corpus.sample.table()
    totals = {**inventory.totals(entries, found.left_out), "label_domains": length_sample.labels(sample)}
    length_sample.write(folder, sample)
    files.write_json(folder / "inventory.json", {"files": entries, "totals": totals})
    return totals


def contained(entries: Iterable[dict[str, Any]]) -> list[str]:
    """Names of the redundant files: every row is a record that earlier files contain, apart from its metadata."""
    return [
        entry["name"]
        for entry in entries
        if 0 < entry["rows"] == sum(rows for earlier, rows in entry["repeats"].items() if earlier != entry["name"])
    ]
