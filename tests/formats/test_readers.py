"""Every container gives the same rows; every defect of its content is reported as a problem with its place, never as an exception."""

import errno
import io
import json
import sys
import time
import tracemalloc
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistral_lib.corpus import sources
from mistral_lib.corpus.object_store import StoreError
from mistral_lib.corpus.sources import Row, SourceError, SourceFile
from mistral_lib.formats import kinds, readers
from mistral_lib.formats.rows import Reading
from mistral_lib.formats.streams import Budget, ExhaustedError, Limits
from mistral_lib.run.disk import DiskFullError
from tests.support.containers import DOCUMENTS, LINES, ROWS, STRUCTURED, compressed, json_lines, pdf, table, tarred, zipped


@pytest.fixture
def read(tmp_path: Path):
    """The rows of a file of that name and content."""

    def rows(name: str, data: bytes, **options) -> list[Row]:
        path = tmp_path / name
        path.write_bytes(data)
        return list(sources.rows(SourceFile(path, name, "corpus"), **options))

    return rows


def outcome(rows: list[Row]) -> list[tuple[str, str | None]]:
    return [(row.source, row.problem) for row in rows]


@pytest.mark.parametrize("name", STRUCTURED)
def test_each_container_gives_the_same_rows(read, name):
    found = read(name, STRUCTURED[name]())
    assert [row.value for row in found] == ROWS
    assert len({row.source for row in found}) == len(ROWS)
    assert all(row.source.startswith(name) and row.problem is None and row.note == "" for row in found)


def test_sources_name_file_member_and_line(read):
    assert [row.source for row in read("a.jsonl", LINES)][:2] == ["a.jsonl:1", "a.jsonl:2"]
    assert read("a.csv", table(ROWS))[0].source == "a.csv:2"  # line 1 is the header
    nested = zipped({"b.zip": zipped({"p.pdf": pdf()}), "a.tgz": tarred({"x.jsonl": LINES}, "w:gz")})
    assert [row.source for row in read("a.zip", nested)] == [*(f"a.zip!a.tgz!x.jsonl:{n}" for n in range(1, 6)), "a.zip!b.zip!p.pdf#1"]


def test_documents_are_one_record_each(read):
    values = {name: [row.value for row in read(name, build())] for name, build in DOCUMENTS.items()}
    assert values == {
        "a.txt": [{"text": "A plain text.\nOf two lines."}],
        "a.md": [{"text": "# A heading\n\nA text."}],
        "a.pdf": [{"text": "The first line.\nThe second line.", "document": "a.pdf"}],
        "a.docx": [{"text": "A paragraph of a document.\n\nAnother one."}],
        "a.html": [{"text": "A page\n\nA paragraph of a page.\n\none\ntwo"}],
        "one.json": [ROWS[0]],
    }


@pytest.mark.parametrize(("levels", "problem"), [(250, None), (251, "not_json"), (960, "not_json"), (3000, "not_json")])
def test_how_deep_json_is_read_does_not_depend_on_the_process(read, monkeypatch, levels, problem):
    """The comma at the end makes it no strict JSON."""
    line = b'{"text": "a", "deep": %s1%s},\n' % (b"[" * (levels - 1), b"]" * (levels - 1))
    before = sys.getrecursionlimit()
    try:
        for limit in (before, 4000):
            sys.setrecursionlimit(limit)
            assert [row.problem for row in read("a.jsonl", line)] == [problem]
    finally:
        sys.setrecursionlimit(before)


GLUED_BY_TEXT = b"\\n".join(json.dumps(row).encode() for row in ROWS)
GLUED = b"".join(json.dumps(row).encode() for row in ROWS)


@pytest.mark.parametrize("line", [GLUED_BY_TEXT, GLUED], ids=["literal_n", "directly"])
def test_glued_objects_are_salvaged_when_asked(read, line):
    data = b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n'
    assert outcome(read("a.jsonl", data)) == [("a.jsonl:1", None), ("a.jsonl:2", "glued_json"), ("a.jsonl:3", None)]
    salvaged = read("a.jsonl", data, salvage=True)
    assert [row.value for row in salvaged[1:-1]] == ROWS
    assert [(row.source, row.note) for row in salvaged] == [
        ("a.jsonl:1", ""), *((f"a.jsonl:2.{n}", "salvaged") for n in range(1, 6)), ("a.jsonl:3", "")
    ]  # fmt: skip


