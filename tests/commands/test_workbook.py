"""Working copies: nobody's changes are overwritten, and what is run in them leaves the tracked files as they were."""

import json
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from mistral_lib.commands import workbook
from mistral_lib.run import current_file, files, params, paths
from tests.browser.jupyterlab import Server
from tests.support.corpora import rows

NAMES = ("00_start_here.ipynb", "03_train_adapter.ipynb", "04_evaluate_adapter.ipynb")


@pytest.fixture
def book(home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The notebooks/ of another project, with three files; an empty home."""
    project = tmp_path_factory.mktemp("project")
    for name in NAMES:
        put(project / "notebooks" / name, f"first {name}")
    monkeypatch.setattr(paths, "project", lambda: project)
    return project / "notebooks"


def put(path: Path, text: str) -> None:
    """A notebook of one cell, which was run."""
    path.parent.mkdir(exist_ok=True)
    output = nbformat.v4.new_output("stream", text="of the demo")
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text, id="one", outputs=[output], execution_count=1)]), path)


def text_of(path: Path) -> str:
    return nbformat.read(path, as_version=4).cells[0].source


def copies(home: Path) -> list[str]:
    return [text_of(home / "workbook" / name) for name in NAMES]


def test_a_copy_has_none_of_the_books_outputs(book: Path, home: Path) -> None:
    workbook.refresh()
    for name in NAMES:
        (cell,) = nbformat.read(home / "workbook" / name, as_version=4).cells
        assert cell.source == f"first {name}" and cell.outputs == [] and cell.execution_count is None
    assert "of the demo" in (book / NAMES[0]).read_text(), "the book keeps them"


def test_a_copy_that_nobody_changed_follows_the_book(book: Path, home: Path) -> None:
    assert workbook.refresh() == [] and copies(home) == [f"first {name}" for name in NAMES]
    put(book / NAMES[1], "second")
    assert workbook.refresh() == [] and copies(home)[1] == "second"
    (home / "workbook" / NAMES[0]).unlink()
    assert workbook.refresh() == [] and copies(home)[0] == f"first {NAMES[0]}", "a deleted copy is made again"


def test_a_changed_copy_is_kept_and_a_newer_book_is_reported(book: Path, home: Path) -> None:
    workbook.refresh()
    put(home / "workbook" / NAMES[1], "mine")
    assert workbook.refresh() == [] and copies(home)[1] == "mine", "the book is the same: nothing to say"
    for name in NAMES[:2]:
        put(book / name, f"second {name}")
    for _ in range(2):
        (line,) = workbook.refresh()
        assert line.startswith(f"Your copies of {NAMES[1]} in workbook/ were kept") and "python -m mistral_lib lab --fresh" in line
        assert copies(home) == [f"second {NAMES[0]}", "mine", f"first {NAMES[2]}"]


def test_fresh_moves_changed_copies_and_only_these(book: Path, home: Path) -> None:
    workbook.refresh()
    for text in ("mine", "mine again"):  # twice, within a second
        put(home / "workbook" / NAMES[1], text)
        put(home / "workbook" / "own.ipynb", "own")
        (line,) = workbook.refresh(fresh=True)
        assert line.startswith(f"Your copies of {NAMES[1]} are now in workbook/previous/")
    assert sorted(text_of(path) for path in (home / "workbook" / "previous").rglob("*.ipynb")) == ["mine", "mine again"]
    assert copies(home) == [f"first {name}" for name in NAMES] and text_of(home / "workbook" / "own.ipynb") == "own"
    assert workbook.refresh(fresh=True) == [], "nothing differs from the book"


@pytest.mark.parametrize("note", [None, "{", "[1]"], ids=["lost", "cut short", "of another form"])
def test_without_its_note_only_an_equal_copy_counts_as_unchanged(book: Path, home: Path, note: str | None) -> None:
    workbook.refresh()
    put(home / "workbook" / NAMES[1], "mine")
    (home / "workbook" / workbook.NOTE).unlink()
    if note:
        (home / "workbook" / workbook.NOTE).write_text(note)
    assert NAMES[1] in workbook.refresh()[0] and NAMES[0] not in workbook.refresh()[0]
    put(book / NAMES[0], "second")
    workbook.refresh()
    assert copies(home)[:2] == ["second", "mine"]


@pytest.fixture
def clone(tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with the tracked files as they are now, which is its own home, and in it a firm's corpus and saved parameters."""
    place = tmp_path / "clone"
    for name in git(paths.project(), "ls-files").splitlines():
        if (paths.project() / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(paths.project() / name, place / name)
    git(place, "init", "--quiet")
    git(place, "add", "--all")
    git(place, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message=all")
    monkeypatch.setenv(paths.VARIABLE, str(place))
    monkeypatch.setenv("PYTHONPATH", str(place))
    files.write_json_lines(place / "corpora" / "firm" / "secret_plans.jsonl", rows("plans", 60))
    values = {"run_name": "firm", "corpus_paths": ["corpora/firm"], "operatives_paths": [], "base_model": tiny_model, "max_tokens": 128}
    params.save(params.validate(values), paths.runs() / "firm.yaml")
    current_file.write(paths.runs() / "firm.yaml")
    return place


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_a_notebook_run_in_lab_leaves_the_clone_clean(clone: Path, tmp_path: Path) -> None:
    """`lab` is started in the clone. A notebook is executed where it is, as a person does it, with a corpus that appears in its outputs."""
    (tmp_path / "lab").mkdir()
    running = Server(tmp_path / "lab", project=clone)
    try:
        opened = running.api("GET", "contents/workbook/01_explore_corpus.ipynb?content=0").json()
        tracked = running.api("GET", "contents/notebooks/01_explore_corpus.ipynb?content=0").json()
        assert opened["writable"] and not tracked["writable"]
        assert {one["writable"] for one in running.api("GET", "contents/notebooks").json()["content"]} == {False}
    finally:
        running.stop()
    copy = clone / "workbook" / "01_explore_corpus.ipynb"
    executed = NotebookClient(nbformat.read(copy, as_version=4), resources={"metadata": {"path": str(copy.parent)}}).execute()
    nbformat.write(executed, copy)
    outputs = json.dumps([cell.outputs for cell in executed.cells if cell.cell_type == "code"])
    assert "secret_plans.jsonl" in outputs and "Parameters from runs/firm.yaml" in outputs
    assert (clone / "runs" / "firm" / "corpus" / "inventory.json").exists(), "home and project are found from workbook/"
    assert git(clone, "status", "--porcelain") == ""
    assert "workbook/01_explore_corpus.ipynb" in git(clone, "status", "--porcelain", "--ignored", "--untracked-files=all")
