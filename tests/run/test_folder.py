"""Run folders: which stages are skipped or run again and why, who may write, and that no earlier result is lost."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mistral_lib.run import Run, RunInUseError, all_runs, files
from mistral_lib.run.folder import FORMAT, OLDER, summary
from mistral_lib.run.settings import Settings
from mistral_lib.training import trainer_process
from tests.support.corpora import other


def write(text: str):
    def work(folder: Path) -> dict:
        (folder / "out.txt").write_text(text)
        return {"letters": len(text)}

    return work


@pytest.fixture
def run(home: Path) -> Run:
    opened = Run.open(Settings(run_name="r"))
    opened.run_stage("data", {"a": "1"}, write("first"))
    return opened


def test_a_complete_stage_is_recorded_with_hashes(run: Run) -> None:
    entry = run.entry("data")
    assert entry["status"] == "complete" and entry["figures"] == {"letters": 5}
    assert entry["outputs"]["data/out.txt"]["sha256"] == files.sha256(run.folder / "data" / "out.txt")
    assert entry["parameters"]["max_tokens"] == 512 and "learning_rate" not in entry["parameters"]


def test_checkpoints_are_not_outputs_and_are_not_read(run: Run) -> None:
    """Checkpoints of a large model take gigabytes and have hashes of their own."""
    if not Path("/proc/self/mem").exists():
        pytest.skip("no file here fails when it is read")

    def work(folder: Path) -> dict:
        (folder / "checkpoints" / "checkpoint-5").mkdir(parents=True)
        (folder / "checkpoints" / "checkpoint-5" / "weights").symlink_to("/proc/self/mem")  # its first byte is an I/O error
        return write("text")(folder)

    run.run_stage("data", {"a": "2"}, work)
    assert list(run.entry("data")["outputs"]) == ["data/out.txt"]


def test_an_unchanged_stage_is_skipped(run: Run) -> None:
    run.run_stage("data", {"a": "1"}, lambda folder: pytest.fail("the stage ran again"))


@pytest.mark.parametrize(
    ("changes", "inputs", "reason"),
    [
        ({"max_tokens": 64}, {"a": "1"}, "max_tokens: 512 became 64"),
        ({}, {"a": "2"}, "input a changed"),
        ({}, {"a": "1", "b": "1"}, "input b is new"),
        ({}, {}, "input a is gone"),
    ],
)
def test_a_changed_parameter_or_input_runs_the_stage_and_says_why(run: Run, capsys, changes: dict, inputs: dict, reason: str) -> None:
    other(run, **changes).run_stage("data", inputs, write("second"))
    assert reason in capsys.readouterr().err
    assert (run.folder / "data" / "out.txt").read_text() == "second"


def test_a_parameter_of_another_stage_changes_nothing(run: Run) -> None:
    assert other(run, learning_rate=0.1).reasons_to_run("data", {"a": "1"}) == []


@pytest.mark.parametrize(("damage", "reason"), [(lambda p: p.write_text("First"), "altered"), (lambda p: p.unlink(), "missing")])
def test_a_damaged_result_runs_the_stage_again(run: Run, damage, reason: str) -> None:
    damage(run.folder / "data" / "out.txt")
    assert reason in run.reasons_to_run("data", {"a": "1"})[0]


def test_an_earlier_result_is_kept(run: Run) -> None:
    run.run_stage("data", {"a": "2"}, write("second"))
    run.run_stage("data", {"a": "3"}, write("third"))
    kept = sorted(p.read_text() for p in run.folder.glob("previous/*/out.txt"))
    assert kept == ["first", "second"]


def test_a_failed_stage_leaves_the_earlier_files_and_says_so(run: Run) -> None:
    def work(folder: Path) -> dict:
        (folder / "out.txt").write_text("half")
        raise OSError("No space left on device")

    with pytest.raises(OSError):
        run.run_stage("data", {"a": "2"}, work)
    assert (run.folder / "data" / "out.txt").read_text() == "first"
    assert run.status("data") == "failed" and "No space left" in run.entry("data")["error"]


def hold(run: Run, work: str = "time.sleep(60)") -> subprocess.Popen:
    """Another process that holds the run's lock while it records a stage."""
    code = (
        "import time, sys; from pathlib import Path; from mistral_lib.run import Run\n"
        f"run = Run.existing(Path({str(run.folder)!r}))\n"
        f"with run.lock('stage data'), run.recording('data', {{}}):\n    print('held', flush=True); {work}"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_and_a_dead_one_holds_no_lock(run: Run) -> None:
    process = hold(run)
    assert run.status("data") == "running"
    with pytest.raises(RuntimeError, match=r"stage data is running since \d{4}-.*; wait until it is complete"):
        run.require("data", "run notebook 02 first")
    with pytest.raises(RunInUseError, match=f"process {process.pid} .*stage data"):
        run.run_stage("data", {"a": "9"}, write("second"))
    process.kill()
    process.wait()
    assert run.holder() is None and run.status("data") == "interrupted"
    run.run_stage("data", {"a": "9"}, write("second"))
    assert run.status("data") == "complete"


def test_a_killed_stage_is_not_running_while_another_stage_holds_the_lock(run: Run) -> None:
    with run.lock("test"):
        run.record("training", status="running")
    with run.lock("stage data, from training_base"):
        assert run.works_on("data") and not run.works_on("training") and run.status("training") == "interrupted"
        assert trainer_process.stop(run) == "no trainer is at work", "it would have ended this process"
        with pytest.raises(
            RunInUseError, match=r"runs/r is in use by process \d+ on \S+ \(stage data, from training_base, since .*\); wait for it"
        ):
            run.refuse_if_in_use()
    run.refuse_if_in_use()
    with run.lock("stage training"):
        assert run.status("training") == "running"


def test_a_killed_writer_leaves_no_half_file(home: Path) -> None:
    target = home / "big.json"
    code = (
        f"from pathlib import Path; from mistral_lib.run import files\nfiles.write_json(Path({str(target)!r}), {{'version': 1}}); print('ready', flush=True)\n"
        f"for version in range(2, 10**6): files.write_json(Path({str(target)!r}), {{'version': version, 'x': 'y' * 2_000_000}})"
    )
    versions = []
    for pause in (0.1, 0.17, 0.25):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n"
        time.sleep(pause)
        process.kill()
        process.wait()
        written = files.read_json(target)
        versions.append(written["version"])
        assert len(written.get("x", "")) in (0, 2_000_000)
    assert max(versions) > 2, "it was overwritten while it was killed"


def test_while_a_file_is_written_the_earlier_one_stays(home: Path) -> None:
    target = home / "a.txt"
    files.write_text(target, "first")
    with files.atomic(target) as file:
        file.write(b"second")
        file.flush()
        assert target.read_text() == "first"
    assert target.read_text() == "second" and list(home.iterdir()) == [target]
    with pytest.raises(KeyError), files.atomic(target) as file:
        file.write(b"third")
        raise KeyError
    assert target.read_text() == "second" and list(home.iterdir()) == [target]


def test_a_run_is_found_by_its_name_and_the_error_for_a_misspelled_one_lists_all_runs(run: Run, home: Path) -> None:
    assert Run.existing(Path("r")).folder == Run.existing(Path("runs/r")).folder == run.folder
    with pytest.raises(FileNotFoundError, match=r"mien: .*runs/ holds: r"):
        Run.existing(Path("mien"))


def test_the_error_for_a_stage_of_a_misspelled_run_names_the_run_that_has_it(run: Run) -> None:
    misspelt = Run.open(run.settings.model_copy(update={"run_name": "mien"}))
    with pytest.raises(RuntimeError, match=r"runs/mien: stage data is not started.*is run_name misspelt\? It is complete in r"):
        misspelt.require("data", "run notebook 02_prepare_data first")


def test_hash64_is_the_same_on_every_machine_and_takes_any_text() -> None:
    assert files.hash64("a") == 0x40F89E395B66422F
    assert len({files.hash64(text) for text in ("", "a", "b", "\ud800")}) == 4


def test_opening_with_other_parameters_writes_them_unless_the_run_is_in_use(run: Run) -> None:
    place = run.folder / "params.yaml"
    written = place.read_text()
    assert Run.existing(run.folder).settings == run.settings
    with run.lock("test"):
        assert Run.open(run.settings).folder == run.folder, "with the same parameters there is nothing to write"
        with pytest.raises(RunInUseError, match="test, since"):
            other(run, seed=7)
        assert place.read_text() == written
    assert other(run, seed=7).settings.seed == Run.existing(run.folder).settings.seed == 7 and place.read_text() != written


def test_a_lock_that_is_held_for_a_moment_is_waited_for(run: Run) -> None:
    holding, free = threading.Event(), threading.Event()

    def hold_shortly() -> None:
        with run.lock("a moment"):
            holding.set()
            free.wait(0.25)

    thread = threading.Thread(target=hold_shortly)
    thread.start()
    assert holding.wait(5) and run.holder()["what"] == "a moment" and run.holder()["pid"] == os.getpid()
    with run.lock("afterwards"):
        assert run.holder()["what"] == "afterwards"
    thread.join()
    assert run.holder() is None
    with run.lock("held"):
        begun = time.monotonic()
        with pytest.raises(RunInUseError), run.lock("too late"):
            pytest.fail("two at a time")
        assert 0.4 < time.monotonic() - begun < 2


def test_without_a_lock_file_nobody_works_here(home: Path) -> None:
    new = Run(home / "runs" / "new", Settings(run_name="new"))
    assert new.holder() is None and not new.works_on("data") and new.manifest() == {"stages": {}} and new.entry("data") == {}
    assert new.status("data") == "not started" and new.reasons_to_run("data", {}) == ["it has no result yet"] and not new.is_older("data")


def test_a_stage_is_recorded_from_its_start_to_its_end(run: Run, capsys: pytest.CaptureFixture) -> None:
    seen = {}

    def work(folder: Path) -> dict:
        assert folder != run.folder / "data" and (run.folder / "data" / "out.txt").read_text() == "first"
        seen.update(run.entry("data"), status=run.status("data"), what=run.holder()["what"])
        return write("second")(folder)

    capsys.readouterr()
    run.run_stage("data", {"a": "2"}, work)
    assert "data: runs, because input a changed" in capsys.readouterr().err
    assert (seen["status"], seen["what"], seen["ended"], seen["error"], seen["outputs"], seen["taken_over"]) == (
        "running", "stage data", None, None, {}, None)  # fmt: skip
    entry = run.entry("data")
    assert (entry["status"], entry["inputs"], entry["figures"], entry["format"]) == ("complete", {"a": "2"}, {"letters": 6}, FORMAT["data"])
    assert entry["outputs"]["data/out.txt"]["bytes"] == 6 and seen["started"] <= entry["ended"]
    assert {"python", "system", "cores", "torch", "transformers", "peft"} <= set(entry["machine"]) and entry["machine"]["cores"] >= 1
    run.run_stage("data", {"a": "2"}, lambda folder: pytest.fail("it ran again"))
    assert capsys.readouterr().err.strip().endswith(f"data: unchanged, the result of {entry['ended']} is used")
    with run.lock("test"):
        run.record("data", note="kept")
    assert run.entry("data") == {**entry, "note": "kept"}


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt("stop"), "interrupted"), (SystemExit(3), "interrupted"), (ValueError("no"), "failed")]
)
def test_a_stage_that_ends_early_is_recorded_with_its_error(run: Run, error: BaseException, status: str) -> None:
    def work(folder: Path) -> dict:
        raise error

    with pytest.raises(type(error)):
        run.run_stage("data", {"a": "2"}, work)
    entry = run.entry("data")
    assert (entry["status"], entry["error"]) == (status, f"{type(error).__name__}: {error}") and entry["ended"]
    assert run.reasons_to_run("data", {"a": "2"}) == [f"it ended as {status}"]
    run.run_stage("data", {"a": "2"}, write("second"))
    assert run.entry("data")["error"] is None


