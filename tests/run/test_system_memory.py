"""The memory that is left: of the machine, and of the control groups that this process is in; the tightest limit counts."""

from pathlib import Path

import pytest

from mistral_lib.run import system_memory

MIB = 2**20


@pytest.mark.parametrize(
    ("limit", "statistics"), [("memory.max", "anon"), ("memory.limit_in_bytes", "total_rss")], ids=["version 2", "version 1"]
)
def test_a_control_group_limits_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, statistics: str) -> None:
    monkeypatch.setattr(system_memory, "_control_groups", lambda: [[tmp_path, tmp_path.parent]])
    machine = system_memory.left_bytes()
    assert machine > 60 * MIB, "the machine's own"
    (tmp_path / limit).write_text(f"{100 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"cache {90 * MIB}\n{statistics} {40 * MIB}\n")
    assert system_memory.left_bytes() == 60 * MIB, "the file cache can be dropped"
    assert system_memory.left_share() <= 0.6
    (tmp_path / "memory.stat").write_text(f"{statistics} {101 * MIB}\n")
    assert system_memory.left_bytes() == 0 == system_memory.left_share()
    (tmp_path / limit).write_text("max\n" if limit == "memory.max" else f"{2**63}\n")
    assert system_memory.left_bytes() > 60 * MIB, "no limit"
