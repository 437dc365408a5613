"""A table of texts: nothing is cut off, only numbers are aligned right, and the plain form has the same values."""

from mistral_lib.display.text_table import TextTable

ROWS = [
    {"reason": "near_duplicate", "rows": 1258, "its answer": "a <b> of\nmany words " * 20},
    {"reason": "not_json", "rows": 1, "its answer": ""},
]


def test_no_text_is_cut_and_none_becomes_markup() -> None:
    shown = TextTable(ROWS)._repr_mimebundle_()["text/html"]
    assert shown.count("a &lt;b&gt; of\nmany words") == 20 and "<b>" not in shown and shown.count("<tr>") == 3
    assert ">1,258</td>" in shown and shown.count("text-align:right") == 3, "the header and the cells of the only column of numbers"


def test_its_plain_form_has_every_value_that_is_not_empty() -> None:
    assert TextTable(ROWS).plain().splitlines() == [
        "near_duplicate", "  rows: 1,258", f"  its answer: {('a <b> of many words ' * 20).strip()}", "not_json", "  rows: 1",
    ]  # fmt: skip
    assert TextTable([])._repr_mimebundle_() == {"text/plain": "(none)", "text/html": "<i>none</i>"}
