"""The data stage: from raw rows to packed train, validation and test splits, with the fate of every input row.

read → exact duplicates → near-duplicates → splits → token windows → packed blocks → ledger and report. Texts and tokens
wait on disk; memory holds some fifty bytes per row: at most 600 MiB for a million generated rows, 546 for a hundred thousand.

A killed preparation goes on where it was: finished parts wait in the hidden folder .data.work of the run, under a key of
content, parameters, tokenizer and code. All artefacts are the same bytes whenever the same is prepared, on any number of cores and
after any number of kills, but for two figures of report.json: seconds and peak_memory_mib.
"""

import resource
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import mistral_lib
from mistral_lib.corpus import sources
from mistral_lib.corpus.exclusions import REASON as EXCLUDED
from mistral_lib.curation import mixture, splits
from mistral_lib.curation.near_duplicates import NearDuplicates, first_occurrence
from mistral_lib.curation.repeated_patterns import repeated
from mistral_lib.curation.split_minimums import Earlier
from mistral_lib.model import base_model
from mistral_lib.preparation import data_report, duplicate_search, row_parts, split_writer, stage_inputs, tokenization
from mistral_lib.preparation.columns import StoredColumn
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.record_store import RecordStore
from mistral_lib.preparation.row_inspection import DUPLICATE, KEPT, NEAR_DUPLICATE, ORIGINS, Inspected, Rows
from mistral_lib.preparation.token_store import TokenStore
from mistral_lib.run import Run, disk, files
from mistral_lib.run.allocator import freeze_gc, release_free_memory, release_large_pieces
from mistral_lib.run.progress import say
from mistral_lib.run.settings import Settings

OPERATIVES = ORIGINS.index("operatives")
# finished parts depend on the code of these packages and on the versions of these libraries
PACKAGES = ("run", "curation", "corpus", "tokens", "preparation")
LIBRARIES = ("numpy", "orjson", "pyarrow", "pypdfium2", "rensa", "tokenizers", "transformers")
# parameters that nothing asks for until the last part is finished: a run that stopped at one of them goes on when it is changed
LATE = {"strict", "max_rejected_share", "validation_share", "test_share", "domain_weights", "operatives_share", "order"}
EARLIER_KEPT = "Earlier results are untouched."
NO_PAIRS = np.empty((0, 2), np.int64)


class EmptySplit(ValueError):
    """Nothing is left where something is needed; the message says where it went."""


class TooMuchLost(ValueError):
    """More rows were rejected than the parameters allow; the message says which and why."""


def prepare(run: Run) -> dict[str, Any]:
    """Do the data stage unless it is done, and return data/report.json.

    Errors: SourceError for paths that yield nothing, TooMuchLost, EmptySplit where no row survives.
    """
    found = sources.resolve(run.settings)
    for missing in found.absent:
        say(str(missing))
    tokenizer = base_model.load_tokenizer(run.settings.base_model)
    inputs = stage_inputs.of(run, "data", found.files)
    work = run.folder / ".data.work"

    def carry_out(folder: Path) -> dict[str, Any]:
        needed = 5 * sum(file.size for file in found.files)
        with disk.full_reported(run.folder, needed, "the prepared data, about five times its sources", EARLIER_KEPT, folder, work):
            finished = PartCache(work, _key(run.settings, inputs))
            before = Earlier.load(run.folder / "data", run.settings.seed)
            report = Preparation(folder, run.settings, tokenizer, finished, before).carry_out(found)
        finished.discard()
        return report

    run.carry_out("data", inputs, carry_out)
    return files.read_json(run.folder / "data" / "report.json")


def _key(settings: Settings, inputs: dict[str, str]) -> str:
    """A hash of everything that the finished parts of a preparation depend on."""
    used = {name: value for name, value in settings.stage("data").items() if name not in LATE}
    code = code_hashes(Path(mistral_lib.__file__).parent)
    return files.digest([used, inputs, code, {name: version(name) for name in LIBRARIES}])


def code_hashes(library: Path) -> dict[str, str]:
    """`{path in the library: sha256}` of the code that can change a part."""
    return {
        path.relative_to(library).as_posix(): files.sha256(path)
        for package in PACKAGES
        for path in sorted((library / package).rglob("*.py"))
    }


