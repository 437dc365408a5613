"""Files as people really have them: each kind of oddity gives the right rows, and what is lost is named with its extent."""

import bz2
import csv
import gzip
import io
import json
import os
import random
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistral_lib.corpus import sources
from mistral_lib.corpus.file_domains import file_domain
from mistral_lib.corpus.source_files import OWN_RESULTS
from mistral_lib.corpus.sources import Row, SourceError, SourceFile
from mistral_lib.curation import rejections
from tests.support import office
from tests.support.containers import arrow, cells, compressed, json_lines, parquet, table, tarred, zipped

WORDS = ("lantern", "harbor", "quilt", "meadow", "signal", "oxygen", "pepper", "garden", "violin", "castle", "thunder", "ribbon")


def sentence(dice: random.Random) -> str:
    return " ".join(dice.choices(WORDS, k=12)).capitalize() + "."


def pairs(count: int, seed: int = 1) -> list[dict[str, str]]:
    dice = random.Random(seed)
    return [{"prompt": f"How does the {sentence(dice)[:-1].lower()}?", "completion": f"{sentence(dice)} {n}"} for n in range(count)]


PAIRS = pairs(4)
LINES = json_lines(PAIRS)
SPECIAL = [
    {"prompt": "Was heißt das Wort für Übung?", "completion": f"Es heißt natürlich “schön geübt” – número {n}, café."} for n in range(4)
]
KANA = [{"prompt": "これは質問ですか。", "completion": f"日本語の文章です。質問に答えてください。{n}"} for n in range(4)]
CHINESE = [{"prompt": "这是一个问题吗？", "completion": f"这是一个很长的回答，请你详细阅读它，并且给出例子。{n}"} for n in range(4)]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., list[Row]]:
    def rows(name: str, data: bytes, **options) -> list[Row]:
        path = tmp_path / Path(name).name
        path.write_bytes(data)
        return list(sources.rows(SourceFile(path, name, "corpus"), **{"salvage": True, **options}))

    return rows


def values(found: list[Row]) -> list:
    return [row.value for row in found if row.problem is None]


def problems(found: list[Row]) -> dict[str, int]:
    """Lost rows by reason."""
    lost: Counter = Counter()
    for row in found:
        if row.problem:
            lost[row.problem] += row.records
    return dict(lost)


def dumped(value: object, **options) -> bytes:
    return json.dumps(value, ensure_ascii=False, **options).encode()


# -- 17, 19: JSON that is not one object a line ----------------------------------------------------------------------------

