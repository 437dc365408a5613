"""The data stage killed, on a full disk or with an unreadable file: it resumes or reports the cause, and no earlier result is lost."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import mistral_lib
from mistral_lib.corpus.sources import SourceError
from mistral_lib.preparation import part_cache, prepare
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.record_store import PART
from mistral_lib.run import Run, files, params
from mistral_lib.run.disk import DiskFullError
from mistral_lib.run.settings import keeping_work
from tests.support import disks
from tests.support.corpora import artefacts, other, rows, twins

KILLS = int(os.environ.get("KILLS", "3"))


@pytest.fixture
def parted(corpus: Path, settings: params.Settings) -> Run:
    """A run that is not prepared yet, on a corpus that is read in two parts and tokenized in two."""
    for domain in ("red", "green", "blue"):
        files.write_json_lines(corpus / f"{domain}.jsonl", rows(domain, PART // 3 + 200))
    return Run.open(settings.model_copy(update={"run_name": "parted", "most_repeated_pattern": 10**6, "near_duplicate_threshold": 0.95}))


def started(run: Run) -> subprocess.Popen:
    """A preparation of the run in a process of its own."""
    code = f"from mistral_lib.preparation import prepare; from mistral_lib.run import Run; from pathlib import Path; prepare.prepare(Run.existing(Path({str(run.folder)!r})))"
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


def killed_once(run: Run, there: Path) -> None:
    """Start a preparation, and kill it as soon as a file exists."""
    process = started(run)
    deadline = time.monotonic() + 120
    while not there.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert there.exists() and run.status("data") == "interrupted"


def test_preparing_again_and_from_paths_in_another_order_gives_the_same_bytes(prepared: Run) -> None:
    before = artefacts(prepared)
    again = other(prepared, run_name="again")
    prepare.prepare(again)
    assert artefacts(again) == before
    listed = [f"corpora/small/{name}.jsonl" for name in ("red", "blue", "green")]
    listed_run = other(prepared, run_name="listed", corpus_paths=listed)
    prepare.prepare(listed_run)
    assert artefacts(listed_run) == before


def test_killed_at_any_moment_it_ends_with_the_same_files(prepared: Run) -> None:
    undisturbed = artefacts(prepared)
    seconds = files.read_json(prepared.folder / "data" / "report.json")["seconds"]
    again = other(prepared, run_name="killed")
    kills = random.Random(0)
    for _ in range(KILLS):
        process = started(again)
        deadline = time.monotonic() + 60
        while not (again.folder / ".data.partial").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(kills.uniform(0, 1.2 * seconds))
        process.kill()
        process.wait()
        assert again.status("data") in ("interrupted", "complete")
        (again.folder / "data" / "report.json").unlink(missing_ok=True)  # so that a complete stage runs again
    prepare.prepare(again)
    assert artefacts(again) == undisturbed
    assert not (again.folder / ".data.partial").exists() and not (again.folder / ".data.work").exists()


def test_a_killed_preparation_resumes(parted: Run, capsys: pytest.CaptureFixture) -> None:
    work = parted.folder / ".data.work"
    killed_once(parted, work / "rows-00000-000" / "complete.json")
    killed_once(parted, work / "tokens-0-00000" / "complete.json")
    prepare.prepare(parted)
    assert f"data: {PART:,} records were tokenized before and are reused" in capsys.readouterr().err
    assert not work.exists()
    undisturbed = other(parted, run_name="undisturbed")
    prepare.prepare(undisturbed)
    assert artefacts(parted) == artefacts(undisturbed)


def test_stopped_while_replacing_refused_records_it_resumes_there(settings: params.Settings, corpus: Path) -> None:
    files.write_json_lines(corpus / "twins.jsonl", twins())
    run = Run.open(settings.model_copy(update={"long_records": "reject"}))
    work = run.folder / ".data.work"
    with pytest.raises(prepare.TooMuchLostError):
        prepare.prepare(other(run, strict=True))
    (work / "tokens-2-00000" / "complete.json").unlink()  # as after a kill during the second replacements
    sealed = {path: path.stat().st_mtime_ns for path in work.glob("tokens-*/complete.json")}
    assert {path.parent.name for path in sealed} == {"tokens-0-00000", "tokens-1-00000"}
    with pytest.raises(prepare.TooMuchLostError):
        prepare.prepare(other(run, strict=True))
    assert {path: path.stat().st_mtime_ns for path in sealed} == sealed and (work / "tokens-2-00000" / "complete.json").exists()
    prepare.prepare(run)
    undisturbed = other(run, run_name="undisturbed")
    prepare.prepare(undisturbed)
    assert artefacts(run) == artefacts(undisturbed)
    assert files.read_json(run.folder / "data" / "report.json")["rejected"] == {"longer_than_max_tokens": 4}


def test_parts_of_other_parameters_or_altered_ones_are_not_used(parted: Run, capsys: pytest.CaptureFixture) -> None:
    work = parted.folder / ".data.work"
    killed_once(parted, work / "rows-00000-000" / "complete.json")
    records = work / "rows-00000-000" / "records.arrow"
    records.write_bytes(records.read_bytes()[:-1] + b"x")  # as on a failing disk
    changed = other(parted, shortest_answer=60)
    prepare.prepare(changed)
    assert "are reused" not in capsys.readouterr().err and not work.exists()
    undisturbed = other(parted, run_name="undisturbed", shortest_answer=60)
    prepare.prepare(undisturbed)
    assert artefacts(changed) == artefacts(undisturbed)


def test_parts_depend_on_the_code_that_can_change_them_and_on_no_other(tmp_path: Path) -> None:
    library = Path(shutil.copytree(Path(mistral_lib.__file__).parent, tmp_path / "mistral_lib"))
    before = part_cache.code_hashes(library)
    for module in ("display/data_plots.py", "training/train.py", "evaluation/verdict.py"):
        with open(library / module, "a") as file:
            file.write("\nCHANGED = True\n")
    assert part_cache.code_hashes(library) == before
    for module in ("curation/splits.py", "corpus/records.py", "tokens/chat_segments.py", "preparation/tokenization.py", "run/settings.py"):
        with open(library / module, "a") as file:
            file.write("\nCHANGED = True\n")
        changed = part_cache.code_hashes(library)
        assert [path for path in before if changed[path] != before[path]] == [module]
        before = changed


def test_a_preparation_that_a_late_parameter_stopped_resumes_when_it_is_changed(
    parted: Run, corpus: Path, capsys: pytest.CaptureFixture
) -> None:
    files.write_json_lines(corpus / "broken.jsonl", [{"colour": "blue"}] * 61)
    with pytest.raises(prepare.TooMuchLostError):
        prepare.prepare(other(parted, max_rejected_share=0.01))
    sealed = {path: path.stat().st_mtime_ns for path in (parted.folder / ".data.work").glob("*/complete.json")}
    assert {path.parent.name for path in sealed} == {
        "plan",
        "rows-00000-000",
        "rows-00000-001",
        "near-pairs",
        "tokens-0-00000",
        "tokens-0-00001",
    }
    changed = {"max_rejected_share": 0.5, "test_share": 0.2, "domain_weights": {"red": 0.5}, "order": "operatives_last"}
    assert set(changed) < keeping_work("data")
    with pytest.raises(prepare.TooMuchLostError):
        prepare.prepare(other(parted, **changed, strict=True))
    assert {path: path.stat().st_mtime_ns for path in sealed} == sealed  # no part was made again
    prepare.prepare(other(parted, **changed))
    assert "rows were read before and are reused" in capsys.readouterr().err
    undisturbed = other(parted, run_name="undisturbed", **changed)
    prepare.prepare(undisturbed)
    assert artefacts(parted) == artefacts(undisturbed)


def test_more_rows_than_can_be_numbered_are_an_error(parted: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "MOST_ROWS", 100)
    with pytest.raises(prepare.TooManyRowsError, match=r"more than 100 rows: one process cannot decide.*Divide the corpus"):
        prepare.prepare(parted)


def test_an_altered_part_counts_as_missing(tmp_path: Path) -> None:
    parts = PartCache(tmp_path / "work", "key")
    with parts.new_part("part") as folder:
        (folder / "text").write_text("first")
        part_cache.write(folder, {"count": 1}, {"numbers": np.arange(3)})
    facts, arrays = PartCache(tmp_path / "work", "key").part("part")
    assert facts == {"count": 1} and arrays["numbers"].tolist() == [0, 1, 2]
    (tmp_path / "work" / "part" / "text").write_text("other")
    assert parts.part("part") is None and parts.part("nothing") is None
    assert not PartCache(tmp_path / "work", "another key").folder.joinpath("part").exists()


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """runs/ on a disk of 3 MiB."""
    with disks.mounted(home / "runs", 3) as place:
        yield place


def test_a_full_disk_is_reported_and_the_earlier_result_is_kept(small_disk: Path, settings: params.Settings, corpus: Path) -> None:
    run = Run.open(settings)
    prepare.prepare(run)
    before = artefacts(run)
    large = [{**row, "completion": f"{row['completion']} {row['prompt'] * 20}"} for row in rows("large", 4000)]
    files.write_json_lines(corpus / "large.jsonl", large)
    with pytest.raises(
        DiskFullError, match=r"no room on disk for the prepared data.* free at runs/small.*untouched.*Free at least .*run this again"
    ):
        prepare.prepare(run)
    assert artefacts(run) == before and run.status("data") == "failed"
    assert not (run.folder / ".data.work").exists() and not (run.folder / ".data.partial").exists()
    (corpus / "large.jsonl").unlink()
    prepare.prepare(run)
    assert artefacts(run) == before and run.status("data") == "complete"


@pytest.mark.parametrize("kind", ["a disk that fails", "a broken link"])
def test_a_file_that_cannot_be_read_is_named_and_the_earlier_result_is_kept(prepared: Run, corpus: Path, kind: str) -> None:
    before = artefacts(prepared)
    target = (
        "/proc/self/mem" if kind == "a disk that fails" else str(corpus / "nowhere")
    )  # the first byte of /proc/self/mem is an I/O error
    if kind == "a disk that fails" and not Path(target).exists():
        pytest.skip("no file here fails when it is read")
    (corpus / "purple.jsonl").symlink_to(target)
    with pytest.raises(SourceError, match=r"purple\.jsonl.*(cannot be read: Input/output error|is a broken link)"):
        prepare.prepare(prepared)
    assert artefacts(prepared) == before and prepared.status("data") == "complete"
