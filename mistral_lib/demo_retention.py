"""The embedded retention set: prose that the demo never trains on, so that what training made the model forget can be measured.

It is what pinned packages, none of them in the embedded corpus, say of themselves in their descriptions: English prose in
paragraphs, another kind of text than docstrings. Built once on the user's machine; the same for the same versions.
"""

import os
import re
from collections.abc import Iterator
from importlib.metadata import metadata, version
from pathlib import Path

from mistral_lib.run import files, paths
from mistral_lib.run.progress import say

PACKAGES = ("arrow", "attrs", "beautifulsoup4", "boto3", "charset-normalizer", "fonttools", "fsspec", "httpx",
            "jupyterlab", "nbclient", "networkx", "papermill", "pillow", "prompt_toolkit", "pyparsing", "python-dateutil", "regex",
            "requests", "rich", "sortedcontainers", "sympy", "tqdm", "traitlets", "typer", "urllib3", "wcwidth", "wrapt", "yarl")  # fmt: skip
SHORTEST_PARAGRAPH, LETTERS = 120, 0.7  # characters of a paragraph, and the share of them that are letters
PARAGRAPHS = 6  # of each package at most
RETENTION_BUILDER = 1  # raise it when the rows change for the same packages


def retention_place() -> Path:
    """The folder behind `demo:retention`, built if it is not there."""
    versions = {name: version(name) for name in PACKAGES}
    folder = paths.corpora() / f"demo-retention-{files.digest([RETENTION_BUILDER, versions])[:8]}"
    if not folder.exists():
        say("building the embedded retention set from the descriptions of " + ", ".join(PACKAGES))
        partial = files.fresh_folder(folder.with_name(f".{folder.name}.{os.getpid()}.partial"))
        rows = [{"text": text, "module": name} for name in PACKAGES for text in list(paragraphs(name))[:PARAGRAPHS]]
        files.write_json_lines(partial / "package_descriptions.jsonl", rows)
        files.put_once(partial, folder)
    return folder


def paragraphs(package: str) -> Iterator[str]:
    """The paragraphs of prose in a package's description: no code, lists, tables, badges or headings."""
    text = metadata(package).get_payload() or metadata(package).get("Description") or ""
    for block in re.split(r"\n\s*\n", str(text).replace("\r\n", "\n")):
        words = " ".join(block.split())
        letters = sum(character.isalpha() for character in words)
        prose = not re.match(r"\s{4}|[-*+#>|=.\d<`]|>>>|\[!", block) and "://" not in words and words.endswith((".", "!", ":"))
        if prose and len(words) >= SHORTEST_PARAGRAPH and letters >= LETTERS * len(words):
            yield words