class Preparation:
    """The steps of one preparation, in order."""

    def __init__(self, folder: Path, settings: Settings, tokenizer: Any, finished: PartCache, earlier: Earlier | None = None):
        self.folder, self.settings, self.tokenizer, self.finished, self.earlier = folder, settings, tokenizer, finished, earlier
        self.near = self.store = self.tokens = None

    def carry_out(self, found: sources.Found) -> dict[str, Any]:
        """Fill the folder with splits, records, ledger, rejects and report; return the report."""
        started = time.perf_counter()
        release_large_pieces()
        try:
            with freeze_gc():
                blocks = self.steps(found.files)
            report = {**data_report.count(self, blocks), "absent_sources": [str(absent) for absent in found.absent],
                      "seconds": round(time.perf_counter() - started, 1),
                      "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}  # fmt: skip
            files.write_json(self.folder / "report.json", report)
        finally:
            for held in (self.near, self.store, self.tokens):
                if held is not None:
                    held.forget()  # a disk gets nothing back of a removed file while it is open
        return report

    def steps(self, source_files: list[sources.SourceFile]) -> dict[str, int]:
        """All but the report; the number of blocks of each split."""
        self.read(source_files)
        for step in (self.drop_duplicates, self.assign_splits, self.tokenise, self.refuse_losses, self.measure_leak, self.mix):
            release_free_memory(0)  # what a step needed for a moment must not add to what the next one needs
            step()
        release_free_memory(0)
        blocks = {split: split_writer.write(self, number, split) for number, split in enumerate(splits.SPLITS)}
        self.tokens.forget()
        release_free_memory(0)
        data_report.write_ledger(self)
        release_free_memory(0)
        return blocks

    def read(self, source_files: list[sources.SourceFile]) -> None:
        """All rows, their records on disk, and the answers that near-duplicates are searched among."""
        threshold, folders = self.settings.near_duplicate_threshold, []
        self.near = NearDuplicates(self.finished.folder / "near", threshold) if threshold < 1 else None

        def parts() -> Iterator[Inspected]:
            for folder, part in row_parts.parts(source_files, self.settings, self.finished):
                folders.append(folder)
                if self.near is not None and part.signed is not None:
                    self.near.append(part.signed)
                part.signed = None
                yield part

        self.rows = Rows.of(parts())
        self.rows.set_aside(self.finished.folder)
        self.store = RecordStore(folders)

    def drop_duplicates(self) -> None:
        """Keep the first of each canonical text and of each cluster of near-duplicates; refuse patterns that repeat without end."""
        rows, self.mapped = self.rows, self.rows.kept()
        self.repeats = np.full(len(rows.fate), -1, np.int32)  # of each dropped row: the row that it repeats
        self.pairs = NO_PAIRS
        if self.near is not None:
            self.pairs, leader = duplicate_search.found(self.near, self.store, self.mapped, self.finished)
            self.drop(leader, NEAR_DUPLICATE)
        self.drop(first_occurrence(rows.key[self.mapped]), DUPLICATE)
        if self.settings.most_repeated_pattern:
            distinct = self.mapped[rows.fate[self.mapped] != DUPLICATE]  # a text that stands in many files is no pattern
            often = repeated(rows.skeleton[distinct], self.settings.most_repeated_pattern)
            rows.reject(distinct[np.isin(rows.skeleton[distinct], often) & (rows.fate[distinct] == KEPT)], "placeholder_text")
        rows.skeleton = None  # it has done its duty

    def drop(self, first: np.ndarray, fate: int) -> None:
        """Mark the mapped rows that repeat another one. first: for each the place of the one it repeats, or its own."""
        later = np.flatnonzero(first != np.arange(len(first)))
        self.rows.fate[self.mapped[later]] = fate
        self.repeats[self.mapped[later]] = self.mapped[first[later]]

    def assign_splits(self) -> None:
        """Dropped copies tie as well: what repeats a test record must not bring its document into training.

        Errors: EmptySplit if nothing is left."""
        rows, mapped, s = self.rows, self.mapped, self.settings
        if not len(rows.kept()):
            raise EmptySplit(data_report.what_was_lost(rows, "no usable record"))
        group, answer, key = rows.group.read()[mapped], rows.answer.read()[mapped], rows.key[mapped]
        self.random_leak = splits.random_leak(group, answer, key, self.pairs, s.seed)
        shares, kept = (s.validation_share, s.test_share), rows.fate[mapped] == KEPT
        columns = (group, answer, self.pairs, key, rows.domain[mapped])
        self.assignment = splits.assign(*columns, *shares, s.seed, kept=kept, earlier=self.earlier)
        self.split = np.full(len(rows.fate), -1, np.int8)  # of each row: number in splits.SPLITS, -1 for none
        self.split[mapped] = self.assignment.split
        self.assigned = StoredColumn(self.finished.folder / "assigned.int8", self.split)  # of dropped copies as well
        self.split[rows.fate != KEPT] = -1
        self.pairs = StoredColumn(self.finished.folder / "pairs.int32", mapped[self.pairs])
        self.repeats = StoredColumn(self.finished.folder / "repeats.int32", self.repeats)
        self.mapped = None  # it has done its duty

    def measure_leak(self) -> None:
        """The leak of the result, whatever rule made it: over the kept rows, by text, answer, document and near-duplicate pair."""
        rows = self.rows
        self.leak = splits.leak(self.split, rows.group.read(), rows.answer.read(), rows.key, self.pairs.read())

    def tokenise(self) -> None:
        """Token windows of every kept record; records that the limit leaves nothing of are rejected, the loss counted, and a
        near-duplicate that was dropped for one of them is kept in its place."""
        self.tokens, wanted, turn = TokenStore(), self.rows.kept(), 0
        all_lost = np.zeros(len(self.rows.fate), np.int32)  # tokens of each row that stand in no window
        while len(wanted):
            wanted, turn = self.stand_ins(self.tokenised(wanted, turn, all_lost)), turn + 1
        self.lost = StoredColumn(self.finished.folder / "lost.int32", all_lost)
        del all_lost
        release_free_memory(0)
        self.tokens.close()
        sizes = np.bincount(self.split[self.split >= 0], minlength=len(splits.SPLITS))
        empty = [name for name, size in zip(splits.SPLITS, sizes, strict=True) if not size]
        if empty:
            documents = len(np.unique(self.rows.group.read()[self.rows.kept()]))
            seen = f"no record for {', '.join(empty)}, from {documents} source documents"
            raise EmptySplit(data_report.what_was_lost(self.rows, seen, "Add source documents, or raise validation_share and test_share"))

    def tokenised(self, wanted: np.ndarray, turn: int, all_lost: np.ndarray) -> np.ndarray:
        """Windows of these records, ascending numbers; the numbers of those that are refused."""
        found = [wanted[:0]]
        for folder, columns, lost, refused in tokenization.parts(self.tokenizer, self.store, wanted, self.settings, self.finished, turn):
            self.tokens.append(folder, columns)
            all_lost[lost[0]] = lost[1]
            for reason, numbers in refused.items():
                self.rows.reject(numbers, reason)
                self.split[numbers] = -1
                found.append(numbers)
        return np.concatenate(found)

    def stand_ins(self, refused: np.ndarray) -> np.ndarray:
        """The numbers of the rows that are kept instead of refused ones, ascending: the first that was dropped as a near-duplicate of
        each. The others of its cluster repeat this one now. All of a cluster are tied, so the split that it was given leaks nothing."""
        near = np.flatnonzero(self.rows.fate == NEAR_DUPLICATE)
        if not len(refused) or not len(near):
            return near[:0]
        repeats = self.repeats.read()
        near = near[np.isin(repeats[near], refused)]
        first = near[first_occurrence(repeats[near])]
        chosen = near[first == near]
        repeats[near] = first
        repeats[chosen] = -1
        self.rows.fate[chosen] = KEPT
        self.split[chosen] = self.assigned.read()[chosen]
        self.repeats = StoredColumn(self.repeats.path, repeats)
        return chosen

    def refuse_losses(self) -> None:
        """Errors: TooMuchLost."""
        meant = ("objective_is_", EXCLUDED)
        unwanted = [number for number, reason in enumerate(self.rows.reasons) if not reason.startswith(meant)]
        lost = int(np.isin(self.rows.reason, unwanted).sum())
        allowed = 0 if self.settings.strict else self.settings.max_rejected_share * len(self.rows.fate)
        if lost > allowed:
            limit = "strict is set" if self.settings.strict else f"max_rejected_share = {self.settings.max_rejected_share}"
            raise TooMuchLost(data_report.what_was_lost(self.rows, f"{lost} of {len(self.rows.fate)} rows were rejected, and {limit}"))

    def mix(self) -> None:
        """Choose what of the training split is trained on. Errors: ValueError for a weight of an unknown domain."""
        rows, s, self.train = self.rows, self.settings, np.flatnonzero(self.split[self.tokens.record] == 0).astype(np.int32)
        record = self.tokens.record[self.train]
        hashes, operative = rows.key[record], rows.origin[record] == OPERATIVES
        del record
        tokens, domain = self.of_windows()
        self.mixture = mixture.choose(tokens, hashes, domain, operative, rows.domains, s.domain_weights, s.operatives_share)

    def of_windows(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and domain of each training window, both int32."""
        return self.tokens.length[self.train], self.rows.domain[self.tokens.record[self.train]]