def test_salvaging_keeps_what_it_cannot_parse_as_a_problem(read):
    found = read("a.jsonl", GLUED_BY_TEXT + b'\\n{"prompt": "cut o\n', salvage=True)
    assert outcome(found)[-2:] == [("a.jsonl:1.5", None), ("a.jsonl:1.6", "not_json")]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"text": "caf\xe9"}\n', "not_utf8"),
        (b"\0\0\0\0\n", "nul_bytes"),
        (b"this is no JSON\n", "not_json"),
        (b'{"text": "a"} and more\n', "not_json"),
        (b'{"text": "cut o', "truncated_line"),
        (b"[" * 100_000 + b"\n", "not_json"),
        (b"9" * 5_000 + b"x\n", "not_json"),
        (b"x" * 3_000 + b"\n", "line_too_long"),
        (b"x" * 3_000, "line_too_long"),
    ],
)
def test_a_damaged_line_is_a_problem_and_the_others_are_read(read, line, problem):
    found = read("a.jsonl", LINES + line, limits=Limits(line_bytes=2_000 if "long" in problem else 2**20))
    assert [row.value for row in found[:5]] == ROWS
    assert outcome(found[5:]) == [("a.jsonl:6", problem)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv"])
def test_line_endings_byte_order_marks_and_blank_lines_change_nothing(read, name):
    data = STRUCTURED[name]().replace(b"\r\n", b"\n").rstrip(b"\n")
    untouched = b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n\r\n") + b"\r\n\r\n"
    assert [row.value for row in read(name, untouched)] == ROWS


JSON_LINES = b"".join(b'{"text": "row %d"}\n' % n for n in range(1, 1001))


@pytest.mark.parametrize(
    ("before", "problems"),
    [
        (b'{"text": "cut o\n', [("a.json:1", "not_json")]),
        (b"\n", []),
        (b"\xef\xbb\xbf\n\n", []),
        (b"\n" * 200, []),
        (b'{"text": "row 0"}\n\n', []),
        (b'{"text": "a"}{"text": "b"}\n', [("a.json:1", "glued_json")]),
        ('\n{"text": "é"}\n{"text": "caf'.encode() + b'\xe9"}\n', [("a.json:3", "not_utf8")]),
    ],
)
@pytest.mark.parametrize("ending", [b"", b'\n\n{"text": "cut o'])
def test_json_lines_in_a_json_file_lose_only_the_damaged_lines(read, before, problems, ending):
    found = read("a.json", before + JSON_LINES + ending)
    last = before.count(b"\n") + (1003 if ending else 1000)
    expected = [*problems, *([(f"a.json:{last}", "truncated_line")] if ending else [])]
    assert [(row.source, row.problem) for row in found if row.problem] == expected
    texts = [row.value["text"] for row in found if not row.problem]
    assert texts[-1000:] == [f"row {n}" for n in range(1, 1001)] and len(texts) <= 1001
    assert found[-1].source == f"a.json:{last}"


@pytest.mark.parametrize("text", ['[\n{"text": "a"},\n{"text": "b"},\n{"text": "c"}\n', '{"data": [\n{"text": "a"}\n,\n{"text": "b"}\n'])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_the_elements_of_a_truncated_array_are_read_and_its_end_is_a_problem(read, name, text):
    if name == "a.jsonl" and text[0] != "[":
        return
    found = read(name, text.encode())
    assert [row.value["text"] for row in found[:-1]] == ["a", "b", "c"][: len(found) - 1] and len(found) > 2
    assert outcome(found)[-1] == (f"{name}:{len(found)}", "truncated_json")


def test_wrapped_rows_of_glued_objects_have_sources_of_their_own(read):
    wrapped = b'{"data": [\n{"text": "a"}, {"text": "b"}\n]}\n\n' * 2
    found = read("a.json", wrapped, salvage=True)
    assert [row.value["text"] for row in found] == ["a", "b"] * 2 and all(row.note == "salvaged" for row in found)
    assert [row.source for row in found] == ["a.json.1:1", "a.json.1:2", "a.json.2:1", "a.json.2:2"]


def test_numbers_and_characters_that_strict_json_forbids(read):
    big = 10**25
    found = read("a.jsonl", b'{"text": "a", "score": NaN, "big": %d}\n{"text": "half \\ud83d an emoji"}\n' % big)
    assert found[0].value["text"] == "a" and found[0].value["big"] == pytest.approx(float(big))
    assert (found[1].value, found[1].note) == ({"text": "half ? an emoji"}, "lone_surrogates_replaced")


def test_a_json_file_that_is_one_record_is_not_split(read):
    record = {"messages": [{"role": "user", "content": "a"}], "data": [{"b": 1}]}
    assert [row.value for row in read("a.json", json.dumps(record).encode())] == [record]


@pytest.mark.parametrize(
    ("name", "data", "problem"),
    [
        ("a.jsonl", b"", "empty_file"),
        ("a.jsonl", b"\xef\xbb\xbf\n \n", "empty_file"),
        ("a.json", b"[]", "empty_file"),
        ("a.json", b"[1, 2", "not_json"),
        ("a.json", b"", "empty_file"),
        ("a.csv", b"prompt,completion\n", "empty_file"),
        ("a.csv", b'"prompt,completion\n', "csv_header_unreadable"),
        ("a.txt", b"\xff\x98\x80\xff\x98\xa0\xff\xa8", "not_utf8"),
        ("a.txt", b"a\0b", "nul_bytes"),
        ("a.xyz", b"anything", "unknown_file_type"),
        ("a.xyz.gz", compressed(b"anything", "gzip"), "unknown_file_type"),
        ("a.docx", b"anything", "unreadable_document"),
        ("a.xlsx", b"anything", "unreadable_sheet"),
        ("README", b"anything", "unknown_file_type"),
        ("a.pdf", b"no PDF", "unreadable_pdf"),
        ("a.parquet", b"PAR1 but nothing more", "unreadable"),
        ("a.zip", b"no zip", "unreadable"),
        ("a.zip", zipped({}), "empty_file"),
        ("a.tar.gz", b"\0no gzip", "unreadable"),
        ("a.tar", bytes(10_240), "empty_file"),
        ("a.jsonl.gz", b"\0no gzip", "unreadable"),
        ("a.jsonl.gz", b"", "empty_file"),
        ("a.zip", zipped({"b.zip": zipped({"c.zip": zipped({"d.jsonl": LINES})})}), "archive_nested_too_deep"),
    ],
)
def test_a_file_without_rows_has_a_reason(read, name, data, problem):
    found = read(name, data)
    assert [row.problem for row in found] == [problem]
    assert found[0].value is None and found[0].source.startswith(name)


class OwnFaultError(Exception):
    """As a parsing library may have one, of no common base."""


def raising(error: Exception):
    def parser(*_) -> None:
        raise error

    return parser


def test_a_parsers_own_exception_is_a_problem_and_the_others_are_read(read, monkeypatch):
    monkeypatch.setattr(readers, "pdf_rows", raising(OwnFaultError("damaged")))
    found = read("a.zip", zipped({"a.pdf": pdf(), "b.jsonl": LINES}))
    assert (found[0].source, found[0].problem, found[0].note) == ("a.zip!a.pdf", "unreadable", "OwnFaultError")
    assert [row.value for row in found[1:]] == ROWS


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (MemoryError(), MemoryError),
        (ImportError("no such package"), ImportError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (DiskFullError(errno.ENOSPC, "full"), SourceError),
        (StoreError("the server does not answer"), SourceError),
    ],
)
def test_faults_of_the_machine_end_the_run(read, monkeypatch, error, raised):
    monkeypatch.setattr(readers, "pdf_rows", raising(error))
    with pytest.raises(raised):
        read("a.pdf", pdf())


