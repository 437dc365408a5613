"""The data stage: from raw rows to packed train, validation and test splits, with the fate of every input row.

read → exact duplicates → near-duplicates → splits → token windows → packed blocks → ledger and report. Texts and tokens
wait on disk; memory holds a few bytes per row, so that millions of rows need little more than thousands.
"""

import hashlib
import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mistral_lib import base_model, block_writer, chat_format, data_report, files, long_records, mixture, packing, sources, splits
from mistral_lib.duplicates import NearDuplicates, first_occurrence
from mistral_lib.exclusions import REASON as EXCLUDED
from mistral_lib.exclusions import inputs as excluded_inputs
from mistral_lib.progress import bar, say
from mistral_lib.reading import DUPLICATE, KEPT, NEAR_DUPLICATE, ORIGINS, Rows, read
from mistral_lib.record_store import BATCH, RecordStore, RecordWriter
from mistral_lib.run import Run
from mistral_lib.settings import Settings
from mistral_lib.signatures import GRAM
from mistral_lib.skeletons import repeated
from mistral_lib.token_store import TokenStore

OPERATIVES = ORIGINS.index("operatives")
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
    inputs = {**sources.inputs(found.files), "tokenizer": base_model.tokenizer_hash(tokenizer), **excluded_inputs(run.settings)}
    run.carry_out("data", inputs, lambda folder: Preparation(folder, run.settings, tokenizer).carry_out(found))
    return files.read_json(run.folder / "data" / "report.json")