def test_all_reasons_are_found_and_three_of_them_named(run: Run) -> None:
    (run.folder / "data" / "out.txt").unlink()
    changed_run = other(run, max_tokens=64, seed=7)
    assert changed_run.reasons_to_run("data", {"a": "2", "b": "1"}) == [
        "seed: 42 became 7", "max_tokens: 512 became 64", "input a changed", "input b is new", "data/out.txt is missing"]  # fmt: skip
    assert [summary(["a", "b", "c", "d", "e"][:count]) for count in range(1, 6)] == [
        "a", "a; b", "a; b; c", "a; b; c; and 1 more reasons", "a; b; c; and 2 more reasons"]  # fmt: skip


def test_a_file_of_another_size_or_content_is_altered(run: Run) -> None:
    for text in ("First", "firs", "first!"):
        (run.folder / "data" / "out.txt").write_text(text)
        assert run.reasons_to_run("data", {"a": "1"}) == ["data/out.txt was altered"]
    assert (
        run.damages("data") == run.damages("data", below="data/") == ["data/out.txt was altered"]
        and run.damages("data", below="data/x") == []
    )
    (run.folder / "data" / "out.txt").write_text("first")
    assert run.reasons_to_run("data", {"a": "1"}) == []


def test_earlier_results_of_one_second_have_names_of_their_own(run: Run) -> None:
    places = []
    for _ in range(4):
        places.append(run.previous("data"))
        assert places[-1].parent == run.folder / "previous" and places[-1].name.startswith("data-2") and not places[-1].exists()
        places[-1].mkdir(parents=True)
    assert len(set(places)) == 4


