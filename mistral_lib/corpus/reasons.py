"""Which parameter decides whether rows are rejected for a reason."""

from mistral_lib.run.settings import CHECKS

DECIDED_BY = {
    "answer_too_short": "shortest_answer", "placeholder_text": "most_repeated_pattern", "mostly_html": "html_share",
    "low_letter_share": "letter_share", "low_script_share": "script_share",
    "unknown_shape": "columns", "glued_json": "salvage", "excluded_by_hand": "exclude_file",
    "longer_than_max_tokens": "long_records", "no_supervised_token_within_max_tokens": "long_records",
    "pdf_without_text": "ocr", "pdf_page_without_text": "ocr", "pdf_text_unmapped": "ocr", "picture_without_ocr": "ocr",
}  # fmt: skip
REPAIR = {
    "archive_member_encrypted": "unpack it with its password", "pdf_encrypted": "save it without its password",
    "sheet_encrypted": "save it without its password", "document_encrypted": "save it without its password",
    "unreadable": "the file is damaged or cut off: copy it again", "truncated_line": "the file is cut off: copy it again",
    "truncated_json": "the file is cut off: copy it again", "unknown_file_type": "convert it to a format that is read, or move it away",
    "python_literal": "write the rows with json.dumps, not with print or str", "html_instead_of_rows": "export the table as CSV, not as a web page",
    "csv_column_count": "export the table with quotes around its cells", "csv_damaged": "export the table with quotes around its cells",
    "not_utf8": "save the file as UTF-8",
}  # fmt: skip


def parameter_of(reason: str) -> str:
    """The name of the parameter; "" if none decides it."""
    if reason.startswith("objective_is_"):
        return "objective"
    return DECIDED_BY.get(reason, reason if reason in CHECKS else "")


def remedy(reason: str) -> str:
    """What to do about rows that are rejected for a reason."""
    parameter = parameter_of(reason)
    if parameter and reason in CHECKS and parameter != reason:
        return f"the parameter {parameter} decides it, or {reason}: off"
    if parameter:
        return f"the parameter {parameter} decides it"
    return f"no parameter decides it; {REPAIR.get(reason, 'the file or its rows must be repaired')}"
