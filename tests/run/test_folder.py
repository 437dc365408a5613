"""Run folders: which stages are skipped or run again and why, who may write, and that no earlier result is lost."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from mistral_lib.run import Run, RunInUse, files
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
    with pytest.raises(RunInUse, match=f"process {process.pid} .*stage data"):
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
            RunInUse, match=r"runs/r is in use by process \d+ on \S+ \(stage data, from training_base, since .*\); wait for it"
        ):
            run.refuse_if_in_use()
    run.refuse_if_in_use()
    with run.lock("stage training"):
        assert run.status("training") == "running"


def test_a_killed_writer_leaves_no_half_file(home: Path) -> None:
    target = home / "big.json"
    files.write_json(target, {"version": 1})
    code = f"from pathlib import Path; from mistral_lib.run import files\nwhile True: files.write_json(Path({str(target)!r}), {{'version': 2, 'x': 'y' * 5_000_000}})"
    for pause in (0.3, 0.37, 0.45):
        process = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(pause)
        process.kill()
        process.wait()
        assert files.read_json(target)["version"] in (1, 2)


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
