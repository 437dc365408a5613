"""Report and comparison as a browser shows them: on a desktop, a phone and paper, without requests to the network."""

from pathlib import Path
from typing import Any

import pytest

from mistral_lib.commands import compare_runs
from mistral_lib.run import Run
from tests.commands.test_compare_runs import evaluated_run

OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
CUT = """() => [...document.querySelectorAll('.scroll, pre, td')].filter(part => part.scrollWidth > part.clientWidth + 1 &&
    getComputedStyle(part).overflowX !== 'visible').map(part => part.innerText.slice(0, 60))"""
EMPTY = "() => [...document.images].filter(image => !image.naturalWidth).length"


@pytest.fixture(scope="module")
def pages(finished: Run) -> dict[str, Path]:
    """The report of a finished run, and a comparison of three runs with long names."""
    made_from = finished.settings.model_dump(include={"corpus_paths", "base_model"})
    runs = [evaluated_run(f"learning_rate_{n}e-3_rank_16_all_linear", 0.1 * n, n, learning_rate=n * 1e-3, **made_from) for n in (1, 2, 3)]
    return {"report": finished.folder / "evaluation" / "report.html", "comparison": compare_runs.write(runs)[1]}


@pytest.mark.parametrize("kind", ["report", "comparison"])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_fits_its_window_and_requests_nothing(browser: Any, pages: dict[str, Path], kind: str, width: int) -> None:
    context, asked = browser.new_context(viewport={"width": width, "height": 844}), []
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[kind].as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [pages[kind].as_uri()]
    assert page.evaluate(OVERFLOW) <= 0 and page.evaluate(EMPTY) == 0 and page.query_selector("img")
    if width > 1000:
        assert page.evaluate(CUT) == [], "on a desktop every column is visible"
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 718, "height": 1000})  # A4 at 96 dots an inch, less margins of a centimeter
        assert page.evaluate(OVERFLOW) <= 0, "and on paper, which cannot be scrolled"
    context.close()
