"""Valid files of every format with bytes changed, cut, doubled and lost: no crash, no hang, no silent loss. The same damage at every run."""

import random
import time
from pathlib import Path

import pytest

from mistral_lib.corpus import sources
from mistral_lib.corpus.records import UnmappableError, map_row
from mistral_lib.corpus.sources import SourceFile
from mistral_lib.formats.streams import Limits
from tests.support.containers import DOCUMENTS, ROWS, STRUCTURED

MUTATIONS = 40  # of each file
HANG = 5.0  # seconds; no file of a few KB may take longer
LIMITS = Limits(in_memory_bytes=8 * 2**20, member_bytes=8 * 2**20, ratio_from=8 * 2**20, members=1_000)
BUILDERS = {**STRUCTURED, **DOCUMENTS}
FAULTS_OF_CODE = ("AttributeError", "IndexError", "KeyError", "NameError", "TypeError", "UnboundLocalError")


def mutated(data: bytes, dice: random.Random) -> bytes:
    """One to four defects, as disks, transfers and editors make them."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        place, length = dice.randrange(len(changed) + 1), dice.choice((1, 2, 7, 64, 512))
        defect = dice.randrange(6)
        if defect == 0:
            changed[place : place + length] = dice.randbytes(length)
        elif defect == 1:
            changed[place : place + length] = b""
        elif defect == 2:
            changed[place:place] = changed[max(0, place - length) : place]
        elif defect == 3:
            changed[place : place + 1] = bytes([dice.choice((0, 0x0A, 0x22, 0x2C, 0x7B, 0x7D, 0x80, 0xFF))])
        elif defect == 4 and place < len(changed):
            changed[place] ^= 1 << dice.randrange(8)
        elif defect == 5:
            del changed[max(1, place) :]
    return bytes(changed)


@pytest.mark.parametrize("name", BUILDERS)
def test_damaged_files_give_rows_or_problems_and_nothing_else(name, tmp_path: Path):
    original, dice = BUILDERS[name](), random.Random(name)
    path = tmp_path / name
    file = SourceFile(path, name, "corpus")
    for tried in range(MUTATIONS):
        path.write_bytes(mutated(original, dice))
        begun = time.monotonic()
        check(list(sources.rows(file, salvage=tried % 2 == 0, limits=LIMITS)), name)
        assert time.monotonic() - begun < HANG


def check(found: list[sources.Row], name: str) -> None:
    """Each row is a value or a problem, has a place of its own, and can be mapped or says why it cannot."""
    assert found
    assert len({row.source for row in found}) >= len(found) - 1  # the row that reports a lost rest may have the source of the file
    for row in found:
        assert row.source.startswith(name) and row.source.encode()
        assert (row.value is None) or row.problem is None
        assert row.note not in FAULTS_OF_CODE, "damaged content must not meet code that does not expect it"
        if row.problem is None:
            try:
                map_row(row.value, row.source, note=row.note)
            except UnmappableError as reason:
                assert str(reason)


LINE_FORMATS = ("a.jsonl", "a.ndjson", "lines.json")


@pytest.mark.parametrize("name", LINE_FORMATS)
def test_in_files_of_lines_every_undamaged_line_is_read(name, tmp_path):
    """Damage within one line affects that line alone."""
    lines, dice = BUILDERS[name]().splitlines(keepends=True), random.Random(name)
    for trial in range(40):
        number = dice.randrange(1, len(lines))
        damaged = mutated(lines[number][:-1], dice).replace(b"\n", b" ") + b"\n"
        path = tmp_path / name
        path.write_bytes(b"".join([*lines[:number], damaged, *lines[number + 1 :]]))
        found = list(sources.rows(SourceFile(path, name, "corpus"), salvage=bool(trial % 2)))
        values = [row.value for row in found]
        assert all(row in values for index, row in enumerate(ROWS) if index != number)
        assert len(found) >= len(lines) or not damaged.strip()


@pytest.mark.parametrize("name", ["a.parquet", "a.tar", "a.tar.gz", "a.zip", "a.jsonl.gz", "a.jsonl.zst", "a.jsonl.bz2", "tgz_in_tar.tar"])
def test_a_file_truncated_anywhere_never_looks_complete(name, tmp_path):
    """Whatever was cut off, either all rows are still there or a problem reports the loss."""
    whole, dice, path = BUILDERS[name](), random.Random(name), tmp_path / name
    for _ in range(25):
        path.write_bytes(whole[: dice.randrange(1, len(whole))])
        found = list(sources.rows(SourceFile(path, name, "corpus"), limits=LIMITS))
        complete = [row.value for row in found if row.problem is None] == ROWS
        assert complete or any(row.problem for row in found)


def test_a_truncated_table_has_no_row_that_was_not_in_it(tmp_path):
    """A table may end at any line, and its last cell at any character: all rows but the last one are those of the file."""
    whole, path, problems = BUILDERS["a.csv"](), tmp_path / "a.csv", 0
    for length in range(whole.index(b"\n") + 2, len(whole)):
        path.write_bytes(whole[:length])
        found = list(sources.rows(SourceFile(path, "a.csv", "corpus"), limits=LIMITS))
        complete = whole[:length].count(b"\n") - 1
        assert [row.value for row in found][:complete] == ROWS[:complete] and len(found) <= complete + 1
        last = found[-1]
        problems += last.problem is not None
        if len(found) > complete and last.problem is None:
            row = ROWS[complete]
            assert last.value["prompt"] == row["prompt"] and row["completion"].startswith(last.value["completion"])
    assert problems > 50, "a row without all its columns is a problem"