CHATS = [{"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]} for row in PAIRS]
PRETTY = b"\n".join(dumped(row, indent=4) for row in PAIRS)
# name of the file, content → the rows
JSON_FILES = {
    "objects of several lines": ("a.jsonl", PRETTY, PAIRS),
    "chats of several lines": ("a.jsonl", b"\n".join(dumped(row, indent=4) for row in CHATS), CHATS),
    "one object of several lines": ("a.jsonl", dumped(PAIRS[0], indent=2), PAIRS[:1]),
    "an array on one line": ("a.jsonl", dumped(PAIRS), PAIRS),
    "an array of several lines": ("a.jsonl", dumped(PAIRS, indent=2), PAIRS),
    "an array, one row a line": ("a.jsonl", b"[\n" + b",\n".join(map(dumped, PAIRS)) + b"\n]\n", PAIRS),
    "lines that end with a comma": ("a.jsonl", b",\n".join(map(dumped, PAIRS)) + b"\n", PAIRS),
    "an object of several lines between lines": ("a.jsonl", dumped(PAIRS[0]) + b"\n" + dumped(PAIRS[1], indent=1) + b"\n" + dumped(PAIRS[2]), PAIRS[:3]),
    "line breaks inside strings": ("a.jsonl", b'{"prompt": "a", "completion": "one\ntwo"}\n{"prompt": "b", "completion": "c"}\n',
                                   [{"prompt": "a", "completion": "one\ntwo"}, {"prompt": "b", "completion": "c"}]),
    "control characters": ("a.jsonl", b'{"text": "a\tb"}\n', [{"text": "a\tb"}]),
    "only carriage returns": ("a.jsonl", LINES.replace(b"\n", b"\r"), PAIRS),
    "a byte order mark on each line": ("a.jsonl", b"".join(b"\xef\xbb\xbf" + line for line in LINES.splitlines(True)), PAIRS),
    "encoded twice": ("a.jsonl", b"".join(dumped(dumped(row).decode()) + b"\n" for row in PAIRS), PAIRS),
    "events of a server": ("a.jsonl", b"".join(b"data: " + line for line in LINES.splitlines(True)), PAIRS),
    "NaN and Infinity": ("a.jsonl", b'{"prompt": "a", "input": NaN, "score": -Infinity}\n', [{"prompt": "a", "input": None, "score": None}]),
    "NaN in an array": ("a.json", b'[{"text": "a", "x": NaN}]', [{"text": "a", "x": None}]),
    "joined arrays": ("a.json", dumped(PAIRS[:1]) + b"\n" + dumped(PAIRS[1:]), PAIRS),
    "joined arrays of several lines": ("a.jsonl", dumped(PAIRS[:1], indent=1) + dumped(PAIRS[1:2], indent=1) + b"\n" + dumped(PAIRS[2:], indent=1), PAIRS),
    "an array a line": ("a.jsonl", dumped(PAIRS[:1]) + b"\n" + dumped(PAIRS[1:]) + b"\n", PAIRS),
    "an array in a text": ("a.txt", dumped(PAIRS, indent=1), PAIRS),
    "a long array in a text": ("a.md", dumped(PAIRS * 300), PAIRS * 300),
    "objects of several lines in a text": ("a.txt", PRETTY, PAIRS),
    "comments in an array": ("a.json", b'[\n// one\n{"text": "a"},\n# two\n{"text": "b"} /* three */\n]', [{"text": "a"}, {"text": "b"}]),
}  # fmt: skip


@pytest.mark.parametrize("case", JSON_FILES)
def test_json_in_every_form_gives_its_rows(read, case):
    name, data, expected = JSON_FILES[case]
    found = read(name, data)
    assert values(found) == expected and problems(found) == {}
    assert len({row.source for row in found}) == len(found)


def test_what_follows_an_array_is_named(read):
    found = read("a.json", dumped(PAIRS) + b"\n" + dumped(PAIRS[0]) + b"\n")
    assert values(found) == PAIRS and problems(found) == {"not_json": 1}


@pytest.mark.parametrize("text", ["[a link](page.md) and [another]", "{braces} in a text", "[1] A reference.", '["a", "b"] is a list.'])
def test_a_text_that_begins_with_a_bracket_is_a_text(read, text):
    assert values(read("a.md", text.encode())) == [{"text": text}]


@pytest.mark.parametrize(
    ("line", "reason"),
    [(b"{'prompt': 'a', 'completion': None}", "python_literal"), (b'{"text": "a", "b": None}', "python_literal"), (b"// made by hand", "json_comment"),
     (b"<html><body></body></html>", "html_instead_of_rows"), (b'{"text": "C:\\data"}', "not_json")],
)  # fmt: skip
def test_what_is_no_json_has_a_reason_and_costs_itself(read, line, reason):
    found = read("a.jsonl", LINES + line + b"\n" + LINES)
    assert values(found) == PAIRS * 2 and problems(found) == {reason: 1}


def test_a_damaged_object_of_several_lines_is_one_loss(read):
    damaged = PRETTY.replace(b'"completion": "', b'"completion": ', 1)
    found = read("a.jsonl", damaged)
    assert values(found) == PAIRS[1:] and problems(found) == {"not_json": 1}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_that_is_cut_off_gives_its_elements_and_names_the_loss(read, name, indent):
    rows = pairs(40)
    data = dumped(rows, indent=indent)
    found = read(name, data[: len(data) * 3 // 4])
    kept = values(found)
    assert kept == rows[: len(kept)] and 28 <= len(kept) <= 30
    assert len(problems(found)) == 1 and list(problems(found).values()) == [1]


def test_a_damaged_element_of_an_array_costs_itself(read):
    rows = pairs(6)
    data = b"[\n" + b",\n".join(map(dumped, rows)) + b"\n]"
    found = read("a.json", data.replace(b'"prompt"', b'"prompt', 3).replace(b'"prompt', b'"prompt"', 2).replace(b'""', b'"'))
    assert len(values(found)) == 5 and problems(found) == {"not_json": 1}


# -- 20: encodings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "codec", "named"),
    [(PAIRS, "utf-16", "utf-16-le"), (PAIRS, "utf-16-le", "utf-16-le"), (SPECIAL, "utf-16-be", "utf-16-be"), (PAIRS, "utf-32", "utf-32-le"),
     (SPECIAL, "cp1252", "cp1252"), (KANA, "cp932", "cp932"), (KANA, "euc_jp", "euc_jp"), (CHINESE, "gb18030", "gb18030"), (SPECIAL, "utf-8", "")],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt"])
def test_every_encoding_is_decoded_and_named(read, name, rows, codec, named):
    text = {"a.jsonl": json_lines(rows), "a.json": dumped(rows), "a.csv": table(rows), "a.txt": rows[0]["completion"].encode() * 20}[
        name
    ].decode()
    found = read(name, text.encode(codec))
    assert values(found) == (rows if name != "a.txt" else [{"text": text}]) and problems(found) == {}
    assert {row.encoding for row in found} == {named}


WORDS_OF = {  # encoding → sentences, each of which shows it
    "cp1252": ("It is 20°C outside", "It is 5µm wide", "Vive en el 3ºB, señor, 1ªplanta", "Il fait 20°C à l'école en été", "La col·lecció és meva",
               "Acme®Pro and Foo™ 3×4 cm ±2", "a±b für 5m² Käse", "As opiniões são boas, avós", "Õpilane õpib, ööülikool", "Don’t “ask” – wait…what",
               "Når øllet er på bordet, æder Škoda", "È così che la città è bella"),
    "cp1250": ("A nő a főtéren ül és hűs vizet iszik", "Őrült tűzön fő az étel", "Tko je čovjek? Čovjek će doći kući", "Človek je hiša, žena, šola",
               "Příliš žluťoučký kůň úpěl", "Stolicą są Łódź i Kraków, gęś śpi", "Casa frumoasă, ţara în care trăieşte"),
    "iso8859_2": ("Příliš žluťoučký kůň úpěl", "Stolicą są Łódź i Kraków, gęś źle śpi"),
    "cp1254": ("Başkent güzel bir şehir ığdır",),
    "iso2022_jp": ("日本の首都はどこですか。",),
}  # fmt: skip


@pytest.mark.parametrize(("codec", "words"), [(codec, words) for codec, listed in WORDS_OF.items() for words in listed])
def test_letters_of_europe_are_decoded(read, codec, words):
    text = "".join(f"{words} {n}.\n" for n in range(20))
    (row,) = read("a.txt", text.encode(codec))
    assert row.value == {"text": text} and row.encoding == codec


@pytest.mark.parametrize("codec", ["mac_roman", "cp850", "cp866"])
def test_an_encoding_that_is_not_known_is_refused(read, codec):
    words = "Какая столица этой страны" if codec == "cp866" else "Quelle est la température à l'école en été"
    assert problems(read("a.txt", f"{words}\n".encode(codec) * 20)) == {"not_utf8": 1}


@pytest.mark.parametrize("codec", ["iso-8859-1", "utf-16", "shift_jis"])
def test_a_web_page_is_decoded(read, codec):
    words = "日本の首都はどこですか。東京です。" if codec == "shift_jis" else "Café à la crème"
    (row,) = read("a.html", f"<html><head><meta charset='{codec}'></head><body><p>{words}</p></body></html>".encode(codec))
    assert row.value == {"text": words} and row.encoding


def test_one_damaged_line_of_a_file_in_utf8_costs_itself(read):
    found = read("a.jsonl", json_lines(SPECIAL) + b'{"text": "caf\xe9"}\n' + json_lines(SPECIAL))
    assert values(found) == SPECIAL * 2 and problems(found) == {"not_utf8": 1} and not found[0].encoding


def test_a_late_letter_in_another_encoding_is_decoded_as_well(read):
    lines = json_lines(pairs(3000)) + '{"text": "Ein schöner Käse für alle."}\n'.encode("cp1252")
    assert len(lines) > 512 * 1024
    assert values(read("a.jsonl", lines))[-1] == {"text": "Ein schöner Käse für alle."}


def test_zero_bytes_in_a_text_are_a_problem(read):
    assert problems(read("a.txt", b"abc\0def and some words more")) == {"nul_bytes": 1}


# -- 21: containers --------------------------------------------------------------------------------------------------------

COLUMNS = {key: [row[key] for row in PAIRS] for key in PAIRS[0]}
CONTAINERS = {
    "splits": {"train": PAIRS[:3], "test": PAIRS[3:]},
    "a wrapper": {"version": 1, "data": PAIRS},
    "a wrapper in a wrapper": {"dataset": {"rows": PAIRS}},
    "an unknown wrapper": {"questions": PAIRS},
    "a wrapper with a description": {"content": "about this file", "data": PAIRS},
    "the hub's viewer": {"features": [], "rows": [{"row_idx": n, "row": row, "truncated_cells": []} for n, row in enumerate(PAIRS)]},
    "pandas split": {"columns": list(COLUMNS), "index": [0, 1, 2, 3], "data": [list(row.values()) for row in PAIRS]},
    "pandas index": {str(n): row for n, row in enumerate(PAIRS)},
    "pandas columns": {key: {str(n): cell for n, cell in enumerate(column)} for key, column in COLUMNS.items()},
    "parallel lists": COLUMNS,
}
ONE_ROW = {
    "a chat": CHATS[0],
    "a pair with documents": {**PAIRS[0], "documents": [{"text": "one"}, {"text": "two"}]},
    "a preference of chats": {"chosen": CHATS[0]["messages"], "rejected": CHATS[1]["messages"]},
}


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("case", CONTAINERS)
def test_a_container_gives_its_rows(read, name, case):
    assert values(read(name, dumped(CONTAINERS[case]))) == PAIRS


@pytest.mark.parametrize("case", ONE_ROW)
def test_a_row_with_lists_in_it_stays_whole(read, case):
    assert values(read("a.json", dumped(ONE_ROW[case], indent=1))) == [ONE_ROW[case]]


def test_rows_by_their_names_may_have_optional_keys(read):
    rows = [{**PAIRS[0], "hint": "x"}, *PAIRS[1:]]
    assert values(read("a.json", dumped({f"q{n}": row for n, row in enumerate(rows)}))) == rows
    for one in ({"chosen": PAIRS[0], "rejected": {**PAIRS[1], "score": 1}}, {"chosen": PAIRS[0], "rejected": PAIRS[1]}):
        assert values(read("a.json", dumped(one))) == [one]


SHARED = {
    "a system text": {"system": "Be kind.", "examples": PAIRS},
    "tools": {"tools": [{"name": "rate", "parameters": {}}], "data": PAIRS},
    "a definition": {"Definition": ["Say", "it."], "Instances": PAIRS},
}


@pytest.mark.parametrize("case", SHARED)
def test_what_stands_beside_the_rows_is_given_to_each(read, case):
    (key, shared), _ = SHARED[case].items()
    name, cell = ("system", "Say\nit.") if key == "Definition" else (key, shared)
    assert values(read("a.json", dumped(SHARED[case]))) == [{name: cell, **row} for row in PAIRS]
    own = {**SHARED[case], next(reversed(SHARED[case])): [{**PAIRS[0], name: "own"}]}
    assert values(read("a.json", dumped(own))) == [{**PAIRS[0], name: "own"}]


def test_a_definition_is_the_question_of_a_row_that_has_only_an_input(read):
    rows = [{"input": "Great", "output": ["POS"]}]
    assert values(read("a.json", dumped({"Definition": ["Say it."], "Instances": rows}))) == [{"instruction": "Say it.", **rows[0]}]


def test_records_of_a_list_that_is_not_taken_are_rows_of_no_known_shape(read):
    found = values(read("a.json", dumped({"results": PAIRS[:2], "failures": PAIRS[2:], "people": [{"name": "x"}]})))
    assert found == [*PAIRS[:2], {"failures": PAIRS[2]}, {"failures": PAIRS[3]}]


def test_mails_and_people_are_no_chat(read):
    for rows in (
        [{"from": f"p{n}", "subject": "s", "content": f"Mail {n}"} for n in range(5)],
        [{"role": "Engineer", "content": f"{n}"} for n in range(5)],
    ):
        assert values(read("a.json", dumped(rows))) == rows


def test_what_is_no_object_in_a_wrapper_costs_itself(read):
    assert values(read("a.json", dumped({"data": [PAIRS[0], "oops", PAIRS[1]]}))) == [PAIRS[0], "oops", PAIRS[1]]


def test_a_list_of_turns_is_one_chat(read):
    turns = CHATS[0]["messages"]
    assert values(read("a.json", dumped(turns))) == [CHATS[0]]
    assert values(read("a.json", dumped([turns, turns]))) == [CHATS[0], CHATS[0]]
    assert values(read("a.jsonl", dumped(turns) + b"\n" + dumped(turns) + b"\n")) == [CHATS[0], CHATS[0]]


# -- 22: CSV ---------------------------------------------------------------------------------------------------------------


def made(rows: list[dict], head: str = "", **options) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, **{"lineterminator": "\n", **options})
    writer.writerows(cells(rows))
    return (head + text.getvalue()).encode()


COMMAS = [{"prompt": row["prompt"], "completion": f"{row['completion']}, with commas; 0,5"} for row in PAIRS]
BREAKS = [{"prompt": row["prompt"], "completion": f"One,\n\ntwo.\n{row['completion']}"} for row in PAIRS]
QUOTES = [{"prompt": row["prompt"], "completion": f'He said "yes" {n}'} for n, row in enumerate(PAIRS)]
DIALECTS = {
    "commas": (made(COMMAS), COMMAS),
    "semicolons": (made(COMMAS, delimiter=";"), COMMAS),
    "semicolons and numbers with a comma": (made([{**row, "score": "0,5"} for row in PAIRS], delimiter=";"), [{**row, "score": "0,5"} for row in PAIRS]),
    "a comma in the name of a column": (made([{"as asked, by people": "x", **row} for row in PAIRS], delimiter=";"), [{"as asked, by people": "x", **row} for row in PAIRS]),
    "tabs": (made(PAIRS, delimiter="\t"), PAIRS),
    "pipes": (made(PAIRS, delimiter="|"), PAIRS),
    "carets": (made(PAIRS, delimiter="^"), PAIRS),
    "a line sep=": (made(COMMAS, "sep=;\n", delimiter=";"), COMMAS),
    "a title and a blank line": (made(PAIRS, "Export of 2024-05-01\n\n"), PAIRS),
    "comments": (made(PAIRS, "# made, by hand\n# twice\n"), PAIRS),
    "blank lines first": (made(PAIRS, "\n\n"), PAIRS),
    "a comma after the header": (made(PAIRS).replace(b"completion\n", b"completion,\n"), PAIRS),
    "a comma after each row": (made(PAIRS).replace(b"\n", b",\n").replace(b"completion,", b"completion"), PAIRS),
    "columns of padding": (made(PAIRS).replace(b"\n", b",,,\n"), PAIRS),
    "blanks before quotes": (made(COMMAS, quoting=csv.QUOTE_ALL).replace(b'","', b'", "'), COMMAS),
    "quotes written with a backslash": (made(QUOTES, quoting=csv.QUOTE_ALL).replace(b'""', b'\\"'), QUOTES),
    "single quotes": (made(COMMAS, quotechar="'", quoting=csv.QUOTE_ALL), COMMAS),
    "line breaks in cells": (made(BREAKS), BREAKS),
    "carriage returns": (made(PAIRS, lineterminator="\r"), PAIRS),
    "pipes and as many commas in each row": (b"prompt|completion\nselect a, b from t|1, 2\nselect c, d from t|3, 4\n",
                                             [{"prompt": "select a, b from t", "completion": "1, 2"}, {"prompt": "select c, d from t", "completion": "3, 4"}]),
    "semicolons and as many commas in each row": (b"prompt;completion\nOne, two;three, four\nFive, six;seven, eight\n",
                                                  [{"prompt": "One, two", "completion": "three, four"}, {"prompt": "Five, six", "completion": "seven, eight"}]),
    "a title with the commas of the table": (b"Export of FAQ,,\n,,\nquestion,answer,lang\nQ1,A1,en\nQ2,A2,de\n",
                                             [{"question": "Q1", "answer": "A1", "lang": "en"}, {"question": "Q2", "answer": "A2", "lang": "de"}]),
    "cells that are longer than the sample": (made([{"topic": row["prompt"], "doc": "A line, of it.\n" * 100, "result": "yes"} for row in PAIRS]),
                                              [{"topic": row["prompt"], "doc": "A line, of it.\n" * 100, "result": "yes"} for row in PAIRS]),
    "a header that is repeated": (b"prompt,completion\na,b\nprompt,completion\n", [{"prompt": "a", "completion": "b"}, {"prompt": "prompt", "completion": "completion"}]),
    "one column with commas": (("text\n" + "\n".join(row["completion"] for row in COMMAS)).encode(), [{"text": row["completion"]} for row in COMMAS]),
}  # fmt: skip


@pytest.mark.parametrize("case", DIALECTS)
def test_a_csv_of_every_dialect_gives_its_rows(read, case):
    data, expected = DIALECTS[case]
    found = read("a.csv", data)
    assert values(found) == expected and problems(found) == {}


def test_quotes_in_a_table_with_tabs_are_letters(read):
    data = b'prompt\tcompletion\na\t"Hello" she said\nb\t"Never closed\nc\td\n'
    assert [row["completion"] for row in values(read("a.tsv", data))] == ['"Hello" she said', '"Never closed', "d"]


@pytest.mark.parametrize("before", [0, 200])
def test_stray_quotes_in_a_table_with_tabs_join_no_rows(read, before):
    rows = [*((f"row {n}", "1") for n in range(before)), ('"He left.', "1"), ("She stayed.", "0"), ('He said go."', "0"), ("The end.", "1")]
    found = read("a.tsv", b"text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows).encode())
    assert values(found) == [{"text": text, "label": label} for text, label in rows]


def test_quotes_inside_quoted_cells_are_kept(read):
    data = b'prompt,completion\n"a 5" pipe","long, and good"\n"b","c"\n"d","e"\n'
    assert values(read("a.csv", data))[0] == {"prompt": 'a 5" pipe', "completion": "long, and good"}


def test_an_open_quote_costs_its_row(read):
    lines = made(pairs(12), quoting=csv.QUOTE_ALL).splitlines(True)
    lines[3] = lines[3].rstrip(b'"\n') + b"\n"
    found = read("a.csv", b"".join(lines))
    assert len(values(found)) == 11 and problems(found) == {"csv_damaged": 1}


def test_rows_with_too_few_or_too_many_cells_cost_themselves(read):
    found = read("a.csv", made(PAIRS) + b"only one\na,b,c\n" + made(pairs(9))[18:])
    assert len(values(found)) == 13 and problems(found) == {"csv_column_count": 2}


def test_a_csv_without_a_header_loses_no_row(read):
    found = read("a.csv", made(PAIRS)[18:])
    assert values(found) == [{"column_1": row["prompt"], "column_2": row["completion"]} for row in PAIRS]


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.tsv", "\t")])
def test_a_cell_that_stands_again_below_is_no_name(read, name, mark):
    rows = [("good", "I liked it"), ("bad", "It was dull"), ("good", "Very nice"), ("bad", "I fell asleep")]
    found = read(name, "".join(f"{one}{mark}{two}\n" for one, two in rows).encode())
    assert values(found) == [{"column_1": one, "column_2": two} for one, two in rows]


def test_a_refused_table_weighs_all_its_rows(read):
    found = read("a.csv", b'"prompt,completion\n' + b"never,read\n" * 2000)
    assert not values(found) and 1900 < sum(problems(found).values()) < 2100
    assert problems(read("a.csv", b"<html><table>" + b"<tr><td>a</td></tr>\n" * 51 + b"</table></html>")) == {"html_instead_of_rows": 50}


# -- 23, 25, 26: other formats and names -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.xlsx", "a.csv", "a.jsonl", "a.txt", "a.zip"])
def test_a_workbook_is_read_whatever_its_name_is(read, name):
    assert values(read(name, office.xlsx(cells(PAIRS)))) == PAIRS


def test_sheets_are_tables_of_their_own_and_numbers_are_whole(read):
    book = office.xlsx([["Export"], [], ["prompt", "number"], ["a", 3], ["b", 2.5]], [["text"], ["one"]], [])
    found = read("a.xlsx", book)
    assert values(found) == [{"prompt": "a", "number": 3}, {"prompt": "b", "number": 2.5}, {"text": "one"}]
    assert [row.source for row in found] == ["a.xlsx:1:4", "a.xlsx:1:5", "a.xlsx:2:2"]


DOCUMENTS = {
    "a.docx": office.docx("One paragraph.", "Another one."),
    "a.pptx": office.pptx("One paragraph.", "Another one."),
    "a.odt": office.odt("One paragraph.", "Another one."),
    "a.rtf": office.rtf("One paragraph.", "Another one."),
    "a.epub": office.epub(("First", "One paragraph."), ("Second", "Another one.")),
    "a.html": office.html("First", "One paragraph. Another one."),
    "a.eml": office.eml("First", "One paragraph. Another one."),
    "a.md": b"<!DOCTYPE html><html><head><style>p {}</style></head><body><p>One paragraph.</p><p>Another one.</p></body></html>",
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_text_of_a_document_is_read(read, name):
    (row,) = read(name, DOCUMENTS[name])
    text = row.value["text"]
    assert text.index("One paragraph.") < text.index("Another one.")
    assert not any(sign in text for sign in ("<", "var a", "example.org", "Menu", "\\par"))
    (damaged,) = read(name, DOCUMENTS[name][:40]) if name.endswith(("docx", "pptx", "odt", "epub")) else [row]
    assert damaged.problem == ("unreadable_document" if damaged is not row else None)


@pytest.mark.parametrize(
    "name", ["a.jsonlines", "a.jl", "a.ndjson", "a.JSONL", "rows.txt", "rows.jsonl.txt", "part-00002", "a.bak", "a.jsonl.xz", "a.jsonl.lz4"]
)
def test_rows_of_json_are_read_under_every_name(read, name):
    codec = {"xz": "xz", "z4": "lz4"}.get(name[-2:])
    assert values(read(name, compressed(LINES, codec) if codec else LINES)) == PAIRS


@pytest.mark.parametrize("name", ["a.text", "a.markdown", "a.rst", "a.txt"])
def test_texts_have_many_names(read, name):
    assert values(read(name, b"A text\nof two lines.")) == [{"text": "A text\nof two lines."}]


def test_values_of_every_parquet_type_can_be_written_as_json(read):
    import datetime
    import decimal

    table_of_types = pa.table({
        "text": ["a"], "large": pa.array(["b"], pa.large_string()), "date": [datetime.date(2024, 5, 1)],
        "time": [datetime.datetime(2024, 5, 1, 2, 3)], "price": [decimal.Decimal("1.50")], "bytes": [b"word"], "raw": [b"\xff\xfe"],
        "map": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), "category": pa.array(["c"]).dictionary_encode(),
        "nan": [float("nan")], "turns": [[{"role": "user", "content": "hello"}]], "nothing": pa.nulls(1),
    })  # fmt: skip
    sink = io.BytesIO()
    pq.write_table(table_of_types, sink)
    (row,) = read("a.parquet", sink.getvalue())
    assert row.value == {
        "text": "a", "large": "b", "date": "2024-05-01", "time": "2024-05-01T02:03:00", "price": "1.50", "bytes": "word", "raw": None,
        "map": {"k": 1}, "category": "c", "nan": None, "turns": [{"role": "user", "content": "hello"}], "nothing": None,
    }  # fmt: skip
    assert json.dumps(row.value)


def test_an_arrow_file_and_a_stream_of_batches_are_read(read):
    rows = pairs(1200)
    assert values(read("a.arrow", arrow(rows))) == rows
    sink, made_table = io.BytesIO(), pa.Table.from_pylist(rows)
    with pa.ipc.new_file(sink, made_table.schema) as writer:
        writer.write_table(made_table)
    assert values(read("a.feather", sink.getvalue())) == rows
    cut = read("a.arrow", arrow(rows)[:-2000])
    assert problems(cut).keys() == {"unreadable"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MISTRAL_WORKBOOK_HOME", str(tmp_path))
    return tmp_path


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


class Chosen:
    """The parameters of a run that say what is read."""

    def __init__(self, *corpus_paths: str, **changes: object) -> None:
        self.corpus_paths, self.operatives_paths, self.columns, self.ocr = list(corpus_paths), [], {}, False
        self.salvage, self.pdf_characters = True, 0
        self.__dict__.update(changes)


def resolved(*paths: str, **changes: object) -> tuple[list[str], dict[str, int]]:
    found = sources.resolve(Chosen(*paths, **changes))
    return [file.name for file in found.files], dict(found.left_out)


CARD = b"---\nlicense: mit\nconfigs:\n- config_name: default\n---\n# Dataset card\n\nAbout it.\n"


def test_a_snapshot_of_the_hub_is_its_data_files(home):
    files = {"README.md": CARD, "LICENSE": b"MIT", ".gitattributes": b"x", "data/train-00000-of-00002.parquet": parquet(PAIRS),
             "data/train-00001-of-00002.parquet": parquet(pairs(4, 2)), "_SUCCESS": b"", ".part.crc": b"x", "notes/README.md": b"# Notes\n\nReal words."}  # fmt: skip
    write(home / "mine" / "snapshot", files)
    names, left_out = resolved("mine")
    assert names == [
        f"snapshot/{name}" for name in ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "notes/README.md")
    ]
    assert left_out == {"data-set cards": 1, "licenses and markers of other tools": 2, "hidden files": 1, "system files": 1}
    assert {file_domain(f"{name}:1") for name in names[:2]} == {"snapshot"}


def test_a_data_set_that_was_saved_to_disk_is_its_tables(home):
    stored = dumped({"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": "train"})
    files = {"dataset_dict.json": dumped({"splits": ["train"]}), "train/state.json": stored, "train/dataset_info.json": dumped({"features": {}}),
             "train/data-00000-of-00001.arrow": arrow(PAIRS), "train/cache-1a2b.arrow": arrow(PAIRS)}  # fmt: skip
    write(home / "mine" / "own_set", files)
    names, left_out = resolved("mine")
    assert names == ["own_set/train/data-00000-of-00001.arrow"]
    assert left_out == {"data-set cards": 3, "cache files of the library datasets": 1}
    assert file_domain(f"{names[0]}:1") == "own_set"


@pytest.mark.parametrize(
    ("source", "domain"),
    [("law-00001-of-00007.parquet:3", "law"), ("law/train-00001-of-00007.jsonl.gz:3", "law"), ("law/part-00000-9a1f.c000.json:2", "law"),
     ("law/lang=en/part-00000-1f2e.c000.snappy.parquet:3", "law"), ("train-00000-of-00001.parquet:1", "train"), ("report-2024.jsonl:1", "report-2024"),
     ("v1.2.jsonl:1", "v1.2"), ("notes/a.docx", "notes"), ("a.html", "texts"), ("law/page.epub", "law")],
)  # fmt: skip
def test_shards_are_one_domain(source, domain):
    assert file_domain(source) == domain


def test_a_personal_file_name_does_not_become_a_domain():
    address = "karin.oldenbroek" + "@" + "firma-weber.de"
    for source in (f"{address}.jsonl:1", f"mails/{address}.jsonl:1", f"{address}/a.txt", f"{address}.zip!a.jsonl:2"):
        assert "oldenbroek" not in file_domain(source) and file_domain(source)
    assert file_domain(f"mails/{address}.jsonl:1") == "mails"


# -- 28, 29, 33, 43: archives and what is damaged in them ------------------------------------------------------------------


def test_a_zip_without_its_end_gives_the_members_before_it(read):
    members = {f"{n}.jsonl": json_lines(pairs(200, n)) for n in range(5)}
    data = zipped(members)
    found = read("a.zip", data[: len(data) // 2])
    whole = [row for n in range(5) for row in pairs(200, n)]
    kept = values(found)
    assert 400 <= len(kept) < 600 and kept == whole[: len(kept)] and problems(found).keys() == {"unreadable"}


def test_a_damaged_member_of_a_zip_keeps_what_lay_before_and_names_how_much_is_lost(read):
    data = bytearray(zipped({"a.jsonl": json_lines(pairs(2000)), "b.jsonl": LINES}))
    data[len(data) // 2 : len(data) // 2 + 40] = b"\xff" * 40
    found = read("a.zip", bytes(data))
    kept = [row for row in found if row.source.startswith("a.zip!a.jsonl") and not row.problem]
    assert len(kept) > 700 and [row.value for row in kept][:700] == pairs(2000)[:700]
    assert [row.value for row in found if row.source.startswith("a.zip!b.jsonl")] == PAIRS
    assert sum(problems(found).values()) > 500


@pytest.mark.parametrize("codec", ["gzip", "bz2", "xz"])
def test_a_compressed_file_that_is_cut_off_gives_its_lines_and_names_the_loss(read, codec):
    rows = pairs(8000)
    data = compressed(json_lines(rows), codec)
    found = read("a.jsonl." + {"gzip": "gz"}.get(codec, codec), data[: len(data) * 9 // 10])
    kept = values(found)
    assert kept == rows[: len(kept)] and problems(found).keys() == {"unreadable"}
    if codec == "gzip":
        assert len(kept) > 7000
    if codec == "bz2":  # whole blocks only; this file has two
        plain = bz2.BZ2Decompressor().decompress(data[: len(data) * 9 // 10])
        assert len(kept) == plain.count(b"\n") and problems(found)["unreadable"] > 100


def test_zeros_after_a_gzip_are_harmless_and_anything_else_is_named(read):
    data = gzip.compress(LINES, mtime=0)
    assert problems(read("a.jsonl.gz", data + bytes(5000))) == {} and values(read("a.jsonl.gz", data + data)) == PAIRS * 2
    found = read("a.jsonl.gz", data + b"garbage")
    assert values(found) == PAIRS and problems(found) == {"unreadable": 1}
    found = read("a.jsonl.bz2", bz2.compress(LINES) + b"garbage")
    assert values(found) == PAIRS and problems(found) == {"unreadable": 1}


def test_no_row_of_a_gzip_with_a_wrong_checksum_is_altered(read):
    rows, cut = pairs(4000), 0
    whole = gzip.compress(json_lines(rows), mtime=0)
    for bit in (1, 2, 4, 8, 16, 32, 64, 128):
        data = bytearray(whole)
        data[len(data) // 3] ^= bit
        found = read("a.jsonl.gz", bytes(data))
        kept = values(found)
        assert kept == rows[: len(kept)] and problems(found).keys() == {"unreadable"}
        assert len(kept) > 1000 or not kept, "up to a place that can be seen, or not at all"
        assert problems(found)["unreadable"] > 1000
        cut += bool(kept)
    assert cut > 2


def test_a_tar_that_is_cut_off_keeps_what_lay_before(read):
    rows = pairs(300)
    data = tarred({"a.jsonl": json_lines(rows), "b.jsonl": LINES})
    found = read("a.tar", data[: len(data) // 2])
    kept = values(found)
    assert 100 < len(kept) < 300 and kept == rows[: len(kept)]
    assert problems(found).keys() == {"unreadable"} and problems(found)["unreadable"] > 50


def test_joined_tars_are_read_and_garbage_after_the_end_is_named(read):
    one, two = tarred({"a.jsonl": LINES}), tarred({"b.jsonl": json_lines(pairs(3, 2))})
    assert values(read("a.tar", one + two)) == PAIRS + pairs(3, 2) and problems(read("a.tar", one + two)) == {}
    found = read("a.tar", one + b"x" * 1300)
    assert values(found) == PAIRS and problems(found) == {"unreadable": 1}


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.tar.gz", tarred({"a.jsonl": LINES})), ("a.tar", tarred({"a.jsonl": LINES}, "w:gz")), ("a.tar.xz", compressed(tarred({"a.jsonl": LINES}), "xz")),
     ("a.jsonl.gz", LINES), ("a.jsonl", compressed(LINES, "gzip")), ("a.tar.bz2", tarred({"a.jsonl": LINES}, "w:gz"))],
)  # fmt: skip
def test_an_archive_is_what_its_bytes_say(read, name, data):
    assert values(read(name, data)) == PAIRS


def test_what_is_passed_over_in_an_archive_is_counted(read):
    members = {".hidden/a.jsonl": LINES, "a.png": b"x", "__MACOSX/._b.jsonl": b"x", "b.jsonl": LINES, "c.jpg": b"x", "README.md": CARD}
    for name, build in (("a.zip", zipped), ("a.tar", tarred)):
        found = read(name, build(members))
        left_out: Counter = Counter()
        for row in found:
            left_out.update(row.left_out)
        assert values(found) == PAIRS and problems(found) == {}
        assert left_out == {"hidden files": 1, "pictures": 2, "system files": 1, "data-set cards": 1}
    (row,) = read("a.zip", zipped({".export/a.jsonl": LINES}))
    assert (row.problem, row.left_out) == ("empty_file", {"hidden files": 1})


def test_names_of_an_old_zip_are_legible(read):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("AAAAAA.jsonl", LINES)
    data = sink.getvalue().replace(b"AAAAAA", "日本語".encode("cp932"))
    assert read("a.zip", data)[0].source == "a.zip!日本語.jsonl:1"


def test_long_names_and_links_of_a_tar(read):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("./" + "long/" * 60 + "文.jsonl")
        info.size = len(LINES)
        archive.addfile(info, io.BytesIO(LINES))
        link = tarfile.TarInfo("b.jsonl")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jsonl"
        archive.addfile(link)
    found = read("a.tar", sink.getvalue())
    assert values(found) == PAIRS and problems(found) == {"archive_member_link": 1}


# -- 30, 31, 32, 41, 60: folders -------------------------------------------------------------------------------------------


def test_folders_behind_links_are_walked_and_loops_end(home):
    write(home, {"mine/a.jsonl": LINES, "mine/deep/b.jsonl": LINES, "disk2/c.jsonl": LINES, "elsewhere/real.jsonl": LINES})
    (home / "mine" / "more").symlink_to("../disk2")
    (home / "mine" / "loop").symlink_to(".")
    (home / "mine" / "deep" / "up").symlink_to("../..")
    (home / "mine" / "file.jsonl").symlink_to("../elsewhere/real.jsonl")
    names, left_out = resolved("mine")
    assert names == ["a.jsonl", "deep/b.jsonl", "file.jsonl", "more/c.jsonl"] and left_out == {}


def test_hidden_and_system_files_are_counted(home):
    write(home / "mine", {"a.jsonl": LINES, ".DS_Store": b"x", "._a.jsonl": b"x", ".data/x.jsonl": LINES, ".data/y.jsonl": LINES, "Thumbs.db": b"x",
                          "desktop.ini": b"x", "__pycache__/x.pyc": b"x", "spaces in name (1).jsonl": LINES, "q#a!x:7.jsonl": LINES})  # fmt: skip
    names, left_out = resolved("mine")
    assert names == ["a.jsonl", "q#a!x:7.jsonl", "spaces in name (1).jsonl"]
    assert left_out == {"hidden files": 4, "system files": 3}


def test_pictures_and_sounds_are_left_out(home):
    write(home / "mine", {"good.jsonl": LINES, **{f"images/{n}.png": b"x" for n in range(100)}, "a.mp3": b"x"})
    names, left_out = resolved("mine")
    assert names == ["good.jsonl"] and left_out == {"pictures": 100, "sound and video files": 1}
    with pytest.raises(SourceError, match="100 pictures"):
        resolved("mine/images")


def test_own_results_are_no_corpus(home):
    write(home, {"mine/a.jsonl": LINES, "runs/old/data/records.parquet": parquet(PAIRS), "runs/old/evaluation/model_card.md": b"# A card",
                 "copies/run/manifest.json": b"{}", "copies/run/params.yaml": b"", "copies/run/data/rejected.jsonl": LINES, "copies/b.jsonl": LINES})  # fmt: skip
    names, left_out = resolved(".")
    assert names == ["copies/b.jsonl", "mine/a.jsonl"] and left_out == {OWN_RESULTS: 5}
    for path in ("runs", "runs/old/data", "runs/old/evaluation/model_card.md", "copies/run"):
        with pytest.raises(SourceError, match=OWN_RESULTS):
            resolved(path)
    with pytest.raises(SourceError, match="empty path"):
        resolved("")


def test_front_matter_is_not_trained_on(read):
    (row,) = read("a.md", b"---\ntitle: My post\ndate: 2024-01-01\ntags:\n  - a\n---\n\n# My post\n\nThe words.\n")
    assert (row.value, row.note) == ({"text": "# My post\n\nThe words.\n"}, "front_matter_left_out")
    for text in (b"---\nA line between rules.\n---\nMore.", b"# A heading\n\n---\na: b\n---\n"):
        assert values(read("b.md", text)) == [{"text": text.decode()}]


def test_a_misspelled_target_of_columns_is_named(home):
    write(home, {"a.jsonl": LINES})
    with pytest.raises(SourceError, match=r"columns: unknown target 'promt'; did you mean 'prompt'"):
        resolved("a.jsonl", columns={"promt": "ask"})


# -- 45, 46, 58: PDF -------------------------------------------------------------------------------------------------------


def pdf(*pages: str, rotate: int = 0, catalog: str = "", page: str = "", font: str = "", more: tuple[str, ...] = ()) -> bytes:
    """A PDF of pages of text operators. more: objects from number 4 + 2 × pages on."""
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(pages)))
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {catalog} >>", f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        f"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding {font} >>",
    ]  # fmt: skip
    for number, text in enumerate(pages):
        resources = "/Resources << /Font << /F1 3 0 R >> >>"
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Rotate {rotate} {resources} {page} /Contents {5 + 2 * number} 0 R >>"
        )
        objects.append(f"<< /Length {len(text)} >>\nstream\n{text}\nendstream")
    body, offsets = "%PDF-1.5\n", []
    for number, text in enumerate([*objects, *more], 1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{text}\nendobj\n"
    table_of_offsets = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    trailer = f"trailer\n<< /Size {len(offsets) + 1} /Root 1 0 R >>\nstartxref\n{len(body)}\n%%EOF"
    return f"{body}xref\n0 {len(offsets) + 1}\n0000000000 65535 f \n{table_of_offsets}{trailer}".encode("latin-1")


def shown(lines: list[str], matrix: str = "1 0 0 1 50 780") -> str:
    return f"BT /F1 11 Tf {matrix} Tm 14 TL " + " T* ".join(f"({line}) Tj" for line in lines) + " ET"


PARAGRAPH = [sentence(random.Random(n)) for n in range(6)]


@pytest.mark.parametrize("matrix", ["1 0 0 1 50 780", "0 1 -1 0 60 60"])
@pytest.mark.parametrize("rotate", [0, 90])
def test_the_lines_of_a_rotated_page_are_in_reading_order(read, rotate, matrix):
    (row,) = read("a.pdf", pdf(shown(PARAGRAPH, matrix), rotate=rotate))
    assert row.value["text"].split("\n") == PARAGRAPH


def test_columns_that_are_stored_row_by_row_are_read_one_after_another(read):
    left, right = ([f"{side} column with words of line {n}" for n in range(9)] for side in ("Left", "Right"))
    rows = " ".join(shown([one], f"1 0 0 1 50 {700 - 14 * n}") + " " + shown([two], f"1 0 0 1 320 {700 - 14 * n}") for n, (one, two) in enumerate(zip(left, right, strict=True)))  # fmt: skip
    (row,) = read("a.pdf", pdf(shown(["A title over the whole width of the page, which both columns stand under, is first"]) + " " + rows))
    assert row.value["text"].split("\n")[1:] == [*left, *right]


def test_running_heads_are_left_out_and_counted(read):
    bodies = [[sentence(random.Random(10 * n + line)) for line in range(4)] for n in range(5)]
    pages = [shown(["ACME Internal Report 2024 - Confidential", *body, f"Page {n} of 5"]) for n, body in enumerate(bodies, 1)]
    found = read("a.pdf", pdf(*pages))
    assert [row.value["text"].split("\n") for row in found] == bodies
    assert {row.note for row in found} == {"running_heads_left_out"}


def test_filled_fields_of_a_form_are_read(read):
    field = "<< /Type /Annot /Subtype /Widget /FT /Tx /T (name) /V (filled by hand) /Rect [50 400 300 420] /P 4 0 R >>"
    (row,) = read("a.pdf", pdf(shown(["A form."]), catalog="/AcroForm << /Fields [6 0 R] >>", page="/Annots [6 0 R]", more=(field,)))
    assert row.value["text"] == "A form.\nname: filled by hand"


UNMAPPED = ("/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def /CMapType 2 def 1 begincodespacerange <00> <ff> "
            "endcodespacerange 1 beginbfchar <01> <0000> endbfchar 1 beginbfrange <20> <7e> <0020> endbfrange endcmap end end")  # fmt: skip


@pytest.mark.parametrize(("text", "outcome"), [("The \\001rst o\\001ce eld was efficient and good for all the users of it.", "unmapped_glyphs"),
                                               ("\\001\\001\\001 a\\001\\001b", "pdf_text_unmapped")])  # fmt: skip
def test_glyphs_without_a_letter_are_counted(read, text, outcome):
    stream = f"<< /Length {len(UNMAPPED)} >>\nstream\n{UNMAPPED}\nendstream"
    (row,) = read("a.pdf", pdf(shown([text]), font="/ToUnicode 6 0 R", more=(stream,)))
    assert outcome in (row.note, row.problem)


def test_a_scan_weighs_its_pages_and_names_its_parameter(read):
    assert problems(read("a.pdf", pdf("", "", ""))) == {"pdf_without_text": 3}
    assert rejections.parameters_of("pdf_without_text") == ("ocr",)


# -- 57: hostile sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.jsonl", b'{"a":' * 2000 + b"\n" + LINES), ("a.json", b"[" * 100_000), ("a.csv", b'"' * 50_001 + b"\n" + b'a,"b\n' * 3000),
     ("a.csv", b",".join(b"c%d" % n for n in range(5000)) + b"\n" + b"x," * 4999 + b"x\n"), ("a.jsonl", b"{\n" * 30_000),
     ("a.md", b"---\n" + b"a: b\n" * 50_000), ("a.md", b"---\n" + b" " * 50_000 + b"x"), ("a.html", b"<div>" * 20_000), ("a.txt", b"\xe9\x93" * 50_000)],
    ids=["deep line", "deep array", "quotes", "wide table", "open objects", "open front matter", "blanks", "deep page", "one odd byte"],
)  # fmt: skip
def test_hostile_files_end_soon(read, name, data):
    assert read(name, data)


# -- OCR -------------------------------------------------------------------------------------------------------------------

TESSERACT_DATA = [
    Path(os.environ.get("TESSDATA_PREFIX") or "/usr/share/tesseract-ocr/5/tessdata"),
    Path("/usr/share/tesseract-ocr/4.00/tessdata"),
]


def drawn(kind: str) -> bytes:
    """A picture of a sentence."""
    from PIL import Image, ImageDraw

    sink, picture = io.BytesIO(), Image.new("RGB", (900, 160), "white")
    ImageDraw.Draw(picture).text((10, 40), "Hello world, this is text", fill="black", font_size=40)
    picture.save(sink, kind)
    return sink.getvalue()


def test_a_picture_is_not_read_without_ocr(read):
    assert problems(read("a.png", drawn("PNG"))) == {"picture_without_ocr": 1}
    assert problems(read("a.pdf", drawn("PDF"))) == {"pdf_without_text": 1}


@pytest.mark.parametrize("kind", ["PNG", "PDF"])
def test_without_tesseract_ocr_says_what_to_install(read, tmp_path, monkeypatch, kind):
    monkeypatch.setenv("TESSDATA_PREFIX", str(tmp_path))
    with pytest.raises(SourceError, match="apt-get install tesseract-ocr"):
        read(f"a.{kind.lower()}", drawn(kind), ocr=True)


@pytest.mark.skipif(
    not any((folder / "eng.traineddata").exists() for folder in TESSERACT_DATA), reason="the data of Tesseract is not installed"
)
@pytest.mark.parametrize("kind", ["PNG", "PDF"])
def test_pictures_and_scans_are_read_by_ocr(read, kind):
    (row,) = read(f"a.{kind.lower()}", drawn(kind), ocr=True)
    assert row.value["text"] == "Hello world, this is text"


def test_pictures_are_sources_with_ocr(home):
    write(home / "mine", {"good.jsonl": LINES, "a.png": b"x", "b.svg": b"x"})
    assert resolved("mine", ocr=True) == (["a.png", "good.jsonl"], {"pictures": 1})
