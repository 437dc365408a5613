"""One home with a small complete run, one JupyterLab with copies of the notebooks, one browser: shared by all browser tests."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from mistral_lib.evaluation import evaluate
from mistral_lib.preparation import explore, prepare
from mistral_lib.run import Run, files, paths
from tests.browser.jupyterlab import CHROMIUM, COMMAND, Notebook, Server
from tests.support.corpora import rows, short_run

REQUIRED = os.environ.get("BROWSER_TESTS") == "required"  # in CI, where a missing browser is a failure and not a skipped test

SMALL: dict[str, Any] = {
    "run_name": "small", "corpus_paths": ["corpora/small"], "max_tokens": 128, "max_steps": 8,
    "checkpoint_every_steps": 4, "learning_rate": 5e-3, "validation_share": 0.15, "test_share": 0.15, "max_validation_tokens": 1024,
    "max_test_tokens": 1024, "sample_count": 4, "max_new_tokens": 64, "general_prompts": 4,
}  # fmt: skip


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        words = f"no Chromium here; as root: {COMMAND}"
        pytest.fail(words) if REQUIRED else pytest.skip(words)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="package")
def finished(browser: Any, tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A home with a run of the tiny model that has completed all stages."""
    place = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(paths.VARIABLE, str(place))
        for domain in ("red", "green", "blue"):
            files.write_json_lines(place / "corpora" / "small" / f"{domain}.jsonl", rows(domain, 200))
        run = Run.open(short_run(**SMALL, base_model=tiny_model))
        explore.explore(run)
        prepare.prepare(run)
        subprocess.run([sys.executable, "-m", "mistral_lib", "train", str(run.folder)], check=True, capture_output=True)
        evaluate.evaluate(run)
        yield run


@pytest.fixture(scope="package")
def server(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("notebooks"))
    yield running
    running.stop()


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    one = browser.new_context(viewport={"width": 1300, "height": 1000})
    yield one
    one.close()


@pytest.fixture
def notebook(context: Any, server: Server, finished: Run) -> Iterator[Callable[..., Notebook]]:
    """Open a notebook by its number, with the parameters of the complete run and `changes`. Called again, it reopens the notebook."""

    def opened(number: str, **changes: Any) -> Notebook:
        source = next(paths.notebooks().glob(f"{number}_*.ipynb"))
        copy = server.words.parent / source.name
        if not copy.exists():
            values = finished.settings.model_copy(update=changes).model_dump()
            nbformat.write(as_fresh(load_notebook_node(str(source)), values), copy)
        return Notebook(context, server, source.name)

    yield opened
    server.close_kernels()
    for path in server.words.parent.glob("*.ipynb"):
        Path(path).unlink()


def as_fresh(book: nbformat.NotebookNode, values: dict[str, Any]) -> nbformat.NotebookNode:
    """The notebook as papermill starts it: with the values in a cell of their own, and without outputs."""
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return parameterize_notebook(book, values)
