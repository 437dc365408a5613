"""Runs listed, renamed and deleted: no stage is lost, no partial run remains, nothing outside runs/ is touched."""

import io
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mistral_lib.commands import notebook_runs, run_folders
from mistral_lib.preparation import audit, stage_inputs
from mistral_lib.run import Run, RunInUseError, all_runs, current_file, files, params, paths
from mistral_lib.run.params import ParameterError
from mistral_lib.run.settings import Settings
from tests.support.corpora import other


@pytest.fixture
def run(home: Path) -> Run:
    return Run.open(Settings(run_name="a"))


def saved(run: Run) -> Path:
    """The run's parameter file, saved as the form does it."""
    path = paths.runs() / f"{run.folder.name}.yaml"
    params.save(run.settings, path)
    current_file.write(path)
    return path


def test_the_list_shows_stages_verdict_size_and_time(run: Run) -> None:
    with run.lock("test"):
        run.record("data", status="complete")
        run.record("evaluation", status="complete")
        run.record("training", status="failed")
    files.write_json(run.folder / "evaluation" / "result.json", {"verdict": "ship"})
    (run.folder / "large").write_bytes(b"0" * 2**20)
    Run.open(Settings(run_name="b"))
    (paths.runs() / ".c.deleted").mkdir()
    (paths.runs() / ".c.deleted" / "params.yaml").touch()
    head, first, second = run_folders.table().splitlines()
    assert head.split()[:8] == ["run", "corpus", "data", "training", "evaluation", "export", "parity", "verdict"]
    assert first.split()[:9] == ["a", "–", "complete", "failed", "complete", "–", "–", "ship", "1.0"] and second.split()[:2] == ["b", "–"]
    (run.folder / "manifest.json").write_text("{")
    assert run_folders.table().splitlines()[1].split()[1] == "unreadable"


def test_after_renaming_no_stage_has_to_run_again(prepared: Run) -> None:
    notebook = next(path for path in notebook_runs.select() if path.name.startswith("02"))
    copy = prepared.folder / "notebooks" / notebook.name
    files.write_text(copy, '{"metadata": {}}')
    notebook_runs.mark_complete(copy, notebook_runs.key(prepared, notebook))
    file = saved(prepared)
    text = run_folders.rename("small", "large")
    assert "runs/small is now runs/large" in text and not prepared.folder.exists() and not file.exists()
    renamed = Run.existing(paths.runs() / "large")
    assert renamed.settings == prepared.settings.model_copy(update={"run_name": "large"})
    assert renamed.status("data") == "complete" and renamed.reasons_to_run("data", stage_inputs.hashes(renamed, "data")) == []
    assert {finding.status for finding in audit.audit(renamed.folder)} == {"verified"}
    assert notebook_runs.is_done(renamed, notebook)
    assert params.load(paths.runs() / "large.yaml") == renamed.settings and current_file.find() == paths.runs() / "large.yaml"
    assert Run.open(renamed.settings).folder == renamed.folder and [path.name for path in all_runs()] == ["large"]


@pytest.mark.parametrize("typed_since", [False, True])
def test_renaming_keeps_a_value_typed_after_the_form_saved(run: Run, typed_since: bool) -> None:
    saved(run)
    if typed_since:
        other(run, max_tokens=64)
    run_folders.rename("a", "b")
    assert params.from_notebook({"In": []}) == Settings(run_name="b", max_tokens=64 if typed_since else 512)


def test_comments_of_a_saved_file_stay(run: Run) -> None:
    saved(run).write_text("# mine\nrun_name: a\nmax_tokens: 64  # short\n")
    run_folders.rename("a", "007")
    text = (paths.runs() / "007.yaml").read_text()
    assert text.startswith("# mine\nrun_name: '007'") and "max_tokens: 64  # short\n" in text
    assert params.load(paths.runs() / "007.yaml").run_name == Run.existing(Path("007")).settings.run_name == "007"


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "b/c", "", ".hidden"])
def test_names_outside_of_runs_are_refused(run: Run, name: str) -> None:
    for refused in (lambda: run_folders.rename("a", name), lambda: run_folders.rename(name, "b"), lambda: run_folders.delete(name, True)):
        with pytest.raises(ParameterError, match=r"run_name = .*letters, digits"):
            refused()
    assert (run.folder / "params.yaml").exists()


