"""Files: JSON lines that survive a killed writer, and sizes in words."""

from pathlib import Path

import pytest

from mistral_lib.run import files


def test_a_json_line_is_appended_to_a_new_file_in_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lines.jsonl"
    files.append_json_line(path, {"a": 1})
    files.append_json_line(path, {"b": "é"})
    assert path.read_text() == '{"a":1}\n{"b":"é"}\n'


@pytest.mark.parametrize(("there", "kept"), [('{"a":1}\n{"b":', [{"a": 1}]), ('{"b":', []), ("", []), ('{"a":1}\n', [{"a": 1}])])
def test_a_half_written_last_line_is_cut_off_before_the_next_one(tmp_path: Path, there: str, kept: list) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text(there)
    files.append_json_line(path, {"c": 3})
    assert files.read_json_lines(path) == [*kept, {"c": 3}]
    assert path.read_text().count("\n") == len(kept) + 1 and path.read_text().endswith('{"c":3}\n')


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (41, "41 bytes"), (1024, "1.0 KiB"), (42_940, "41.9 KiB"), (6_029_312, "5.75 MiB"), (2**31, "2,048.00 MiB")],
)
def test_no_size_is_rounded_to_nothing(size: int, words: str) -> None:
    assert files.size_text(size) == words
