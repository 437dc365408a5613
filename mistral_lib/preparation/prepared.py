"""What the steps of a preparation found: the input of the packed splits, the ledger and the report."""

from dataclasses import dataclass

import numpy as np

from mistral_lib.curation.mixture import Mixture
from mistral_lib.curation.splits import Assignment
from mistral_lib.preparation.columns import StoredColumn
from mistral_lib.preparation.record_store import RecordStore
from mistral_lib.preparation.row_inspection import RowColumns
from mistral_lib.preparation.token_store import TokenStore
from mistral_lib.run.settings import Settings


@dataclass(frozen=True, slots=True)
class AssignedSplits:
    """The splits of the rows, by rule; `split` changes while records are rejected, the rest does not."""

    split: np.ndarray  # int8 (rows,): number in splits.SPLITS, -1 for rows that are not kept
    with_copies: StoredColumn  # int8 (rows,): the same, with the splits of dropped copies
    repeats: StoredColumn  # int32 (rows,): for each dropped copy the row that it repeats, else -1
    pairs: StoredColumn  # int32 (pairs, 2): rows that are near-duplicates of each other
    assignment: Assignment
    random_leak: dict[str, int]  # what a split at random would have leaked


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
