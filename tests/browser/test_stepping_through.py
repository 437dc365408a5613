"""Notebooks 00 and 01 in a real browser: what the form and the explorer show and write."""

import json
import re
from collections.abc import Callable

import nbformat
from papermill.iorw import load_notebook_node

from mistral_lib.corpus import exclusions
from mistral_lib.run import Run, current_file, params, paths
from tests.browser.conftest import as_fresh
from tests.browser.jupyterlab import Notebook, Server, label
from tests.browser.legibility import faults

OUTPUTS = ".jp-OutputArea-output"
CUT_CHOICES = """() => [...document.querySelectorAll('.jp-OutputArea-output select')].filter(one => {
    const pen = document.createElement('canvas').getContext('2d');
    pen.font = getComputedStyle(one).font;
    return one.clientWidth && pen.measureText(one.selectedOptions[0].text).width + 24 > one.clientWidth;  // 24: padding and arrow
}).map(one => one.selectedOptions[0].text)"""


def run_through(page: Notebook) -> Notebook:
    """Run all cells: no error, each cell once, and every widget is loaded."""
    page.run_all()
    counts = [cell["count"] for cell in page.cells() if cell["source"].strip()]
    assert not page.errors() and counts == list(range(1, len(counts) + 1))
    page.wait("!document.querySelector('.jp-Notebook').innerText.includes('Loading widget')")
    return page


def choose(page: Notebook, name: str, option: str) -> None:
    page.page.select_option(f".widget-dropdown:has({label(name)}) select", label=option)


def write(page: Notebook, name: str, words: str) -> None:
    """Type into a field and leave it."""
    field = f"{OUTPUTS} .jupyter-widgets:has(> {label(name)}) >> :is(input, textarea)"
    page.page.fill(field, words)
    page.page.press(field, "Tab")


def row(page: Notebook, name: str) -> str:
    """The text of the estimate under this name."""
    return page.page.inner_text(f"{OUTPUTS} tr:has(b:text-is({json.dumps(name)})) td >> nth=1")


def becomes(page: Notebook, name: str, words: str) -> None:
    page.page.wait_for_selector(f"{OUTPUTS} tr:has(b:text-is({json.dumps(name)})):has-text({json.dumps(words)})")


def test_00_decisions_are_changed_checked_and_saved(notebook: Callable[..., Notebook], finished: Run) -> None:
    page = run_through(notebook("00"))
    page.slide("max_tokens")
    becomes(page, "memory", "fits")
    before = {name: row(page, name) for name in ("memory", "time", "USD", "steps", "batch", "budget")}
    assert "256 tokens a block" in before["batch"] and "none" in before["USD"] and before["budget"].startswith("none")
    page.shows("600 rows")
    choose(page, "instance", "g5.xlarge")
    write(page, "max_steps", "2000000")
    write(page, "max_usd", "0.01")
    becomes(page, "memory", "of 22.0 GiB: fits")
    becomes(page, "budget", "max_usd = 0.01")
    after = {name: row(page, name) for name in before}
    assert {name for name in before if after[name] == before[name]} == {"batch"}, after
    assert re.match(r"[\d.]+ – [\d.]+, at 1.006 an hour", after["USD"]) and "stops it after" in after["budget"]
    assert not faults(page) and page.page.evaluate(CUT_CHOICES) == []

    write(page, "corpus_paths", "corpora/smal")
    page.shows("Not found:")
    page.shows("corpora/smal")
    assert page.page.is_disabled("button:has-text('save as a parameter file')")
    write(page, "corpus_paths", "corpora/small")
    page.page.wait_for_selector("button:has-text('save as a parameter file'):enabled")
    page.press("save as a parameter file")
    page.shows("Saved:")
    saved = params.load(paths.runs() / "small.yaml")
    chosen = {"max_tokens": 256, "instance": "g5.xlarge", "max_steps": 2_000_000, "max_usd": 0.01}
    assert saved == finished.settings.model_copy(update=chosen)


def test_01_rows_are_filtered_searched_stepped_through_and_excluded(
    notebook: Callable[..., Notebook], finished: Run, server: Server
) -> None:
    """The notebook is opened as a user opens it: with its own parameters cell, after the form has saved its file."""
    params.save(finished.settings, paths.runs() / "small.yaml", replace=True)
    current_file.write(paths.runs() / "small.yaml")
    source = next(paths.notebooks().glob("01_*.ipynb"))
    nbformat.write(as_fresh(load_notebook_node(str(source)), {}), server.words.parent / source.name)
    page = run_through(notebook("01"))
    said = "".join(output.get("text", "") for cell in page.cells() for output in cell["outputs"])
    assert "Parameters from runs/small.yaml; they replace these values of the demo in this cell: run_name = 'small'" in said
    page.shows("600 of 600 rows")
    page.press("next")
    page.shows("blue.jsonl:2 ")
    choose(page, "domain", "red")
    page.shows("200 of 600 rows")
    write(page, "search", "RED.KERNEL_1")  # in red.kernel_10, red.kernel_18, red.kernel_106 and so on; a plain loop gives the expected rows
    lines = (paths.corpora() / "small" / "red.jsonl").read_text().splitlines()
    found = [number for number, line in enumerate(lines, 1) if "red.kernel_1" in line]
    page.shows(f"{len(found)} of 600 rows")
    page.shows(f"red.jsonl:{found[0]} ")
    for part in ("as a raw row", "as a record", "tokens graded"):
        page.shows(part)
    assert page.page.locator(f"{OUTPUTS} .widget-html span[style*='background:#cdebc5']").count() > 5, "graded tokens are colored"
    assert not faults(page) and page.page.evaluate(CUT_CHOICES) == []

    page.press("exclude this record")
    page.shows("1 excluded by hand")
    assert list(exclusions.read(exclusions.place(finished.settings)).values()) == [f"red.jsonl:{found[0]}"]
    page.press("include it again")
    page.shows("0 excluded by hand")
    assert not exclusions.read(exclusions.place(finished.settings))
    page.press("its near-duplicates")
    page.shows("no near-duplicates of this record")
    write(page, "search", "")
    page.shows("200 of 600 rows")
    page.slide("characters", "End")  # the lower limit at the longest record
    page.wait("!document.querySelector('.jp-Notebook').innerText.includes('200 of 600 rows')")
