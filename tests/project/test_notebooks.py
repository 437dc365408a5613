"""Hygiene of the committed notebooks: every cell was run, the parameters are the library's, nothing private is stored."""

import ast
import json
import re
from pathlib import Path

import nbformat
import pytest

from mistral_lib.run import params, paths
from mistral_lib.run.settings import Settings
from tests import make_book

NOTEBOOKS = sorted(paths.notebooks().glob("*.ipynb"))
WIDEST = 125  # characters that a cell shows on a page of 1440 pixels with the file browser open


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_six_notebooks() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == ["00", "01", "02", "03", "04", "05"]


def test_it_is_valid_and_was_run_from_top_to_bottom(notebook) -> None:
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code(notebook)] == list(range(1, len(code(notebook)) + 1))


def test_it_stores_nothing_private_and_no_debris(notebook) -> None:
    for cell in code(notebook):
        assert set(cell.metadata) <= {"tags"}
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr"
            text = json.dumps({key: value for key, value in output.get("data", {}).items() if key != "image/png"}) + output.get("text", "")
            assert not re.search(r"/(home|root|Users|work|tmp)/|https?://[^ ]*@|widget-view|it/s\]", text), text[:300]


def test_its_parameters_are_the_demos(notebook) -> None:
    cells = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1
    given = {s.targets[0].id: ast.literal_eval(s.value) for s in ast.parse(cells[0].source).body}
    assert "run_name" in given and given.pop(params.FILE) == "", "no file is named, so the file saved last is used"
    for name, value in given.items():
        assert value == params.demo()[name], name
    for line in cells[0].source.splitlines():
        assert re.fullmatch(r"\w+ = [^=]+  # [^=]+", line), f"papermill misreads {line!r}"


def test_parameters_are_never_assigned_again(notebook) -> None:
    for cell in code(notebook):
        if "parameters" in cell.metadata.get("tags", []):
            continue
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                assert node.id not in Settings.names(), node.id


def test_it_defines_no_class_installs_nothing_and_stays_in_its_folder(notebook) -> None:
    for cell in code(notebook):
        assert not re.search(r"^\s*(class |%|!)|sys\.path|os\.chdir", cell.source, re.M)


def test_it_has_the_structure_of_the_book(notebook) -> None:
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    assert re.match(r"# 0\d .+\n\n\*\*.+\?\*\*", prose[0]), "a title and one question"
    for heading in ("## Checkpoint", "## Your turn", "not show"):
        assert any(heading in text for text in prose), heading
    assert 20 <= len(notebook.cells) <= 40
    steps = [cell for cell in code(notebook)[1:] if "parameters" not in cell.metadata.get("tags", [])]  # the first has the imports
    assert all(len(cell.source.splitlines()) <= 17 for cell in steps)


def test_links_between_notebooks_resolve(notebook) -> None:
    for cell in notebook.cells:
        for target in re.findall(r"\]\((\w+\.ipynb)\)", cell.source):
            assert Path(paths.notebooks(), target).exists()


def test_its_code_fits_a_page(notebook) -> None:
    for cell in code(notebook):
        wide = [line for line in cell.source.splitlines() if len(line) > WIDEST]
        assert not wide, f"{len(wide[0])} characters, a cell shows {WIDEST}: {wide[0]}"


def test_every_picture_has_alternative_text(notebook) -> None:
    """JupyterLab gives a bare image no alternative text, so pictures are shown as HTML that contains it (mistral_lib.display.figure)."""
    for data in (output.get("data", {}) for cell in code(notebook) for output in cell.outputs):
        assert not any(kind.startswith("image/") for kind in data), (
            "a figure without alternative text: show it with mistral_lib.display.figure.Picture"
        )
        for tag in re.findall(r"<img\b[^>]*>", data.get("text/html", "")):
            text = re.search(r'\balt="([^"]+)"', tag)
            assert text and len(text[1]) > 20 and re.search(r"\d", text[1]), f"no alternative text, or none with a number: {tag[:200]}"


def test_the_readmes_picture_is_the_first_of_notebook_04() -> None:
    assert make_book.picture(NOTEBOOKS[4]).startswith(b"\x89PNG")
