"""How the records are split, what links them, and all else that the steps found: the input of the packed splits, the ledger and the report."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mistral_lib.corpus import document_keys
from mistral_lib.curation import label_domains, splits
from mistral_lib.curation.equal_keys import first_occurrence, taken
from mistral_lib.curation.minhash import mix
from mistral_lib.curation.mixture import Mixture
from mistral_lib.curation.split_minimums import Earlier
from mistral_lib.curation.template_prompts import TEMPLATE
from mistral_lib.preparation.dropped_duplicates import Duplicates, SimilarOnDisk
from mistral_lib.preparation.record_store import RecordStore, StoredColumn
from mistral_lib.preparation.row_inspection import DOCUMENT, KEPT, SIDES, RowColumns
from mistral_lib.preparation.token_store import TokenStore
from mistral_lib.run.settings import Settings

FEWEST_DOCUMENTS = len(splits.SPLITS)  # one for each split; a corpus of fewer is divided within its documents
PAGE = re.compile(r"(?i)\.pdf#[\d.-]+\Z")  # the end of a record's source: a page of a PDF
SECTION = re.compile(r"#\d+\Z")  # a section of a text
LEAST_WORDS = {"prompt": splits.LONG_PROMPT, "answer": splits.LONG_ANSWER}


@dataclass(frozen=True, slots=True)
class Links:
    """The links of the rows that are records, on disk while no step needs them."""

    near: list[StoredColumn]  # each int32 (records,): equal for records linked by their prompts, by their answers, or as plain documents
    equal: list[StoredColumn]  # the same for equal prompts and answers alone
    leader: StoredColumn  # int32 (records,): the first of each cluster of near-duplicates
    pairs: StoredColumn  # int32 (pairs, 2): verified near-duplicates that are linked

    def shared(self, rows: RowColumns, mapped: np.ndarray) -> splits.Shared:
        """What a leak is measured by. mapped: the rows that are records."""
        equal = (column.read() for column in self.equal)
        return splits.Shared(taken(rows.group.read(), mapped), taken(rows.key, mapped), *equal, self.pairs.read())

    def all(self) -> Iterator[np.ndarray]:
        """The columns that `splits.assign` takes, each read when it is needed."""
        return (column.read() for column in (*self.near, *self.equal, self.leader))


@dataclass(frozen=True, slots=True)
class AssignedSplits:
    """The splits of the rows, by rule; `split` changes while records are rejected, the rest does not."""

    split: np.ndarray  # int8 (rows,): number in splits.SPLITS, -1 for rows that are not kept
    with_copies: StoredColumn  # int8 (rows,): the same, with the splits of dropped copies
    repeats: StoredColumn  # int32 (rows,): for each dropped copy the row that it repeats, else -1
    mapped: StoredColumn  # int32 (records,): the rows that are records, with their copies
    links: Links
    assignment: splits.Assignment
    random_leak: dict[str, int]  # what a split at random would have leaked
    labels: dict[str, dict[str, Any]]  # of each label domain: its labels with their rows, and the share of the most frequent one
    divided: dict[str, Any] | None  # the documents that were divided, as data_report.documents_text reads them; None if they are whole

    def leak(self, rows: RowColumns) -> dict[str, int]:
        """The leak of the result."""
        mapped = self.mapped.read()
        return splits.leak(self.split[mapped], self.links.shared(rows, mapped))


@dataclass(frozen=True, slots=True)
class Prepared:
    settings: Settings
    rows: RowColumns
    store: RecordStore
    splits: AssignedSplits
    tokens: TokenStore
    lost: StoredColumn  # int32 (rows,): tokens of each row that are in no window
    leak: dict[str, int]  # of the result, as splits.leak returns it
    train: np.ndarray  # int32: numbers of the windows of the training split
    mixture: Mixture  # which of `train` are trained on
    near_duplicates_searched: bool

    def windows_of(self, split: int) -> np.ndarray:
        """bool (windows,): whether each window is in that split."""
        return self.splits.split[self.tokens.record] == split

    def of_training_windows(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and domain of each window of the training split, both int32."""
        return self.tokens.length[self.train], self.rows.domain[self.tokens.record[self.train]]


def assign(
    rows: RowColumns, store: RecordStore, duplicates: Duplicates, settings: Settings, folder: Path, earlier: Earlier | None
) -> AssignedSplits:
    """The splits of all records. Dropped copies link groups as well: what repeats a test record must not bring its document into training.

    folder: for columns on disk.
    """
    mapped = duplicates.mapped
    label, labels = find_labels(rows, mapped, store)
    forget_common_texts(rows, mapped, settings.group_key)
    divided = divide_documents(rows, mapped, store, settings.group_key)
    links = links_of(rows, duplicates, label >= 0, folder)
    kept = rows.fate[mapped] == KEPT
    random_leak = splits.random_leak(links.shared(rows, mapped), settings.seed)
    shares = (settings.validation_share, settings.test_share)
    assignment = splits.assign(
        taken(rows.group.read(), mapped), taken(rows.key, mapped), links.all(), rows.domain[mapped], *shares, settings.seed, kept=kept, earlier=earlier, label=label
    )  # fmt: skip
    split = np.full(len(rows.fate), -1, np.int8)
    split[mapped] = assignment.split
    with_copies = StoredColumn(folder / "assigned.npy", split)
    split[rows.fate != KEPT] = -1
    stored = StoredColumn(folder / "mapped.npy", mapped)
    return AssignedSplits(split, with_copies, duplicates.repeats, stored, links, assignment, random_leak, labels, divided)


