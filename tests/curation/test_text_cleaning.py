"""Cleaning normalizes texts, changes nothing when repeated, and leaves code as it was."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_lib.curation.text_cleaning import NORMALIZED, UNESCAPED, clean
from tests.support import hostile_text


@pytest.mark.parametrize(
    ("dirty", "expected"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("\ufeffBOM", "BOM"),
        ("zero\u200bwidth\u2060", "zerowidth"),
        ("no\xa0break\u202fblank\u2003wide", "no break blank wide"),
        ("nul\x00 bell\x07 delete\x7f c1\x9f", "nul bell delete c1"),
        ("soft\xadhyphen", "softhyphen"),
        ("line\u2028separator\fpage\x85next", "line\nseparator\npage\nnext"),
        ("cafe\u0301", "caf\xe9"),
        ("trailing  \nblanks\t\nhere  \n\n", "trailing\nblanks\nhere"),
        ("half a character \ud800!", "half a character \ufffd!"),
        ("a\u202eb\u2066c", "abc"),
        ("plain\u200dtext\u200c", "plaintext"),
        ("e\u200d\u0301", "\xe9"),
    ],
)
def test_unwanted_characters_are_removed_or_normalized(dirty, expected):
    assert clean(dirty) == (expected, (NORMALIZED,))


@pytest.mark.parametrize(
    "text",
    [
        "plain", "tab\tinside", "def f(x):\n    if x:\n\n\t\treturn 1\n    return 2", "    indented first line\n  and second", "می‌خواهم", "👩‍👩‍👧 family", "क्‍ष", "中文　缩进", "ﬁ ligatures and ① stay: NFC, not NFKC",
        "", "Ünïcödé is fine",
    ],
)  # fmt: skip
def test_characters_with_a_meaning_stay(text):
    assert clean(text) == (text, ())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"First line.\nSecond line.\n\n- a point", "First line.\nSecond line.\n\n- a point"),
        (r"Use this:\n```python\nimport os\nprint(os.name)\n```\nDone.", "Use this:\n```python\nimport os\nprint(os.name)\n```\nDone."),
        (r"Don't do this.\r\nIt's bad.\r\nReally.", "Don't do this.\nIt's bad.\nReally."),
        (r"One.\nprint('a\nb')\nTwo.", "One.\nprint('a\\nb')\nTwo."),
        (r"Split on `\n` like so:\n1. read\n2. split", "Split on `\\n` like so:\n1. read\n2. split"),
        (r"Q:\nWhat?\nA:\nThat.", "Q:\nWhat?\nA:\nThat."),
        (r'Say "x".\n"Quoted" next.\nEnd', 'Say "x".\n"Quoted" next.\nEnd'),
    ],
)
def test_literal_newlines_become_newlines(text, expected):
    cleaned, repairs = clean(text)
    assert cleaned == expected
    assert UNESCAPED in repairs


@pytest.mark.parametrize(
    "text",
    [
        r'print("a\nb\nc")', r"text.split('\n') or '\n'.join(lines)", r"The escape `\n` differs from `\r\n`.", r"Only one.\nHere", "real\nnewline and\\nliteral\\nones",
        r"open C:\new\notes\names.txt and D:\news\n1", r"where $\nu$ and $\nabla f$ with \neq 0", r"a regex \\n and \\n doubled", r're.sub("\n+", "\n", text)', r"printf('%d\n\n', 3)",
    ],
)  # fmt: skip
def test_literal_newlines_of_code_paths_and_formulas_stay(text):
    assert clean(text) == (text, ())


@pytest.mark.parametrize(
    "text",
    [
        r"In C, printf uses \n for a newline and \t for a tab; on Windows \r\n is used.", r"Unix ends lines with \n, old Mac with \r and Windows with \r\n.", r"The pattern [^\n]* stops at \n, and \s matches \n as well.",
        r"Split at \n\n to get paragraphs, then at \n to get lines.", r"In JSON a line break is written as \n and a tab as \t, so \n may not appear raw.", r"A string with A\nB and C\nD shows two escaped newlines.",
        r"正则表达式中 \n 表示换行，\r\n 表示回车换行。", r"Use \n or \r\n, whichever the file has.", r"Both (\n) and (\r\n) count.",
    ],
)  # fmt: skip
def test_literal_newlines_of_which_a_text_speaks_stay(text):
    assert clean(text) == (text, ())


@pytest.mark.parametrize(
    "text",
    [r"Line one. \n Line two. \n Line three.", r"Steps:\n1. open\n2. newline handling\n3. close\n4. done\n5. end", r"def f():\n\treturn 1\n\nprint(f())", r"Hello Anna,\n\nthanks for your mail.\n\nBest\nBob"],
)  # fmt: skip
def test_a_text_that_was_escaped_once_too_often_is_repaired(text):
    assert UNESCAPED in clean(text)[1] and r"\n" not in clean(text)[0]


def test_unescaping_can_be_switched_off():
    assert clean(r"One.\nTwo.\nThree.", unescape=False) == (r"One.\nTwo.\nThree.", ())


AWKWARD = st.text(alphabet="aé\u0301\u200c\u200d\u212a\u2000\xa0 \t\n\r\\n`'\"\ufeff\ud800\u200bC:$ubl.", max_size=40)


@settings(max_examples=200)
@given(st.text() | AWKWARD)
def test_cleaning_twice_changes_nothing(text):
    once, _ = clean(text)
    assert clean(once) == (once, ())


@settings(max_examples=200)
@given(st.text() | AWKWARD)
def test_a_cleaned_text_is_nfc_and_can_be_encoded(text):
    cleaned, repairs = clean(text)
    assert unicodedata.is_normalized("NFC", cleaned)
    cleaned.encode()
    assert "\r" not in cleaned and "\x00" not in cleaned and not any(line.endswith((" ", "\t")) for line in cleaned.split("\n"))
    assert bool(repairs) == (cleaned != text)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 12), st.text(alphabet="abc=()+: ", min_size=1).map(str.strip).filter(bool)), min_size=1))
def test_indentation_survives(lines):
    code = "\n".join(" " * depth + line for depth, line in lines)
    assert clean(code.replace("\n", " \r\n"))[0] == code


@pytest.mark.parametrize(
    "piece",
    [
        " ",
        "\t",
        "\u200d",
        "\u200d\u0301",
        "e\u200d\u0301",
        "\\n",
        "\\n'",
        '"',
        "'a",
        "`",
        "``",
        "C:\\",
        "a\\n ",
        "\r",
        "\x00",
        " \n",
        "\u0301",
        "é \u212a\u200d",
    ],
)
def test_hostile_text_takes_no_more_than_linear_time(piece):
    text = "a" + hostile_text.repeated(piece) + "b"
    with hostile_text.no_more_than_linear_time():
        clean(text)
