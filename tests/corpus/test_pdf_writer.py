"""Text written as a PDF is read back, and the bytes depend on the text alone."""

import pytest

from mistral_lib.corpus import pdf_writer
from mistral_lib.formats.pdf_text import pdf_rows


def read_back(text: str) -> list[str]:
    return [row.value["text"] for row in pdf_rows(pdf_writer.document(text), "a.pdf") if row.value]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("One line.\nAnother one.", "One line.\nAnother one."),
        ("It costs $5, and $x_1^2$ is no formula: \\alpha {} %", "It costs $5, and $x_1^2$ is no formula: \\alpha {} %"),
        ("café (naïve) §", "café (naïve) §"),
        ("a → b", "a ? b"),  # not in Latin-1
        ("word " * 20 + "end", "word " * 17 + "\nword word word end"),  # 88 characters a line; the blank at a cut stays
    ],
)
def test_the_text_is_read_back(text: str, found: str) -> None:
    assert read_back(text) == [found]


def test_a_page_has_56_lines() -> None:
    pages = read_back("\n".join(f"line {number}" for number in range(120)))
    assert [page.split("\n")[0] for page in pages] == ["line 0", "line 56", "line 112"]


def test_the_bytes_depend_on_the_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pdf_writer.document("The same text.")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    assert pdf_writer.document("The same text.") == data
    assert b"Date" not in data and b"Matplotlib" not in data
