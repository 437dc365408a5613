"""Where runs, models, corpora, parameters and notebooks are; no other module decides it.

Runs, models, corpora and the working copies of the notebooks are made in the workbook's home: the folder that MISTRAL_WORKBOOK_HOME names, or else the project itself.
Never the current directory: papermill, JupyterLab and nbval each start notebooks in a different one.
"""

import os
from pathlib import Path

import mistral_lib

VARIABLE = "MISTRAL_WORKBOOK_HOME"


def project() -> Path:
    """The folder with `notebooks/` and `params/`, found from the place of this package and not from the current directory."""
    root = Path(mistral_lib.__file__).resolve().parents[1]
    if not (root / "notebooks").is_dir() or not (root / "params").is_dir():
        raise FileNotFoundError(
            f"mistral_lib is at {root}, which has no notebooks/ and params/: run `make setup` in a clone of the workbook"
        )
    return root


def home() -> Path:
    """The folder under which `runs/`, `models/`, `corpora/` and `workbook/` are made."""
    chosen = os.environ.get(VARIABLE)
    return Path(chosen).expanduser().resolve() if chosen else project()


def runs() -> Path:
    return home() / "runs"


def models() -> Path:
    return home() / "models"


def corpora() -> Path:
    return home() / "corpora"


def workbook() -> Path:
    """The working copies of the notebooks, which `lab` opens."""
    return home() / "workbook"


def params() -> Path:
    return project() / "params"


def notebooks() -> Path:
    """The tracked notebooks; only `make book` writes there."""
    return project() / "notebooks"


def short(path: Path) -> str:
    """The path for a message: relative to the home or the project if it is inside one of them."""
    for root in (home(), project()):
        if path.is_relative_to(root):
            return str(path.relative_to(root))
    return str(path)
