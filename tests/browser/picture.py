"""Takes the README's picture of JupyterLab: notebook 03 over the demo run of this home, scrolled to the live training page.

python -m tests.browser.picture     # writes docs/lab.png; a training that is needed is started and shown going
"""

import tempfile
from pathlib import Path

import nbformat
from playwright.sync_api import sync_playwright

from mistral_lib import home
from tests.browser.jupyterlab import CHROMIUM, Notebook, Server

PICTURE = home.project() / "docs" / "lab.png"
TO_THE_PAGE = """() => [...document.querySelectorAll('.jp-Notebook .widget-html')].find(
    part => part.innerText.includes('loss of the last batch')).closest('.jp-Cell').scrollIntoView()"""


def take(server: Server, name: str) -> bytes:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = Notebook(browser.new_context(viewport={"width": 1200, "height": 800}), server, name).ready()
        page.do("notebook:run-all-cells")
        page.shows("loss of the last batch", 600)
        page.wait("document.querySelector('.widget-html img')")
        page.page.evaluate("() => { window.jupyterapp.shell.collapseLeft(); window.jupyterapp.shell.collapseRight() }")
        for _ in range(3):  # cells above are drawn only as they come near, which moves the page
            page.page.evaluate(TO_THE_PAGE)
            page.page.wait_for_timeout(1500)
        return page.page.screenshot()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        book = nbformat.read(home.notebooks() / "03_train_adapter.ipynb", as_version=4)
        for cell in book.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(book, Path(folder, "03_train_adapter.ipynb"))
        server = Server(Path(folder))
        try:
            PICTURE.write_bytes(take(server, "03_train_adapter.ipynb"))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