def test_only_complete_runs_are_proposed_for_a_misspelled_one_and_at_most_five(run: Run) -> None:
    unfinished = Run.open(run.settings.model_copy(update={"run_name": "unfinished"}))
    with unfinished.lock("test"):
        unfinished.record("data", status="failed")
    assert run.require("data", "nothing")["status"] == "complete"
    with pytest.raises(RuntimeError, match=r"runs/unfinished: stage data is failed, expected complete; do it \(or .* complete in r\)$"):
        unfinished.require("data", "do it")
    with pytest.raises(RuntimeError, match=r"runs/unfinished: stage training is not started, expected complete; do it$"):
        unfinished.require("training", "do it")
    for number in range(6):
        shutil.copytree(run.folder, run.folder.with_name(f"copy{number}"))
    with pytest.raises(RuntimeError, match=r"complete in copy0, copy1, copy2, copy3, copy4\)$"):
        unfinished.require("data", "do it")


def test_runs_are_listed_by_name_without_hidden_folders(run: Run, home: Path) -> None:
    Run.open(Settings(run_name="b"))
    (home / "runs" / ".hidden").mkdir()
    (home / "runs" / ".hidden" / "params.yaml").write_text("")
    (home / "runs" / "empty").mkdir()
    assert [path.name for path in all_runs()] == ["b", "r"]
    shutil.rmtree(home / "runs")
    with pytest.raises(FileNotFoundError, match=r"^r: no params\.yaml there, so this is no run folder; runs/ holds: no runs yet$"):
        Run.existing(Path("r"))


