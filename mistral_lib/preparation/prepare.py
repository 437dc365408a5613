"""The data stage: from raw rows to packed train, validation and test splits, with the fate of every input row.

read → near-duplicates → exact duplicates → splits → token windows → packed blocks → ledger and report. Texts and tokens
are on disk; this process needs at most about a hundred bytes per row at a time (docs/many_rows.md), whatever the length of the texts.

A killed preparation resumes: finished parts are in the hidden folder .data.work of the run, under a key of content,
parameters, tokenizer and code. The artefacts are the same bytes on any number of cores and after any number of kills, except
for two figures of report.json: seconds and peak_memory_mib.
"""

import resource
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from mistral_lib.corpus import document_keys, exclusions, sources
from mistral_lib.corpus.exclusions import REASON as EXCLUDED
from mistral_lib.curation import mixture, rejections, splits
from mistral_lib.curation.split_minimums import Earlier
from mistral_lib.engine import choice
from mistral_lib.engine.job import Engine
from mistral_lib.engine.processes import ThisMachine
from mistral_lib.model import base_model
from mistral_lib.preparation import data_report, empty_splits, part_cache, row_parts, split_writer, stage_inputs, tokenization
from mistral_lib.preparation.dropped_duplicates import Search, drop_duplicates, replacements
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.prepared import AssignedSplits, Prepared, assign
from mistral_lib.preparation.record_store import RecordStore, StoredColumn
from mistral_lib.preparation.row_inspection import NEAR_DUPLICATE, ORIGINS, InspectedBatch, RowColumns
from mistral_lib.preparation.token_store import TokenStore
from mistral_lib.run import Run, disk, files
from mistral_lib.run.allocator import freeze_gc, release_free_memory, release_large_pieces
from mistral_lib.run.progress import say
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import tool_chats

OPERATIVES = ORIGINS.index("operatives")
EARLIER_KEPT = "Earlier results are untouched."
MOST_ROWS = 10**9  # positions of rows and of their pairs are 32-bit numbers
LIMITS_OF_LOSS = "max_rejected_share (or strict) decides how much may be rejected"


class EmptySplitError(ValueError):
    """A split, or the corpus, has no record; the message reports the fate of the rows."""


class TooManyRowsError(ValueError):
    """The corpus has more rows than can be numbered."""


class TooMuchLostError(ValueError):
    """More rows were rejected than the parameters allow; the message reports how many, and why."""


def prepare(run: Run) -> dict[str, Any]:
    """Run the data stage unless it is complete, and return data/report.json.

    Errors: SourceError if a path yields nothing, TooMuchLostError, EmptySplitError.
    """
    found = sources.resolve(run.settings)
    for missing in found.absent:
        say(str(missing))
    tokenizer = base_model.load_tokenizer(run.settings.base_model)
    inputs = stage_inputs.hashes(run, "data", found.files)
    work = run.folder / ".data.work"

    def work_in(folder: Path) -> dict[str, Any]:
        needed = 5 * sum(file.size for file in found.files)
        with disk.full_reported(run.folder, needed, "the prepared data, about five times its sources", EARLIER_KEPT, folder, work):
            cache = part_cache.of_run(run.settings, work, part_cache.key(run.settings, "data", inputs))
            earlier = Earlier.load(run.folder / "data", run.settings.seed)
            with choice.of_settings(run.settings, sum(file.size for file in found.files)) as engine:
                report = Preparation(folder, run.settings, tokenizer, cache, earlier, engine).prepare_all(found)
        cache.discard()
        return report

    run.run_stage("data", inputs, work_in)
    stage_inputs.note_in_report(run)
    report = files.read_json(run.folder / "data" / "report.json")
    for sentence in (*rejections.sentences(report.get("large_rejections", ())), *data_report.uneven_splits(report, run.settings)):
        say(sentence)
    return report


