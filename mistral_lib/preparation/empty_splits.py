"""Why a split, or the whole corpus, has no record, and what would fill it: the parameter that took most of the rows, or more data."""

import numpy as np

from mistral_lib.corpus.exclusions import REASON as EXCLUDED
from mistral_lib.curation import splits
from mistral_lib.preparation.data_report import rejected
from mistral_lib.preparation.row_inspection import DUPLICATE, KEPT, NEAR_DUPLICATE, RowColumns
from mistral_lib.run.settings import Settings

REMEDIES = {  # for reasons that are not the name of a check
    "answer_too_short": "lower shortest_answer (now {s.shortest_answer}), or set answer_too_short to flag or off",
    "placeholder_text": "raise most_repeated_pattern (now {s.most_repeated_pattern}; 0: no limit)",
    "longer_than_max_tokens": "set long_records to split (now {s.long_records}), or raise max_tokens (now {s.max_tokens})",
    "no_supervised_token_within_max_tokens": "raise max_tokens (now {s.max_tokens}), or set long_records to split (now {s.long_records})",
    "unknown_shape": "name the keys of the rows (columns)",
    EXCLUDED: "take entries out of exclude_file (now {s.exclude_file!r})",
}


def way_out(rows: RowColumns, settings: Settings) -> str:
    """What to do, in a sentence."""
    fates, reasons = np.bincount(rows.fate, minlength=4), rejected(rows)
    usable, reason = int(fates[KEPT]), max(reasons, key=lambda name: reasons[name], default="")
    near, refused, exact = int(fates[NEAR_DUPLICATE]), reasons.get(reason, 0), int(fates[DUPLICATE])
    if refused > max(usable, near, exact):
        return f"Most rows were rejected as {reason}: {_remedy(reason, settings)}"
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


def _remedy(reason: str, settings: Settings) -> str:
    """The parameter that decides about a reason for rejection, and how to change it."""
    if reason in REMEDIES:
        return REMEDIES[reason].format(s=settings)
    if reason.startswith("objective_is_"):
        return f"set objective to both (now {settings.objective})"
    if reason in Settings.names():
        return f"look at some of them in rejected.jsonl; the parameter {reason} (now {getattr(settings, reason)}) may also be flag or off"
    return "repair the files, or name other ones (corpus_paths)"