def test_a_result_of_another_format_is_made_again_and_says_so(run: Run) -> None:
    with run.lock("test"):
        run.record("data", format=FORMAT["data"] - 1)
    assert run.is_older("data") and run.reasons_to_run("data", {"a": "1"}) == [OLDER]
    assert run.changes("data", {"a": "1"}, older=False) == [] and run.changes("data", {"a": "1"}) == [OLDER]
    assert not run.keeps_older("data"), "nothing was trained on it"


def test_data_of_another_format_are_kept_only_for_the_training_that_read_them(run: Run, capsys: pytest.CaptureFixture) -> None:
    sha = run.entry("data")["outputs"]["data/out.txt"]["sha256"]
    with run.lock("test"):
        run.record("data", format=FORMAT["data"] - 1)
        for status, read, kept in (("complete", sha, True), ("failed", sha, False), ("complete", "another", False)):
            run.record("training", status=status, inputs={"data/out.txt": read, "base_model": "x"})
            assert run.keeps_older("data") is kept and run.keeps_older("training") is (status == "complete")
            assert not run.keeps_older("corpus") and not run.keeps_older("evaluation")
        run.record("training", status="complete", inputs={"data/gone.txt": sha})
        assert not run.keeps_older("data")
        run.record("training", status="complete", inputs={"data/out.txt": sha})
    capsys.readouterr()
    run.run_stage("data", {"a": "1"}, lambda folder: pytest.fail("it ran again"))
    assert ", made by an older version of the library, is used" in capsys.readouterr().err
