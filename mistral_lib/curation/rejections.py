"""Which parameter decides a rejection, and whether one reason takes too large a share of a source.

A reason that rejects more than a tenth of a file is seldom meant: a check may not fit this kind of data.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from mistral_lib.run.settings import CHECKS

LARGE_SHARE = 0.1  # of the rows of a source, rejected for one reason

# Reason code → the parameters that decide it. A check decides about the reason of its own name.
DECIDED_BY = {
    **{check: (check,) for check in CHECKS},
    "answer_too_short": ("shortest_answer", "answer_too_short"),
    "mostly_html": ("mostly_html", "html_share"),
    "low_letter_share": ("low_letter_share", "letter_share"),
    "low_script_share": ("low_script_share", "script", "script_share"),
    "placeholder_text": ("most_repeated_pattern",),
    "redacted_answer": ("personal_data", "secrets"),
    "excluded_by_hand": ("exclude_file",),
    "longer_than_max_tokens": ("max_tokens", "long_records"),
    "no_supervised_token_within_max_tokens": ("max_tokens", "long_records"),
    "glued_json": ("salvage",),
    "unknown_shape": ("columns",),
}
HOW = {  # what to do if the rejection is not meant
    "placeholder_text": "0 switches it off",
    "answer_too_short": "a smaller number keeps shorter answers",
    "unknown_shape": "it names the keys of prompt and answer",
    "glued_json": "true reads each object as a row",
    "longer_than_max_tokens": "split keeps them in parts",
}


def parameters_of(reason: str) -> tuple[str, ...]:
    """The parameters that decide a rejection; () if only other data would help, as for a damaged row."""
    if reason.startswith("objective_is_"):
        return ("objective",)
    return DECIDED_BY.get(reason, ())


def explained(reason: str) -> str:
    """The reason with its parameters: `placeholder_text (most_repeated_pattern: 0 switches it off)`."""
    named = " and ".join(parameters_of(reason))
    how = HOW.get(reason) or ("off or flag keeps the rows" if set(parameters_of(reason)) & set(CHECKS) else "")
    return f"{reason} ({named}{': ' if how else ''}{how})" if named else reason


def large(counts: Mapping[tuple[str, str], int], rows: Mapping[str, int], share: float = LARGE_SHARE) -> list[dict[str, Any]]:
    """The reasons that reject more than this share of the rows of a source; the largest number of rows first.

    counts: (source, reason) → rejected rows. rows: source → all rows. Rows that a person left out are meant, so they are not listed.
    """
    found = [
        {"source": source, "reason": reason, "rejected": count, "rows": rows[source], "parameters": list(parameters_of(reason))}
        for (source, reason), count in counts.items()
        if count > share * rows[source] and reason != "excluded_by_hand"
    ]
    return sorted(found, key=lambda one: (-one["rejected"], one["source"], one["reason"]))


def sentences(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each entry of `large`, for people."""
    return [
        f"{one['source']}: {one['rejected']:,} of {one['rows']:,} rows ({one['rejected'] / one['rows']:.0%}) are rejected as "
        + (explained(one["reason"]) if one["parameters"] else f"{one['reason']}; no parameter decides this: look at the rows")
        for one in found
    ]
