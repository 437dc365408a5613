"""Notebooks 00 and 01 in a real browser: what the form and the explorer show when they are operated, and what they write."""

import json
import re
from collections.abc import Callable

import nbformat
from papermill.iorw import load_notebook_node

from mistral_lib import exclusions, home, params
from mistral_lib.run import Run
from tests.browser.conftest import as_fresh
from tests.browser.jupyterlab import Notebook, Server
from tests.browser.test_stepping_through import run_through

OUTPUTS = ".jp-OutputArea-output"
CUT = """() => [...document.querySelectorAll('%s, %s .widget-html, %s .widget-html-content, %s .widget-box, %s table, .jp-CodeCell .cm-content')]
    .filter(part => part.clientWidth && part.scrollWidth > part.clientWidth + 2)
    .map(part => `${part.scrollWidth} > ${part.clientWidth}: ${part.innerText.slice(0, 80)}`)""".replace("%s", OUTPUTS)
FAINT = """() => {
    const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => [r, g, b].map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
        .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
    const ground = part => { for (; part; part = part.parentElement) {
        const colour = numbers(getComputedStyle(part).backgroundColor);
        if (colour.length < 4 || colour[3] > 0.99) return colour } return [255, 255, 255] };
    return [...document.querySelectorAll('.jp-OutputArea-output *')]
        .filter(part => part.clientWidth && !part.disabled && [...part.childNodes].some(child => child.nodeType === 3 && child.data.trim()))
        .map(part => { const [a, b] = [light(numbers(getComputedStyle(part).color)), light(ground(part))];
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), part.innerText.slice(0, 60)] })
        .filter(([contrast]) => contrast < 4.5).map(([contrast, words]) => `${contrast.toFixed(1)}: ${words}`) }"""  # WCAG 2.2, 1.4.3


def looks_well_in_both_themes(page: Notebook, part: str) -> None:
    """Nothing in view is wider than its place, and no word is too faint to be read."""
    page.page.evaluate("() => window.jupyterapp.shell.collapseRight()")
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        page.page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        page.wait(f"document.body.dataset.jpThemeName === {json.dumps(theme)}")
        page.page.evaluate("part => document.querySelector(part).scrollIntoView()", part)
        page.page.wait_for_timeout(500)
        assert page.page.evaluate(CUT) == [] and page.page.evaluate(FAINT) == [], theme


def choose(page: Notebook, name: str, option: str) -> None:
    page.page.select_option(f".widget-dropdown:has(label:text-is({json.dumps(name)})) select", label=option)


def write(page: Notebook, name: str, words: str) -> None:
    """Type into a field and leave it."""
    field = f"{OUTPUTS} .jupyter-widgets:has(> label:text-is({json.dumps(name)})) >> :is(input, textarea)"
    page.page.fill(field, words)
    page.page.press(field, "Tab")


def row(page: Notebook, name: str) -> str:
    """What the estimate says under this name."""
    return page.page.inner_text(f"{OUTPUTS} tr:has(b:text-is({json.dumps(name)})) td >> nth=1")


def becomes(page: Notebook, name: str, words: str) -> None:
    page.page.wait_for_selector(f"{OUTPUTS} tr:has(b:text-is({json.dumps(name)})):has-text({json.dumps(words)})")


def test_00_decisions_are_turned_checked_and_saved(notebook: Callable[..., Notebook], finished: Run) -> None:
    page = run_through(notebook("00"))
    page.slide("max_tokens")
    becomes(page, "memory", "fits")
    before = {name: row(page, name) for name in ("memory", "time", "USD", "steps", "budget")}
    assert "blocks of 256" in before["steps"] and "none" in before["USD"] and before["budget"].startswith("none")
    page.shows("600 rows")
    choose(page, "instance", "g5.xlarge")
    write(page, "max_steps", "2000000")
    write(page, "max_usd", "0.01")
    becomes(page, "memory", "of 22.0 GiB: fits")
    becomes(page, "budget", "max_usd = 0.01")
    after = {name: row(page, name) for name in before}
    assert all(after[name] != before[name] for name in before), after
    assert re.match(r"[\d.]+ – [\d.]+, at 1.006 an hour", after["USD"]) and "stops it after" in after["budget"]
    looks_well_in_both_themes(page, ".widget-slider")

    write(page, "corpus_paths", "corpora/smal")
    page.shows("Not found:")
    page.shows("corpora/smal")
    assert page.page.is_disabled("button:has-text('save as a parameter file')")
    write(page, "corpus_paths", "corpora/small")
    page.page.wait_for_selector("button:has-text('save as a parameter file'):enabled")
    page.press("save as a parameter file")
    page.shows("Saved:")
    saved = params.load(home.runs() / "small.yaml")
    chosen = {"max_tokens": 256, "instance": "g5.xlarge", "max_steps": 2_000_000, "max_usd": 0.01}
    assert saved == finished.settings.model_copy(update=chosen)


def test_01_rows_are_filtered_searched_stepped_through_and_excluded(
    notebook: Callable[..., Notebook], finished: Run, server: Server
) -> None:
    """Opened as a person opens it: its parameters cell untouched, the form's file saved."""
    params.save(finished.settings, home.runs() / "small.yaml", replace=True)
    source = next(home.notebooks().glob("01_*.ipynb"))
    nbformat.write(as_fresh(load_notebook_node(str(source)), {}), server.words.parent / source.name)
    page = run_through(notebook("01"))
    said = "".join(output.get("text", "") for cell in page.cells() for output in cell["outputs"])
    assert "Parameters of runs/small.yaml, in place of this cell's defaults: run_name = 'small'" in said
    page.shows("600 of 600 rows")
    page.press("next")
    page.shows("blue.jsonl:2 ")
    choose(page, "domain", "red")
    page.shows("200 of 600 rows")
    write(page, "search", "RED.KERNEL_1")  # red.kernel_10 and red.kernel_18, _106, ...: as a plain loop finds them
    lines = (home.corpora() / "small" / "red.jsonl").read_text().splitlines()
    found = [number for number, line in enumerate(lines, 1) if "red.kernel_1" in line]
    page.shows(f"{len(found)} of 600 rows")
    page.shows(f"red.jsonl:{found[0]} ")
    for part in ("as it stands in its file", "as a record", "tokens graded"):
        page.shows(part)
    assert page.page.locator(f"{OUTPUTS} .widget-html span[style*='background:#cdebc5']").count() > 5, "graded tokens are coloured"
    looks_well_in_both_themes(page, ".widget-dropdown")

    page.press("exclude this record")
    page.shows("1 excluded by hand")
    assert list(exclusions.read(exclusions.place(finished.settings)).values()) == [f"red.jsonl:{found[0]}"]
    page.press("take it in again")
    page.shows("0 excluded by hand")
    assert not exclusions.read(exclusions.place(finished.settings))
    page.press("its near-duplicates")
    page.shows("a record and its")
    write(page, "search", "")
    page.shows("200 of 600 rows")
    page.slide("characters", "End")  # the shortest that is wanted: as long as the longest
    page.wait("!document.querySelector('.jp-Notebook').innerText.includes('200 of 600 rows')")
