"""Runs the notebooks from top to bottom with their default parameters and stores them with outputs that can be committed.

nbval compares its own outputs with these, so they are made in an empty home, as nbval's are. What depends on the machine is
removed: stderr, widget views (their plain form stays), all metadata except tags.
"""

import base64
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from mistral_lib.run import hardware

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
README_PICTURE = NOTEBOOKS.parent / "docs" / "demo.png"
MODEL = ("03", "04", "05")  # notebooks whose outputs depend on the compute type
WIDGET = "application/vnd.jupyter.widget-view+json"


def make(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOKS)}}).execute()
    remove_debris(notebook)
    if path.name[:2] in MODEL:
        notebook.metadata["compute_type"] = hardware.choose_dtype()[0]
    partial = path.with_suffix(".partial")
    nbformat.write(notebook, partial)
    os.replace(partial, path)


def remove_debris(notebook: nbformat.NotebookNode) -> None:
    """Keep what a reader sees and a test compares; remove what differs between two runs of the same notebook."""
    notebook.metadata = {key: notebook.metadata[key] for key in ("kernelspec",) if key in notebook.metadata}
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "data" in output:
                    output["data"].pop(WIDGET, None)


def picture(path: Path) -> bytes:
    """The first figure that a notebook shows."""
    cells = nbformat.read(path, as_version=4).cells
    shown = "".join(output.get("data", {}).get("text/html", "") for cell in cells for output in cell.get("outputs", []))
    return base64.b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', shown)[1])


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mistral-book-") as home:
        os.environ["MISTRAL_WORKBOOK_HOME"] = home
        os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
        for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
            print(path.name, flush=True)
            make(path)
    README_PICTURE.write_bytes(picture(NOTEBOOKS / "04_evaluate_adapter.ipynb"))


if __name__ == "__main__":
    sys.exit(main())