def test_a_kind_without_a_branch_is_no_json(read, monkeypatch):
    monkeypatch.setitem(kinds.KINDS, ".new", "new")
    with pytest.raises(AssertionError, match="the kind 'new' of KINDS has no branch"):
        read("a.new", LINES)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.zst", "a.tar.gz", "a.tar"])
def test_a_truncated_container_is_reported(read, name):
    whole = STRUCTURED[name]()
    cut = whole[:1_024] if name == "a.tar" else whole[:-9]  # a tar loses the two blocks that mark its end
    found = read(name, cut)
    assert [row.problem for row in found if row.problem] == ["unreadable"]


def test_members_after_a_broken_tar_header_are_not_lost_silently(read):
    data = bytearray(tarred({"a.jsonl": LINES, "b.jsonl": LINES}))
    second = data.index(b"b.jsonl")
    data[second + 150] ^= 0xFF  # in its checksum: tarfile itself would take this for the end
    found = read("a.tar", bytes(data))
    assert [row.value for row in found[:5]] == ROWS and [row.problem for row in found[5:]] == ["unreadable"]


def test_one_damaged_member_does_not_affect_the_others(read):
    data = zipped({"a.jsonl": json_lines(ROWS * 50), "b.jsonl": LINES})
    damaged = data[:60] + b"\xff" * 20 + data[80:]
    found = read("a.zip", damaged)
    assert [row.value for row in found if row.source.startswith("a.zip!b.jsonl")] == ROWS
    assert "unreadable" in {row.problem for row in found if row.source.startswith("a.zip!a.jsonl")}


