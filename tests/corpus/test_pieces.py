"""Large files in pieces: together they yield what the whole file yields, wherever it is cut, and nothing is cut that cannot be."""

import gzip
import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mistral_lib.corpus import pieces, sources, stretches, zstd_frames
from mistral_lib.formats.streams import CHUNK
from mistral_lib.run.settings import Settings

SETTINGS = Settings()


def lines(count: int, seed: int = 0) -> Iterator[str]:
    """Lines as real files have them: rows, glued rows, rows of several lines, broken and blank ones."""
    choose = random.Random(seed)
    for number in range(count):
        row = {
            "prompt": f"What is {number}{choose.choice(('', ' é', ' 日本'))}?",
            "completion": "a { brace\n{ " + "x" * choose.randint(1, 80),
        }
        kind = choose.random()
        if kind < 0.05:
            yield json.dumps(row, indent=1) + "\n"
        elif kind < 0.1:
            yield choose.choice(('{"broken": \n', "\n", "[\n", "no row\n", '  {"text": "indented"}\n'))
        elif kind < 0.15:
            yield json.dumps(row) + json.dumps(row) + "\n"
        else:
            yield json.dumps(row, ensure_ascii=kind < 0.4) + "\n"


TEXT = "".join(lines(400))


def frames(data: bytes, each: int) -> bytes:
    """Zstandard frames, with a skippable one between them."""
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"note"
    return skippable.join(pa.compress(data[start : start + each], codec="zstd", asbytes=True) for start in range(0, len(data), each))


def table(rows: int = 500, each: int = 37) -> bytes:
    data = io.BytesIO()
    pq.write_table(pa.table({"text": [f"row {n} " * 5 for n in range(rows)]}), data, row_group_size=each)
    return data.getvalue()


LATER = b'{"text": "all of it is ascii"}\n' * 9000 + '{"text": "café"}\n'.encode()
WESTERN = b'{"text": "all of it is ascii"}\n' * 200 + '{"text": "Café au lait, très bon, naïve"}\n'.encode("cp1252") * 40


