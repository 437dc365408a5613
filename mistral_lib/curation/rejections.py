"""Which parameter decides a rejection, and whether one reason takes too large a share of a source.

A reason that rejects more than a tenth of a file is seldom meant: a check may not fit this kind of data.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from mistral_lib.run.settings import CHECKS

LARGE_SHARE = 0.1  # of the rows of a source, rejected for one reason
MOST_NAMED = 20  # lines of a report
ALL_SOURCES = "all files"

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
    **dict.fromkeys(("pdf_without_text", "pdf_page_without_text", "pdf_text_unmapped", "picture_without_ocr"), ("ocr",)),
}
HOW = {  # what to do if the rejection is not meant
    "placeholder_text": "0 switches it off",
    "answer_too_short": "a smaller number keeps shorter answers",
    "unknown_shape": "it names the keys of prompt and answer",
    "glued_json": "true reads each object as a row",
    "longer_than_max_tokens": "split keeps them in parts",
}
REPAIR = {  # what to do where no parameter decides
    "archive_member_encrypted": "unpack it with its password", "pdf_encrypted": "save it without its password",
    "sheet_encrypted": "save it without its password", "document_encrypted": "save it without its password",
    "unreadable": "the file is damaged or cut off: copy it again", "truncated_line": "the file is cut off: copy it again",
    "truncated_json": "the file is cut off: copy it again", "unknown_file_type": "convert it to a format that is read, or move it away",
    "python_literal": "write the rows with json.dumps, not with print or str", "html_instead_of_rows": "export the table as CSV, not as a web page",
    "csv_column_count": "export the table with quotes around its cells", "csv_damaged": "export the table with quotes around its cells",
    "not_utf8": "save the file as UTF-8",
}  # fmt: skip


def parameters_of(reason: str) -> tuple[str, ...]:
    """The parameters that decide a rejection; () if only other data would help, as for a damaged row."""
    if reason.startswith("objective_is_"):
        return ("objective",)
    return DECIDED_BY.get(reason, ())


def explained(reason: str) -> str:
    """The reason with its parameters, or with what repairs the rows: `placeholder_text (most_repeated_pattern: 0 switches it off)`."""
    named = " and ".join(parameters_of(reason))
    how = HOW.get(reason) or ("off or flag keeps the rows" if set(parameters_of(reason)) & set(CHECKS) else "")
    if not named:
        return f"{reason} (no parameter decides this: {REPAIR.get(reason, 'look at the rows')})"
    return f"{reason} ({named}{': ' if how else ''}{how})"


def large(by_source: Mapping[tuple[str, str], int], share: float = LARGE_SHARE) -> list[dict[str, Any]]:
    """The reasons that reject more than this share of all rows, then those of one source; the largest number of rows first.

    by_source: (source, reason) → rows, "" for rows that are not rejected. Rows that a person left out are meant, so they are not listed.
    """
    counts, rows = Counter(), Counter()
    for (source, reason), count in by_source.items():
        for name in (ALL_SOURCES, source):
            rows[name] += count
            counts[name, reason] += count
    alone = {ALL_SOURCES} if len(rows) == 2 else set()  # of one source, its own lines say all
    found = [
        {"source": source, "reason": reason, "rejected": count, "rows": rows[source], "parameters": list(parameters_of(reason))}
        for (source, reason), count in counts.items()
        if reason not in ("", "excluded_by_hand") and count > share * rows[source] and source not in alone
    ]
    return sorted(found, key=lambda one: (one["source"] != ALL_SOURCES, -one["rejected"], one["source"], one["reason"]))[:MOST_NAMED]


def sentences(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each entry of `large`, for people."""
    return [
        f"{one['source']}: {one['rejected']:,} of {one['rows']:,} rows ({one['rejected'] / one['rows']:.0%}) are rejected as {explained(one['reason'])}"
        for one in found
    ]
