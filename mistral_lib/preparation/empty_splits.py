"""Why a split, or the whole corpus, has no record, and what would fill it: the parameter that took most of the rows, or more data."""

import numpy as np

from mistral_lib.curation import rejections, splits
from mistral_lib.preparation.data_report import rejected
from mistral_lib.preparation.row_inspection import DUPLICATE, KEPT, NEAR_DUPLICATE, RowColumns
from mistral_lib.run.settings import Settings


def way_out(rows: RowColumns, settings: Settings) -> str:
    """What to do, in a sentence."""
    fates, reasons = np.bincount(rows.fate, minlength=4), rejected(rows)
    usable, reason = int(fates[KEPT]), max(reasons, key=lambda name: reasons[name], default="")
    near, refused, exact = int(fates[NEAR_DUPLICATE]), reasons.get(reason, 0), int(fates[DUPLICATE])
    if refused > max(usable, near, exact):
        return f"Most rows were rejected as {rejections.explained(reason)}"
    if near > max(usable, exact):
        return f"Most rows are near-duplicates: raise near_duplicate_threshold ({settings.near_duplicate_threshold}; 1 keeps them all)"
    if exact > usable:
        return "Most rows are copies of others, prompt and answer: add rows that differ"
    if usable < len(splits.SPLITS):
        return f"Three splits need at least {len(splits.SPLITS)} records: add data"
    return (
        "All records are linked to each other, by their documents or by long texts that they share: add records of other documents, or, "
        f"if the key of a collection was taken for that of a document, name another one (group_key, now {settings.group_key!r})"
    )