def damaged_zip(name: str) -> bytes:
    """A zip of which one member is damaged, the others not."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, " ".join(f"word{n * n}" for n in range(900)))
        for letter in "bcd":
            archive.writestr(f"{letter}.jsonl", TEXT)
    whole = bytearray(data.getvalue())
    whole[120:400] = b"\xff" * 280
    return bytes(whole)


def zipped(left_out: str = "png") -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for number in range(80):
            ending = left_out if number % 4 == 0 else "jsonl" if number % 3 else "txt"
            archive.writestr(f"part/m{number % 60:02}.{ending}" if number < 60 else f"part/m{number}.{ending}", TEXT[: 40 * (number % 9)])
    return data.getvalue()


CUT: dict[str, Callable[[], bytes]] = {
    "a.jsonl": lambda: TEXT.encode(),
    "a.json": lambda: ('{"text": "the first one"}\n' + TEXT).encode(),
    "no_end.jsonl": lambda: (TEXT + '{"text": "the last one"}').encode(),
    "crlf.jsonl": lambda: TEXT.replace("\n", "\r\n").encode(),
    "bom.jsonl": lambda: b"\xef\xbb\xbf" + TEXT.encode(),
    "late_damage.jsonl": lambda: TEXT.encode() * (2 + CHUNK // len(TEXT.encode())) + b'{"text": "caf\xe9"}\n' + TEXT.encode(),
    "a.jsonl.zst": lambda: frames(TEXT.encode(), 5003),
    "named_like_text.txt": lambda: TEXT.encode(),
    "a.parquet": table,
    "a.zip": zipped,
    "nameless.zip": lambda: zipped().replace(b"part/m79.txt", b"".ljust(12, b"\0")),
    "damaged_card.zip": lambda: damaged_zip("README.md"),
    "damaged_text.zip": lambda: damaged_zip("a.txt"),
}
WHOLE: dict[str, Callable[[], bytes]] = {
    "a.jsonl.gz": lambda: gzip.compress(TEXT.encode()),
    "one_frame.jsonl.zst": lambda: frames(TEXT.encode(), 10**9),
    "torn.jsonl.zst": lambda: frames(TEXT.encode(), 5003)[:-40],
    "latin.jsonl": lambda: TEXT.replace("日本", "ü").encode("latin-1"),
    "wide.jsonl": lambda: TEXT.encode("utf-16"),
    "mac.jsonl": lambda: TEXT.replace("\n", "\r").encode(),
    "array.json": lambda: json.dumps([{"text": "x" * 100}] * 300).encode(),
    "page.jsonl": lambda: b"<html>" + TEXT.encode(),
    "a.csv": lambda: b"prompt,answer\n" + b"why,because it is so\n" * 900,
    "torn.zip": lambda: zipped()[:-30],
    "torn.parquet": lambda: table()[:-9],
    "no_footer.parquet": lambda: table()[:-80] + b"\xff" * 72 + table()[-8:],
    "western_later.jsonl": lambda: LATER + WESTERN,
    "western_later.jsonl.zst": lambda: frames(LATER, 10**9) + frames(WESTERN, 10**9),
}


def found(folder: Path, name: str, data: bytes) -> sources.SourceFile:
    (folder / name).write_bytes(data)
    return sources.SourceFile(folder / name, name, "corpus")


def everything(rows: Iterator[sources.Row]) -> list[tuple]:
    return [(row, row.lines, row.encoding, row.text) for row in rows]


def in_stretches(file: sources.SourceFile, size: int) -> tuple[list[tuple], int, int]:
    """(rows, stretches, what was passed over) of a file that is read in stretches."""
    plan = stretches.plan([file], SETTINGS, lambda wanted: map(stretches.look, wanted), size)
    assert stretches.Plan.of_facts(json.loads(json.dumps(plan.facts()))) == plan
    rows = [row for one in plan.stretches for _, row in one.rows([file], SETTINGS)]
    return everything(rows), len(plan.stretches), sum(sum(row.left_out.values()) for row in rows)


@pytest.mark.parametrize("size", [700, 3000, 17_000])
@pytest.mark.parametrize("name", CUT)
def test_the_pieces_of_a_file_have_its_rows(tmp_path: Path, name: str, size: int) -> None:
    file = found(tmp_path, name, CUT[name]())
    whole = list(sources.rows_of(file, SETTINGS))
    rows, count, passed = in_stretches(file, size)
    assert rows == everything(whole) and passed == sum(sum(row.left_out.values()) for row in whole)
    assert count > 1 or file.size <= 2 * size


@pytest.mark.parametrize("name", WHOLE)
def test_what_cannot_be_cut_is_read_as_a_whole(tmp_path: Path, name: str) -> None:
    file = found(tmp_path, name, WHOLE[name]())
    rows, count, _ = in_stretches(file, 500)
    assert count == 1 and rows == everything(sources.rows_of(file, SETTINGS))


def test_damage_before_the_first_letter_beyond_ascii_decides_the_encoding_so_nothing_is_cut(tmp_path: Path) -> None:
    plain = TEXT.encode("ascii", "ignore")
    file = found(tmp_path, "a.jsonl", plain + '{"text": "Caf\xe9 au lait, tr\xe8s bon, na\xefve"}\n'.encode("latin-1") + plain)
    rows, count, _ = in_stretches(file, 3000)
    assert count == 1 and rows == everything(sources.rows_of(file, SETTINGS)) and any("Café" in str(row) for row in rows)


def test_a_letter_that_a_window_divides_is_no_damage(tmp_path: Path) -> None:
    for shift in range(4):
        text = "x" * shift + "\n" + '{"text": "ééé日本日本"}\n' * 300
        rows, count, _ = in_stretches(file := found(tmp_path, "a.jsonl", text.encode()), 600)
        assert count > 3 and rows == everything(sources.rows_of(file, SETTINGS))


def test_a_damaged_row_group_costs_its_own_rows_in_pieces_too(tmp_path: Path) -> None:
    data = bytearray(table())
    place = pq.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(4).column(0)
    begin = place.dictionary_page_offset or place.data_page_offset
    data[begin : begin + 30] = b"\xff" * 30
    file = found(tmp_path, "a.parquet", bytes(data))
    rows = list(sources.rows_of(file, SETTINGS))
    assert [(row.problem, row.note, row.lines) for row in rows if row.problem] == [("unreadable", "rows 149-185", 37)]
    assert sum(row.lines for row in rows) == 500 and in_stretches(file, 700)[0] == everything(rows)


@pytest.mark.parametrize("name", ["README.md", "a.txt", "a.jsonl"])
def test_a_damaged_member_of_a_zip_costs_itself(tmp_path: Path, name: str) -> None:
    file = found(tmp_path, "a.zip", damaged_zip(name))
    rows = list(sources.rows_of(file, SETTINGS))
    assert [row.problem for row in rows if row.source.startswith(f"a.zip!{name}")] == ["unreadable"]
    good = len(list(sources.rows_of(found(tmp_path, "b.jsonl", TEXT.encode()), SETTINGS)))
    assert len(rows) == 3 * good + 1 and in_stretches(file, 700)[0] == everything(rows)


def test_a_member_whose_place_is_impossible_costs_itself(tmp_path: Path) -> None:
    data = bytearray(damaged_zip("a.jsonl"))
    entry = data.rindex(b"c.jsonl") - 46  # in the list at the end of a zip
    data[entry + 42 : entry + 46] = b"\xff\xff\xff\xfe"  # where the member begins
    file = found(tmp_path, "a.zip", bytes(data))
    rows = list(sources.rows_of(file, SETTINGS))
    assert [row.source for row in rows if row.problem == "unreadable"] == ["a.zip!a.jsonl", "a.zip!c.jsonl"] and in_stretches(file, 700)[
        0
    ] == everything(rows)


def test_small_files_are_read_together_and_large_ones_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row, noise = json.dumps({"text": "x" * 80}).encode() + b"\n", random.Random(0).randbytes(6000).hex().encode()
    data = {"a.jsonl": row, "b.jsonl": row, "c.jsonl": row * 40, "d.jsonl.gz": gzip.compress(b'{"text": "%s"}\n' % noise), "e.jsonl": row}
    files = [found(tmp_path, name, content) for name, content in data.items()]
    plan = stretches.plan(files, SETTINGS, lambda wanted: map(stretches.look, wanted), 1500)
    numbers = [[number for number, _ in one.pieces] for one in plan.stretches]
    assert numbers == [[0, 1], [2], [2], [2], [3], [4]]
    monkeypatch.setattr(stretches, "SIZE", 1500)
    assert plan.uncut == stretches.uncut(files, SETTINGS) == ["d.jsonl.gz (0 MiB) is read by one worker: a gzip cannot be cut"]


def test_frames_are_told_apart_by_their_headers_alone() -> None:
    data = frames(TEXT.encode(), 5003)
    spans = list(zstd_frames.frames(io.BytesIO(data)))
    plain = [pa.CompressedInputStream(pa.BufferReader(data[begin:end]), "zstd").read() for begin, end in spans]
    assert b"".join(plain) == TEXT.encode() and len(spans) == -(-len(TEXT.encode()) // 5003)
    for damaged in (data[:-3], b"no frame" + data, data + b"tail"):
        with pytest.raises(zstd_frames.FrameError, match="byte"):
            list(zstd_frames.frames(io.BytesIO(damaged)))


def test_a_file_that_claims_too_much_is_read_as_a_whole(tmp_path: Path) -> None:
    bomb = io.BytesIO()
    pq.write_table(pa.table({"text": ["same"] * 3_000_000}), bomb, row_group_size=100_000)
    file = found(tmp_path, "a.parquet", bomb.getvalue())
    with sources.opened(file) as stream:
        small = pieces.Budget(pieces.readers.Reading().limits, 1)
        assert pieces.pieces_of_groups(stream, 100, small) != []
    limits = pieces.readers.Reading().limits.__class__(ratio_from=1000, ratio=1)
    with sources.opened(file) as stream:
        assert pieces.pieces_of_groups(stream, 100, pieces.Budget(limits, 100)) == []