def test_an_existing_name_is_refused(run: Run) -> None:
    saved(run)
    before = params.load(paths.runs() / "a.yaml")
    Run.open(Settings(run_name="b"))
    (paths.runs() / "c.yaml").touch()
    (paths.runs() / "d").mkdir()
    for name in ("a", "b", "c", "d"):
        with pytest.raises(FileExistsError, match=rf"runs/{name}.* exists already; nothing was renamed"):
            run_folders.rename("a", name)
    assert Run.existing(run.folder).settings.run_name == "a" and params.load(paths.runs() / "a.yaml") == before


def test_a_path_inside_the_folder_is_refused(run: Run) -> None:
    other(run, exclude_file="runs/a/mine.txt")
    with pytest.raises(ParameterError, match=r"exclude_file = .runs/a/mine\.txt. is a path inside runs/a; move"):
        run_folders.rename("a", "b")


def test_a_run_in_use_is_neither_renamed_nor_deleted(run: Run) -> None:
    code = f"from pathlib import Path; from mistral_lib.run import Run\nwith Run.existing(Path({str(run.folder)!r})).lock('stage data'): print('in use', flush=True); input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "in use\n"
    for refused in (lambda: run_folders.rename("a", "b"), lambda: run_folders.delete("a", True)):
        with pytest.raises(RunInUseError, match=rf"runs/a is in use by process {holder.pid}"):
            refused()
    holder.communicate("\n")
    assert Run.existing(run.folder).settings.run_name == "a"
    run_folders.delete("a", True)
    assert not run.folder.exists()


def test_deleting_asks_and_keeps_the_saved_file(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    file, questions = saved(run), []
    with pytest.raises(RuntimeError, match="no terminal to ask whether runs/a shall be deleted; give --yes"):
        monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
        run_folders.delete("a")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for answer, gone in (("", False), ("no", False), (" Y ", True)):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: questions.append(question) or answer)
        text = run_folders.delete("a")
        assert run.folder.exists() is not gone and ("is deleted" in text) is gone
    assert re.match(r"Delete runs/a \(\d\S* (bytes|KiB); complete stages: none\)\?", questions[0]), "also a small folder has a size"
    assert "runs/a.yaml is kept" in text and file.exists()


def test_a_killed_deletion_leaves_no_partial_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(folder: Path, ignore_errors: bool = False) -> None:
        if folder.exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("shutil.rmtree", killed)
        run_folders.delete("a", True)
    assert all_runs() == [] and not run.folder.exists()
    Run.open(run.settings)
    run_folders.delete("a", True)
    assert list(paths.runs().iterdir()) == []


def test_runs_of_a_sweep_are_found_by_their_own_names(home: Path) -> None:
    Run.open(Settings(run_name="try-fast"))
    files.write_json(home / "runs" / "try" / "comparison.json", {})
    with pytest.raises(ParameterError, match="did you mean try-fast"):
        run_folders.delete("try/fast", True)
    with pytest.raises(FileNotFoundError, match=r"no params\.yaml there"):
        run_folders.delete("try", True)
    assert "The sweep try no longer finds it" in run_folders.rename("try-fast", "best")


def test_the_command_line_lists_renames_and_deletes(run: Run) -> None:
    def command(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "mistral_lib", "runs", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL
        )

    assert command().stdout.splitlines()[1].startswith("a ")
    assert command("rename", "a", "b").stdout == "runs/a is now runs/b; no stage has to run again\n"
    refused = command("delete", "b")
    assert refused.returncode == 1 and "give --yes to delete it" in refused.stderr
    assert "runs/b is deleted" in command("delete", "b", "--yes").stdout and all_runs() == []
    assert command().stdout == f"no runs in {paths.runs()} yet\n"
