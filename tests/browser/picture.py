"""Screenshots of the notebooks in JupyterLab: the one in the README, or every notebook in both themes.

python -m tests.browser.picture                # docs/lab.png for the README: the live page of notebook 03 over a complete demo run
python -m tests.browser.picture FOLDER 02 03   # these notebooks (all, if none is named), light and dark, from top to bottom

Both run the notebooks over the demo run of this home (MISTRAL_WORKBOOK_HOME), which must be complete.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from mistral_lib.commands import workbook
from mistral_lib.run import Run, paths
from tests.browser.jupyterlab import CHROMIUM, Notebook, Server

PICTURE = paths.project() / "docs" / "lab.png"
RUN = "demo"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
WIDTH, HEIGHT = 1440, 1200  # a laptop's width; the height of one picture
PATIENCE = 600  # seconds for one notebook
ALL_CELLS = {"windowingMode": "none"}  # cells outside the window are rendered as well
TO_THE_PAGE = """() => [...document.querySelectorAll('.jp-Notebook .widget-html')].find(
    part => part.innerText.includes('loss of the last batch')).closest('.jp-Cell').scrollIntoView()"""
OUTER = "document.querySelector('.jp-WindowedPanel-outer')"


def require_demo_run() -> None:
    """Errors: SystemExit if this home has no complete demo run."""
    folder = paths.runs() / RUN
    found = Run.existing(folder).status("evaluation") if (folder / "manifest.json").exists() else "missing"
    if found != "complete":
        raise SystemExit(f"the evaluation of {paths.short(folder)} is {found}, expected complete; make it with: make demo")


@contextmanager
def lab(theme: str) -> Iterator[tuple[Server, Any]]:
    """JupyterLab with copies of all notebooks without their outputs, and a browser."""
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        for source in paths.notebooks().glob("*.ipynb"):
            (folder / source.name).write_bytes(workbook.without_outputs(source))
        place = folder / ".settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps(ALL_CELLS))
        server, browser = Server(folder, THEMES[theme]), playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield server, browser
        finally:
            browser.close()
            server.stop()


def opened(server: Server, browser: Any, number: str) -> Notebook:
    """A notebook that was run from top to bottom, with the side panels closed."""
    name = next(paths.notebooks().glob(f"{number}_*.ipynb")).name
    page = Notebook(browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}), server, name).run_all(PATIENCE)
    page.page.evaluate("() => { window.jupyterapp.shell.collapseLeft(); window.jupyterapp.shell.collapseRight() }")
    page.page.wait_for_timeout(1500)
    return page


def readme_picture() -> None:
    with lab("light") as (server, browser):
        page = opened(server, browser, "03").page
        page.set_viewport_size({"width": 1200, "height": 800})
        for _ in range(2):  # cells that become visible may move the page
            page.evaluate(TO_THE_PAGE)
            page.wait_for_timeout(1500)
        PICTURE.write_bytes(page.screenshot())


def all_of(number: str, theme: str, folder: Path) -> None:
    """Screenshots from top to bottom: FOLDER/03_dark_00.png and so on."""
    with lab(theme) as (server, browser):
        page = opened(server, browser, number)
        assert not page.errors(), page.errors()
        height, step = page.page.evaluate(f"() => [{OUTER}.scrollHeight, {OUTER}.clientHeight - 20]")
        for part, top in enumerate(range(0, height, step)):
            page.page.evaluate(f"top => {{ {OUTER}.scrollTop = top }}", top)
            page.page.wait_for_timeout(400)
            page.page.screenshot(path=str(folder / f"{number}_{theme}_{part:02}.png"))


def main(arguments: list[str]) -> None:
    require_demo_run()
    if not arguments:
        return readme_picture()
    folder, numbers = Path(arguments[0]), arguments[1:] or sorted(path.name[:2] for path in paths.notebooks().glob("*.ipynb"))
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        for theme in THEMES:
            all_of(number, theme, folder)


if __name__ == "__main__":
    main(sys.argv[1:])