def test_a_row_of_a_csv_with_wrong_quotes_costs_itself(read):
    data = b'prompt,completion\na,b\n"c, never closed\nd,e\nf,g\n'
    found = read("a.csv", data)
    assert [(row.source, row.problem) for row in found] == [
        ("a.csv:2", None),
        ("a.csv:3", "csv_damaged"),
        ("a.csv:4", None),
        ("a.csv:5", None),
    ]


def test_csv_rows_of_another_width_bytes_and_lengths(read):
    data = "a,b\n1,2,3\né\n".encode() + b'x,caf\xe9\nx,y\0\n"two\nlines",ok\n' + b"x" * 5_000 + b",y\nlast,one\n"
    found = read("a.csv", data, limits=Limits(line_bytes=4_000))
    assert [row.problem for row in found] == ["csv_column_count"] * 2 + ["not_utf8", "nul_bytes", None, "line_too_long", None]
    assert [row.source for row in found] == [f"a.csv:{line}" for line in (2, 3, 4, 5, 6, 8, 9)]
    assert [row.value for row in found if row.value] == [{"a": "two\nlines", "b": "ok"}, {"a": "last", "b": "one"}]


def test_csv_columns_of_one_name_or_none_are_all_kept(read):
    assert read("a.csv", b"a,a,\n1,2,3\n")[0].value == {"a": "1", "a_2": "2", "column_3": "3"}


def test_csv_cells_above_pythons_own_limit(read):
    assert read("a.csv", b"a,b\n" + b"x" * 300_000 + b",y\n")[0].value["a"] == "x" * 300_000