def links_of(rows: RowColumns, duplicates: Duplicates, labeled: np.ndarray, folder: Path) -> Links:
    """The links of the records in `duplicates`. labeled: bool (records,), whose answer is a label. folder: for the columns."""
    mapped, similar = duplicates.mapped, duplicates.similar
    kept, document = rows.fate[mapped] == KEPT, (rows.context.read() == DOCUMENT)[mapped]
    near, equal, pairs = [], [], []

    def stored(name: str, values: np.ndarray) -> StoredColumn:
        return StoredColumn(folder / f"links-{name}.npy", values.astype(np.int32, copy=False))

    for side, left_out in zip(SIDES, (document, labeled), strict=True):
        columns = list(splits.specific(_text(rows, similar, mapped, side, left_out), kept, document))
        equal.append(stored(f"equal-{side}", columns.pop()))
        near.append(stored(f"near-{side}", columns[0]))
        if side == "answer":
            columns.append(splits.linked_where(document, similar.component[side].read()))
            near.append(stored("near-document", columns[1]))
        pairs.append(_linked(similar.pairs[side].read(), columns))
        del columns  # one side is in memory at a time
    return Links(near, equal, similar.leader, stored("pairs", np.concatenate(pairs)))


def _linked(pairs: np.ndarray, columns: Sequence[np.ndarray]) -> np.ndarray:
    """The pairs that one of the columns links."""
    return pairs[np.any([column[pairs[:, 0]] == column[pairs[:, 1]] for column in columns], axis=0)]


def _text(rows: RowColumns, similar: SimilarOnDisk, mapped: np.ndarray, side: str, left_out: np.ndarray) -> splits.Text:
    first = first_occurrence(taken(getattr(rows, side).read(), mapped))
    long = (getattr(rows, f"{side}_words").read() >= LEAST_WORDS[side])[mapped]
    return splits.Text(first, similar.component[side].read(), long & ~left_out)


def find_labels(rows: RowColumns, mapped: np.ndarray, store: RecordStore) -> tuple[np.ndarray, dict[str, dict[str, Any]]]:
    """(for each mapped row the first one with its label, int32, -1 without one; of each label domain its labels and majority share)."""
    prompted, kept = (rows.context.read() != DOCUMENT)[mapped], rows.fate[mapped] == KEPT
    domain, answer = rows.domain[mapped], taken(rows.label.read(), mapped)
    found = label_domains.find(domain, answer, rows.answer_words.read()[mapped], prompted, kept)
    named = {}
    for one in found:
        order = np.argsort(one.first)
        text = dict(zip(one.first[order].tolist(), store.answers(mapped[one.first[order]]), strict=True))
        named[rows.domains[one.domain]] = one.named([text[first] for first in one.first.tolist()])
    return label_domains.label_of(domain, answer, found), dict(sorted(named.items()))


def forget_common_texts(rows: RowColumns, mapped: np.ndarray, group_key: str) -> None:
    """Make records of a text that many prompts have documents of their own: it is a template or a background, no document.

    Many are more than TEMPLATE records or a tenth of all. Changes groups and document keys in `rows`.
    """
    keys = ("", *document_keys.searched(group_key))
    if document_keys.LONG_TEXT not in keys:
        return
    group, number, kept = rows.group.read(), rows.document_key.read(), mapped[rows.fate[mapped] == KEPT]
    by_text = number == keys.index(document_keys.LONG_TEXT)
    texts, counts = np.unique(group[kept[by_text[kept]]], return_counts=True)
    texts = texts[counts > min(TEMPLATE, len(kept) / 10)]
    if not len(texts):
        return
    common = by_text & np.isin(group, texts)
    group[common], number[common] = mix(rows.key[common]), 0
    rows.group.overwrite(group)
    rows.document_key.overwrite(number)


def divide_documents(rows: RowColumns, mapped: np.ndarray, store: RecordStore, group_key: str) -> dict[str, Any] | None:
    """Make each record a document of its own if all are of fewer than FEWEST_DOCUMENTS: no rule could fill three splits with these.

    Changes the groups in `rows`; returns what was divided. A corpus that gets more documents has them whole again, which may move records.
    """
    group, kept = rows.group.read(), mapped[rows.fate[mapped] == KEPT]
    documents = len(np.unique(group[kept]))
    if documents >= FEWEST_DOCUMENTS or len(kept) < FEWEST_DOCUMENTS:
        return None
    group[mapped] = mix(taken(rows.key, mapped))
    rows.group.overwrite(group)
    [source], number = store.sources(kept[:1]), int(rows.document_key.read()[kept[0]])
    into = "pages" if PAGE.search(source) else "sections" if SECTION.search(source) else "records"
    key = ("", *document_keys.searched(group_key))[number] if into == "records" else ""
    return {"documents": documents, "records": len(kept), "into": into, "key": key}
