"""Notebooks 00 and 01 from top to bottom by the menu's command, and their widgets operated, in a real browser over one finished run."""

from collections.abc import Callable

from mistral_lib import exclusions, home, params
from mistral_lib.run import Run
from tests.browser.jupyterlab import Notebook


def run_through(page: Notebook) -> Notebook:
    """Run all cells: no error, each cell once, and every widget is there instead of its plain text."""
    page.run_all()
    counts = [cell["count"] for cell in page.cells() if cell["source"].strip()]
    assert not page.errors() and counts == list(range(1, len(counts) + 1))
    page.wait("!document.querySelector('.jp-Notebook').innerText.includes('Loading widget')")
    return page


def test_00_decisions_are_turned_and_saved(notebook: Callable[..., Notebook], finished: Run) -> None:
    page = run_through(notebook("00"))
    page.slide("max_tokens")
    page.press("save as a parameter file")
    page.shows("Saved:")
    saved = params.load(home.runs() / "small.yaml")
    assert saved.max_tokens == 256 and saved == finished.settings.model_copy(update={"max_tokens": 256})


def test_01_rows_are_filtered_stepped_through_and_excluded(notebook: Callable[..., Notebook], finished: Run) -> None:
    page = run_through(notebook("01"))
    page.shows("600 of 600 rows")
    page.press("next")
    page.slide("characters", "End")  # the shortest that is wanted: as long as the longest
    page.shows("of 600 rows; 0 excluded by hand")
    page.wait("!document.querySelector('.jp-Notebook').innerText.includes('600 of 600 rows')")
    page.press("exclude this record")
    page.shows("1 excluded by hand")
    assert len(exclusions.read(exclusions.place(finished.settings))) == 1
    page.press("take it in again")
    page.shows("0 excluded by hand")
    assert not exclusions.read(exclusions.place(finished.settings))