def test_parquet_with_a_cell_that_is_not_utf8(read, tmp_path):
    cells = pa.array([b"good", b"caf\xe9", b"fine"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": cells}), tmp_path / "made.parquet")
    found = read("a.parquet", (tmp_path / "made.parquet").read_bytes())
    assert outcome(found) == [("a.parquet:1", None), ("a.parquet:2", "damaged_row"), ("a.parquet:3", None)]


LONG = "\n".join(f"Line {n} of a text that fills several pages." for n in range(150))


def words(rows: list[Row]) -> list[str]:
    return " ".join(row.value["text"] for row in rows).split()


def test_pdf_pages_and_budgets_contain_the_same_words(read):
    pages = read("a.pdf", pdf(LONG))
    joined = read("a.pdf", pdf(LONG), pdf_characters=100_000)
    split = read("a.pdf", pdf(LONG), pdf_characters=500)
    assert [row.source for row in pages] == ["a.pdf#1", "a.pdf#2", "a.pdf#3"]
    assert [row.source for row in joined] == ["a.pdf#1-3"]
    assert split[0].source == "a.pdf#1.1" and max(len(row.value["text"]) for row in split) <= 500
    assert words(pages) == words(joined) == words(split) == LONG.split()
    assert {row.value["document"] for row in pages + joined + split} == {"a.pdf"}
    assert len({row.source for row in split}) == len(split)


@pytest.mark.parametrize("characters", [0, 1_000])
def test_a_scan_is_one_problem_and_a_blank_page_is_its_own(read, characters):
    lines_a_page = 56
    scan, mixed = pdf("\n" * lines_a_page * 2), pdf("\n" * lines_a_page + LONG[:200])
    assert outcome(read("scan.pdf", scan, pdf_characters=characters)) == [("scan.pdf", "pdf_without_text")]
    assert outcome(read("a.pdf", mixed, pdf_characters=characters)) == [("a.pdf#1", "pdf_page_without_text"), ("a.pdf#2", None)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.tar.gz", "a.zip"])
def test_lines_are_streamed_and_the_first_is_there_before_the_last_is_read(tmp_path, name):
    lines = b'{"text": "%s"}\n' % (b"0123456789" * 100) * 20_000  # 20 MB
    data = {"a.jsonl": lambda: lines, "a.jsonl.gz": lambda: compressed(lines, "gzip"),
            "a.tar.gz": lambda: tarred({"a.jsonl": lines}, "w:gz"), "a.zip": lambda: zipped({"a.jsonl": lines})}[name]()  # fmt: skip
    (tmp_path / name).write_bytes(data)
    file = SourceFile(tmp_path / name, name, "corpus")
    counted = _bytes_read_for_the_first_rows(file)
    assert counted < 4 * 2**20


def _bytes_read_for_the_first_rows(file: SourceFile) -> int:
    """Bytes of the file, after decompression, that were read to give ten rows."""
    from mistral_lib.formats.rows import Reading
    from mistral_lib.formats.streams import Budget

    budget = Budget(Limits(ratio=2_000), file.size)
    with file.open() as stream:
        assert len(list(islice(readers.read(stream, file.name, Reading(), budget), 10))) == 10
        return max(budget.expanded, 0 if budget.expanded else stream.tell())


def test_an_endless_line_is_not_kept_in_memory(tmp_path):
    """A line of 200 MB, as a sparse file."""
    path = tmp_path / "a.jsonl"
    with open(path, "wb") as file:
        file.truncate(200 * 2**20)
    tracemalloc.start()
    found = list(sources.rows(SourceFile(path, "a.jsonl", "corpus"), limits=Limits(line_bytes=8 * 2**20)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcome(found) == [("a.jsonl:1", "line_too_long")]
    assert peak < 32 * 2**20


def test_the_containers_of_these_tests_are_the_same_at_every_run(monkeypatch):
    """Also in another second: gzip writes the time into its header."""
    made = [{name: build() for name, build in STRUCTURED.items()}]
    monkeypatch.setattr(time, "time", lambda: 2_000_000_000.0)
    made.append({name: build() for name, build in STRUCTURED.items()})
    assert [name for name in STRUCTURED if made[0][name] != made[1][name]] == []


@pytest.mark.parametrize(
    ("name", "kind", "codec"),
    [("a.jsonl", "lines", None), ("A.JSON", "json", None), ("a.tar.gz", "tar", "gzip"), ("a.TGZ", "tar", "gzip"), ("a.tbz2", "tar", "bz2"),
     ("a.tzst", "tar", "zstd"), ("a.b.csv.zst", "csv", "zstd"), ("notes", "unknown", None), ("a.gz", "unknown", "gzip"), ("x/a.md", "text", None)],
)  # fmt: skip
def test_the_kind_of_a_file_is_in_its_name(name, kind, codec):
    assert kinds.kind_of(name) == (kind, codec)


@pytest.mark.parametrize(
    ("name", "short"),
    [("gpt3.5_law.jsonl.gz", "gpt3.5_law"), ("v1.2", "v1.2"), ("a.TGZ", "a"), ("a.csv.tgz", "a.csv"), ("a.b.gz", "a.b"), ("a.tar.zst", "a"), ("notes", "notes")],
)  # fmt: skip
def test_only_the_endings_of_a_format_are_removed(name, short):
    assert kinds.without_endings(name) == short


class Broken(io.RawIOBase):
    """A stream that fails with an error of the system."""

    def __init__(self, number: int | None) -> None:
        self.error = OSError("damaged") if number is None else OSError(number, "broken")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        raise self.error


def rows_of_stream(stream, name: str = "a.jsonl") -> list[Row]:
    return list(readers.read(stream, name, Reading(), Budget(Limits(), 1000)))


@pytest.mark.parametrize("number", [None, errno.EINVAL])
def test_an_error_of_the_content_is_a_problem(number):
    assert outcome(rows_of_stream(io.BufferedReader(Broken(number)))) == [("a.jsonl", "unreadable")]


def test_an_error_of_the_machine_is_raised_and_so_is_an_exhausted_budget(monkeypatch):
    with pytest.raises(OSError, match="broken"):
        rows_of_stream(io.BufferedReader(Broken(errno.EIO)))
    with pytest.raises(ExhaustedError):
        list(readers.read(io.BytesIO(compressed(LINES, "gzip")), "a.jsonl.gz", Reading(), Budget(Limits(total_bytes=10), 1000)))


def test_texts_lose_their_byte_order_mark_and_carriage_returns(read):
    assert read("a.txt", b"\xef\xbb\xbfone\r\ntwo\n")[0].value == {"text": "one\ntwo\n"}
    assert read("a.txt", b"x" * 11, limits=Limits(in_memory_bytes=10))[0].problem == "too_large_to_hold"
    assert read("a.txt", b"x" * 10, limits=Limits(in_memory_bytes=10))[0].problem is None


def test_a_tab_separates_only_where_it_must(read):
    assert read("a.tsv", b"a,b\tc\n1,2\t3\n")[0].value == {"a,b": "1,2", "c": "3"}
    assert read("a.csv", b"a|b\n1|2\n")[0].value == {"a": "1", "b": "2"} and read("a.csv", b"a\tb\n1\t2\n")[0].value == {"a": "1", "b": "2"}


# -- JSON that is damaged, worked out line by line -------------------------------------------------------------------------


def test_numbers_of_eighteen_digits_stay_whole_in_lines_that_are_not_strict(read):
    found = read("a.jsonl", b'{"text": "a", "n": 123456789012345678, "x": NaN}\n{"text": "a", "n": 1234567890123456789, "x": NaN}\n')
    assert [type(row.value["n"]) for row in found] == [int, float] and found[0].value["n"] == 123456789012345678


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'x\n{"text": "a"}\ny\n{"text": "b"}\n', [("a.json", "not_json")]),  # half of the lines
        (b'x\n{"text": "a"}\n{"text": "b"}\n', [("a.json:1", "not_json"), ("a.json:2", None), ("a.json:3", None)]),
        (b'x\n{"text": "a"}\n\ny\n{"text": "b"}\n{"text": "c"}\n',
         [("a.json:1", "not_json"), ("a.json:2", None), ("a.json:4", "not_json"), ("a.json:5", None), ("a.json:6", None)]),
        (b'x\n{"text": "a"}\n', [("a.json", "not_json")]),  # one line is not a file of lines
        (b'{"text": "a"}\nx\n', [("a.json:1", None), ("a.json:2", "not_json")]),  # it begins with an object
        (b'[1]\n[2]\n', [("a.json", "not_json")]),
        (b'{"text": "a"}\n', [("a.json", None)]),
    ],
)  # fmt: skip
def test_when_a_json_file_is_read_as_lines(read, data, expected):
    assert outcome(read("a.json", data)) == expected


def test_a_second_line_of_exactly_the_longest_makes_lines_and_a_longer_one_does_not(read):
    data = b'{"text": "a"}\n{"text": "bbbb"}\n'
    assert outcome(read("a.json", data, limits=Limits(line_bytes=17))) == [("a.json:1", None), ("a.json:2", None)]
    assert outcome(read("a.json", data, limits=Limits(line_bytes=16))) == [("a.json", "glued_json")]


def test_a_first_line_beyond_memory_is_refused_and_one_of_exactly_that_length_is_not(read):
    line = b'{"text": "aaaa"}\n'
    assert outcome(read("a.json", line, limits=Limits(in_memory_bytes=len(line), line_bytes=5))) == [("a.json", None)]
    assert outcome(read("a.json", line, limits=Limits(in_memory_bytes=len(line) - 1, line_bytes=5))) == [("a.json", "too_large_to_hold")]
    assert outcome(read("a.json", b"[1,\n" + line, limits=Limits(in_memory_bytes=10, line_bytes=5))) == [("a.json", "too_large_to_hold")]


@pytest.mark.parametrize(("blank", "streamed"), [(61, True), (62, False)])
def test_a_second_row_within_64_lines_makes_a_file_of_lines_that_is_never_in_memory(read, blank, streamed):
    data = b'\n{"text": "a"}\n' + b"\n" * blank + b'{"text": "b"}\n' * 50
    found = read("a.json", data, limits=Limits(in_memory_bytes=300, line_bytes=100))
    assert len(found) == (51 if streamed else 1) and found[0].problem == (None if streamed else "too_large_to_hold")


def test_glued_objects_in_a_file_of_lines_are_salvaged_line_by_line(read):
    found = read("a.json", b'{"text": "a"}{"text": "b"}\n{"text": "c"}\n{"text": "d"}\n', salvage=True)
    assert [(row.source, row.note) for row in found] == [
        ("a.json:1.1", "salvaged"),
        ("a.json:1.2", "salvaged"),
        ("a.json:2", ""),
        ("a.json:3", ""),
    ]
    assert outcome(read("a.jsonl", b'{"text": "a"} and more\n', salvage=True)) == [("a.jsonl:1", "not_json")]


def test_a_lone_surrogate_beside_a_number_that_json_forbids_is_repaired(read):
    assert read("a.jsonl", b'{"text": "half \\ud83d", "x": NaN}\n')[0].value == {"text": "half ?", "x": None}


def test_an_object_is_unwrapped_only_if_one_list_of_objects_is_in_it(read):
    def values(value: object) -> list:
        return [row.value for row in read("a.json", json.dumps(value).encode())]

    rows = [{"text": "a"}, {"text": "b"}]
    for key in ("data", "rows", "records", "examples", "items"):
        assert values({"version": 1, key: rows}) == rows
    assert values({"data": [*rows, 5]}) == [*rows, 5] and values({"others": rows}) == rows == values({"data": rows, "text": "c"})
    for whole in (
        {"data": rows, "prompt": "c", "answer": "d"},
        {"messages": [{"role": "user", "content": "c"}], "data": rows},
        {"data": {"a": 1}},
    ):
        assert values(whole) == [whole]
    assert [row.source for row in read("a.json", json.dumps({"data": rows}).encode())] == ["a.json:1", "a.json:2"]


def test_what_is_shown_of_a_damaged_line_is_bounded(read):
    long = b"x" * 30_000
    for line in (long, b'{"text": "a"} {"text": "%s"}' % long, b'{"text": "\0%s"}' % long):
        (row,) = read("a.jsonl", line + b"\n")
        assert row.problem in ("not_json", "glued_json", "nul_bytes") and len(row.text) == 20_000 and row.text == line.decode()[:20_000]
    rest = read("a.jsonl", b'{"text": "a"} {"text": "b"} ' + long + b"\n", salvage=True)
    assert [(row.source, row.problem) for row in rest] == [("a.jsonl:1.1", None), ("a.jsonl:1.2", None), ("a.jsonl:1.3", "not_json")]
    assert len(rest[2].text) == 20_000


def test_values_that_are_no_objects_are_never_separated(read):
    for line in (b"1 2\n", b'{"text": "a"} 2\n', b'"a" "b"\n'):
        assert outcome(read("a.jsonl", line, salvage=True)) == [("a.jsonl:1", "not_json")]
    assert read("a.jsonl", b'  {"x": NaN, "text": "a"} \n')[0].note == ""
    (row,) = read("a.jsonl", b'{"text": "half \\ud83d"}{"text": "b"}\n', salvage=True)[:1]
    assert (row.value, row.note) == ({"text": "half ?"}, "salvaged")