class Preparation:
    """The steps of one preparation, in order."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        tokenizer: Any,
        cache: PartCache,
        earlier: Earlier | None = None,
        engine: Engine | None = None,
    ):
        """engine: where rows are read and tokenized; None: in this process."""
        self.folder, self.settings, self.tokenizer, self.cache, self.earlier = folder, settings, tokenizer, cache, earlier
        self.engine = engine or ThisMachine()

    def prepare_all(self, found: sources.Found) -> dict[str, Any]:
        """Fill the folder with splits, records, ledger, rejects and report; return the report."""
        started = time.perf_counter()
        release_large_pieces()
        with ExitStack() as opened:  # the space of a deleted file is free only after it is closed
            with freeze_gc():
                prepared = self.steps(found.files, opened)
                blocks, often = self.write(prepared)
            figures = data_report.figures(prepared, blocks)
            left_out = dict(sorted((found.left_out + Counter(figures["left_out"])).items()))
            report = {"large_rejections": often, **figures, "left_out": left_out, "tools_written_as": tool_chats.way(self.tokenizer),
                      "absent_sources": found.absent,
                      "seconds": round(time.perf_counter() - started, 1),
                      "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}  # fmt: skip
            files.write_json(self.folder / "report.json", report)
        return report

    def steps(self, source_files: list[sources.SourceFile], opened: ExitStack) -> Prepared:
        """All that is decided before anything is written. opened: closes the files that stay open. Errors: as `prepare`.

        Memory is released after each step: what one needed for a moment must not add to what the next one needs.
        """
        threshold = self.settings.near_duplicate_threshold
        search = Search(self.cache.folder / "near", threshold, self.settings.seed) if threshold < 1 else None
        if search is not None:
            opened.callback(search.forget)
        rows, store = self._read(source_files, search)
        opened.callback(store.close)
        release_free_memory(0)
        duplicates = drop_duplicates(rows, store, search, self.settings.most_repeated_pattern, self.cache)
        release_free_memory(0)
        if not len(rows.kept()):
            raise EmptySplitError(data_report.what_was_lost(rows, "no usable record", empty_splits.way_out(rows, self.settings)))
        assigned = assign(rows, store, duplicates, self.settings, self.cache.folder, self.earlier)
        if assigned.divided:
            say(f"data: {data_report.divided_text(assigned.divided)}.")
        del duplicates
        release_free_memory(0)
        tokens = TokenStore()
        opened.callback(tokens.close)
        lost = self._tokenized(rows, store, assigned, tokens)
        self._refuse_empty_splits(rows, assigned)
        release_free_memory(0)
        self._refuse_losses(rows)
        leak = assigned.leak(rows)
        release_free_memory(0)
        train, mixed = self._mixed(rows, assigned, tokens)
        release_free_memory(0)
        return Prepared(self.settings, rows, store, assigned, tokens, lost, leak, train, mixed, search is not None)

    def write(self, prepared: Prepared) -> tuple[dict[str, int], list[dict[str, Any]]]:
        """The packed splits, then the ledger, the records and the rejects; the number of blocks of each split, and what is rejected often."""
        pad_id = self.tokenizer.pad_token_id
        blocks = {name: split_writer.write(prepared, self.folder, split, pad_id) for split, name in enumerate(splits.SPLITS)}
        prepared.tokens.close()
        release_free_memory(0)
        often = data_report.write_ledger(prepared, self.folder)
        release_free_memory(0)
        return blocks, often

    def _read(self, source_files: list[sources.SourceFile], search: Search | None) -> tuple[RowColumns, RecordStore]:
        """All rows, their records on disk, and in `search` what near-duplicates are searched by."""
        names, sizes, rows_read = [], [], 0
        excluded = exclusions.load(self.settings)

        def parts() -> Iterator[InspectedBatch]:
            nonlocal rows_read
            for name, part in row_parts.parts(source_files, self.settings, excluded, self.cache, self.engine):
                names.append(name)
                sizes.append(len(part.columns["key"]))
                if (rows_read := rows_read + sizes[-1]) > MOST_ROWS:
                    raise TooManyRowsError(
                        f"the corpus has more than {MOST_ROWS:,} rows: one process cannot decide about all of them (docs/many_rows.md). "
                        "Divide the corpus, or take a sample of it"
                    )
                if search is not None:
                    search.append(part)
                yield part

        return RowColumns.concatenate(parts(), self.cache.folder), RecordStore(self.cache.path, names, sizes)

    def _tokenized(self, rows: RowColumns, store: RecordStore, assigned: AssignedSplits, tokens: TokenStore) -> StoredColumn:
        """Token windows of every kept record; the tokens of each row that are in no window, int32 (rows,).

        A record that the limit leaves nothing of is rejected, and a near-duplicate that was dropped for it is kept instead.
        """
        wanted, selection, lost = rows.kept(), 0, np.zeros(len(rows.fate), np.int32)
        while len(wanted):
            refused = [wanted[:0]]
            parts = tokenization.parts(self.tokenizer, store, wanted, self.settings, self.cache, self.engine, selection)
            for folder, columns, (numbers, counts), reasons in parts:
                tokens.append(folder, columns)
                lost[numbers] = counts
                for reason, rejected in reasons.items():
                    rows.reject(rejected, reason)
                    assigned.split[rejected] = -1
                    refused.append(rejected)
            wanted, selection = self._replacements(rows, assigned, np.concatenate(refused)), selection + 1
        stored = StoredColumn(self.cache.folder / "lost.npy", lost)
        del lost
        release_free_memory(0)
        tokens.index()
        return stored

    def _replacements(self, rows: RowColumns, assigned: AssignedSplits, refused: np.ndarray) -> np.ndarray:
        """The rows that are kept instead of refused ones. All of a cluster are linked, so the split that they were given leaks nothing."""
        if not len(refused) or not (rows.fate == NEAR_DUPLICATE).any():
            return refused[:0]
        repeats = assigned.repeats.read()
        chosen = replacements(rows, repeats, refused)
        assigned.split[chosen] = assigned.with_copies.read()[chosen]
        assigned.repeats.overwrite(repeats)
        return chosen

    def _refuse_empty_splits(self, rows: RowColumns, assigned: AssignedSplits) -> None:
        """Errors: EmptySplitError."""
        sizes = np.bincount(assigned.split[assigned.split >= 0], minlength=len(splits.SPLITS))
        empty = [name for name, size in zip(splits.SPLITS, sizes, strict=True) if not size]
        if empty:
            documents = len(np.unique(rows.group.read()[rows.kept()]))
            used = np.unique(rows.document_key.read()[rows.kept()])
            named = [key for number, key in enumerate(document_keys.searched(self.settings.group_key), 1) if number in used]
            by = f" named by {', '.join(named)}" if named else ""
            seen = f"no record for {', '.join(empty)}, from {documents} source documents{by}"
            raise EmptySplitError(data_report.what_was_lost(rows, seen, empty_splits.way_out(rows, self.settings)))

    def _refuse_losses(self, rows: RowColumns) -> None:
        """Errors: TooMuchLostError."""
        intended = ("objective_is_", EXCLUDED)
        unwanted = [number for number, reason in enumerate(rows.reasons) if not reason.startswith(intended)]
        weights = rows.weights()
        lost, total = int(weights[np.isin(rows.reason, unwanted)].sum()), int(weights.sum())
        allowed = 0 if self.settings.strict else self.settings.max_rejected_share * total
        if lost > allowed:
            limit = "strict is set" if self.settings.strict else f"max_rejected_share = {self.settings.max_rejected_share}"
            raise TooMuchLostError(data_report.what_was_lost(rows, f"{lost} of {total} rows were rejected, and {limit}", LIMITS_OF_LOSS))

    def _mixed(self, rows: RowColumns, assigned: AssignedSplits, tokens: TokenStore) -> tuple[np.ndarray, mixture.Mixture]:
        """The windows of the training split, int32, and which of them are trained on. Errors: ValueError for a weight of an unknown domain."""
        train = np.flatnonzero(assigned.split[tokens.record] == 0).astype(np.int32)
        record = tokens.record[train]
        hashes, operative, domain = rows.key[record], rows.origin[record] == OPERATIVES, rows.domain[record]
        del record
        weights, share = self.settings.domain_weights, self.settings.operatives_share
        return train, mixture.choose(tokens.length[train], hashes, domain, operative, rows.domains, weights, share)