class Preparation:
    """The steps of one preparation, in order."""

    def __init__(self, folder: Path, settings: Settings, tokenizer: Any):
        self.folder, self.settings, self.tokenizer = folder, settings, tokenizer
        self.work = folder / "work"

    def carry_out(self, found: sources.Found) -> dict[str, Any]:
        """Fill the folder with splits, records, ledger, rejects and report; return the report."""
        started = time.perf_counter()
        self.work.mkdir()
        self.rows = self.read(found.files)
        self.drop_duplicates()
        self.assign_splits()
        self.tokenise()
        self.refuse_losses()
        self.leak = self.measured_leak()
        self.mix()
        blocks = {split: self.write_split(number, split) for number, split in enumerate(splits.SPLITS)}
        data_report.write_ledger(self)
        report = {**data_report.count(self, blocks), "absent_sources": [str(absent) for absent in found.absent],
                  "seconds": round(time.perf_counter() - started, 1),
                  "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}  # fmt: skip
        files.write_json(self.folder / "report.json", report)
        self.tokens.discard()
        shutil.rmtree(self.work)
        return report

    def read(self, source_files: list[sources.SourceFile]) -> Rows:
        threshold = self.settings.near_duplicate_threshold
        self.near = NearDuplicates(self.work / "near", threshold, self.settings.seed) if threshold < 1 else None
        rows = read(source_files, self.settings, RecordWriter(self.work / "records.arrow"), self.near)
        self.store = RecordStore(self.work / "records.arrow")
        return rows

    def drop_duplicates(self) -> None:
        """Keep the first of each canonical text and of each cluster of near-duplicates; refuse patterns that repeat without end."""
        rows, self.mapped = self.rows, self.rows.kept()
        self.repeats = np.full(len(rows.fate), -1)  # of each dropped row: the row that it repeats
        self.pairs = NO_PAIRS
        if self.near is not None:
            leader = self.near_leaders()
            self.drop(leader, NEAR_DUPLICATE)
        self.drop(first_occurrence(rows.key[self.mapped]), DUPLICATE)
        distinct = self.mapped[rows.fate[self.mapped] != DUPLICATE]  # a text that stands in many files is no pattern
        often = repeated(rows.skeleton[distinct], self.settings.most_repeated_pattern)
        rows.reject(distinct[np.isin(rows.skeleton[distinct], often) & (rows.fate[distinct] == KEPT)], "placeholder_text")

    def near_leaders(self) -> np.ndarray:
        """For each mapped row the place of the row that leads its cluster; equal answers of a word or two lead to no one."""

        def texts(positions: Sequence[int]) -> list[str]:
            return self.store.answers(self.mapped[np.asarray(positions)])

        self.pairs = self.near.pairs(texts)
        return np.where(self.near.words() >= GRAM, self.near.clusters(texts), np.arange(len(self.mapped)))

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
        group, answer, key = rows.group[mapped], rows.answer[mapped], rows.key[mapped]
        self.random_leak = splits.random_leak(group, answer, key, self.pairs, s.seed)
        shares, kept = (s.validation_share, s.test_share), rows.fate[mapped] == KEPT
        self.assignment = splits.assign(group, answer, self.pairs, key, rows.domain[mapped], *shares, s.seed, kept=kept)
        self.split = np.full(len(rows.fate), -1, np.int8)  # of each row: number in splits.SPLITS, -1 for none
        self.split[mapped] = self.assignment.split
        self.split[rows.fate != KEPT] = -1

    def measured_leak(self) -> dict[str, int]:
        """The leak of the result, whatever rule made it: over the kept rows, by text, answer, document and near-duplicate pair."""
        rows, kept = self.rows, self.rows.kept()
        place = np.full(len(rows.fate), -1)
        place[kept] = np.arange(len(kept))
        pairs = place[self.mapped[self.pairs]]
        return splits.leak(self.split[kept], rows.group[kept], rows.answer[kept], rows.key[kept], pairs[(pairs >= 0).all(axis=1)])

    def tokenise(self) -> None:
        """Token windows of every kept record; records that the limit leaves nothing of are rejected, the loss counted."""
        self.tokens = TokenStore(self.work)
        self.lost = np.zeros(len(self.rows.fate), np.int32)  # tokens of each row that stand in no window
        kept = self.rows.kept()
        for start in bar(range(0, len(kept), BATCH), "tokens", unit="batch"):
            numbers = kept[start : start + BATCH]
            for number, fitted in zip(numbers, self._fit(self.store.records(numbers)), strict=True):
                self.lost[number] = fitted.tokens_lost
                if fitted.refusal:
                    self.rows.reject(number, fitted.refusal)
                    self.split[number] = -1
                for window in fitted.windows:
                    self.tokens.add(int(number), window)
        self.tokens.close()
        sizes = np.bincount(self.split[self.split >= 0], minlength=len(splits.SPLITS))
        empty = [name for name, size in zip(splits.SPLITS, sizes, strict=True) if not size]
        if empty:
            documents = len(np.unique(self.rows.group[self.rows.kept()]))
            raise EmptySplit(data_report.what_was_lost(self.rows, f"no record for {', '.join(empty)}, from {documents} source documents"))

    def _fit(self, records: list[Any]) -> Iterator[long_records.Fitted]:
        for record, one in zip(records, chat_format.encode(self.tokenizer, records), strict=True):
            try:
                yield long_records.fit(self.tokenizer, record, one, self.settings.max_tokens, self.settings.long_records)
            except chat_format.TemplateProblem:
                yield long_records.Fitted([], len(one.input_ids), one.supervised, "turns_cannot_stand_alone")

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
        rows, s, self.train = self.rows, self.settings, np.flatnonzero(self.split[self.tokens.record] == 0)
        record = self.tokens.record[self.train]
        self.of_window = (self.tokens.length[self.train], rows.domain[record], rows.domains)  # tokens, domain, names of domains
        self.mixture = mixture.choose(
            self.of_window[0],
            rows.key[record],
            self.of_window[1],
            rows.origin[record] == OPERATIVES,
            rows.domains,
            s.domain_weights,
            s.operatives_share,
        )

    def stretches(self, split: int) -> list[np.ndarray]:
        """The windows of a split in stretches that are packed one after the other."""
        if split != 0:
            return [self.order(split)]
        if self.settings.order == "operatives_last":
            return [self.train[self.mixture.corpus], self.train[self.mixture.operatives]]
        windows = self.train[self.mixture.windows]
        return [windows[np.argsort(self.rows.key[self.tokens.record[windows]], kind="stable")]]

    def write_split(self, number: int, name: str) -> int:
        stretches, together = self.stretches(number), block_writer.TRAIN_WINDOW if number == 0 else block_writer.FAIR_WINDOW
        keys, domains = self.rows.key, self.rows.domains
        packed = (block for part in stretches for block in block_writer.pack(self.tokens.length, part, self.settings.max_tokens, together))

        def blocks() -> Iterator[dict[str, Any]]:
            for windows in packed:
                members = self.tokens.record[windows]
                yield {
                    **packing.block([self.tokens.window(n) for n in windows], self.settings.max_tokens, self.tokenizer.pad_token_id),
                    "record_ids": [f"{keys[member]:016x}" for member in members],
                    "domains": [domains[self.rows.domain[member]] for member in members],
                }

        fingerprint = hashlib.sha256(keys[self.tokens.record[np.concatenate(stretches)]].tobytes()).hexdigest()
        return block_writer.write(self.folder / name, bar(blocks(), f"{name} blocks", unit="block"), fingerprint)

    def order(self, split: int) -> np.ndarray:
        """The windows of a held-out split: domains in turn, within a domain by hash, so that every stretch is a fair sample."""
        windows = np.flatnonzero(self.split[self.tokens.record] == split)
        domain, key = self.rows.domain[self.tokens.record[windows]], self.rows.key[self.tokens.record[windows]]
        by_domain = np.lexsort((windows, key, domain))
        starts = np.flatnonzero(np.diff(domain[by_domain], prepend=-1))
        turn = np.arange(len(windows)) - np.repeat(starts, np.diff(starts, append=len(windows)))
        return windows[by_domain[np.lexsort((domain[by_domain], turn))]]
