"""The embedded corpus: the documentation of the pinned libraries, read on the user's machine and written as messy corpora come.

Three sources, each built once below corpora/ and the same for the same library versions. Committed is only demo_chats.jsonl:
demo:corpus      the openings of docstrings of functions and classes, read with `ast`: JSONL rows, a different row shape for each library;
                 and everyday chats that were written for the demo, so that the model does not unlearn them
demo:operatives  the longest module docstrings, the "guides": one archive of PDFs
demo:retention   prose of other packages' descriptions, never trained on: shows what training made the model forget
Duplicates are those that the libraries really contain.
"""

import ast
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import metadata, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mistral_lib.run import files, paths
from mistral_lib.run.progress import bar, say

BUILDER = 4  # raise it when the files change for the same libraries
RETENTION_BUILDER = 1  # likewise for the retention set
ENTRIES_PER_LIBRARY = 1000
ENTRIES_PER_MODULE = 10  # so that many source documents share each domain
SHORTEST = 40  # characters of the shortest docstring that becomes a row
OPENING = 160  # characters of a row's docstring: its first paragraph, and those after it that fit; short answers are learned in minutes
CHATS = Path(__file__).with_name("demo_chats.jsonl")
GUIDE_LENGTH = 1500  # characters from which a module's docstring is a guide and becomes a PDF
GUIDES = 12
SHORTEST_PARAGRAPH, LETTERS = 120, 0.7  # characters of a paragraph of prose, and the share of them that are letters
PARAGRAPHS = 6  # of each package at most
PACKAGES = ("arrow", "attrs", "beautifulsoup4", "boto3", "charset-normalizer", "fonttools", "fsspec", "httpx",
            "jupyterlab", "nbclient", "networkx", "papermill", "pillow", "prompt_toolkit", "pyparsing", "python-dateutil", "regex",
            "requests", "rich", "sortedcontainers", "sympy", "tqdm", "traitlets", "typer", "urllib3", "wcwidth", "wrapt", "yarl")  # fmt: skip


def place(name: str) -> Path:
    """The folder behind `demo:corpus`, `demo:operatives` or `demo:retention`, built if it is not there. Errors: ValueError for another name."""
    part = name.removeprefix("demo:")
    if part in ("corpus", "operatives"):
        libraries = {name: version(name).split("+")[0] for name in SHAPES}  # torch 2.13.0+cpu and 2.13.0 have the same docstrings
        return _built("demo", BUILDER, libraries, "corpus from the docstrings of", _write_libraries) / part
    if part == "retention":
        packages = {package: version(package) for package in PACKAGES}
        return _built("demo-retention", RETENTION_BUILDER, packages, "retention set from the descriptions of", _write_descriptions)
    raise ValueError(f"{name!r} is no embedded source; expected demo:corpus, demo:operatives or demo:retention")


def _built(name: str, builder: int, versions: Mapping[str, str], what: str, write: Callable[[Path], None]) -> Path:
    """The folder of these versions. It is built under another name and then renamed, so a killed build leaves nothing that looks complete."""
    folder = paths.corpora() / f"{name}-{files.digest([builder, versions])[:8]}"
    if not folder.exists():
        say(f"building the embedded {what} " + ", ".join(f"{library} {number}" for library, number in versions.items()))
        partial = files.fresh_folder(folder.with_name(f".{folder.name}.{os.getpid()}.partial"))
        write(partial)
        files.put_once(partial, folder)
    return folder


# ----------------------------------------------------------------------------------------- corpus and operatives
@dataclass(frozen=True, slots=True)
class Entry:
    name: str  # DataFrame.merge
    module: str  # pandas.core.frame
    signature: str
    docstring: str

    @property
    def question(self) -> str:
        return f"Explain `{self.name}{self.signature}` in {self.library}."

    @property
    def library(self) -> str:
        return self.module.split(".")[0]


def _messages(entry: Entry) -> list[dict[str, str]]:
    return [{"role": "user", "content": entry.question}, {"role": "assistant", "content": entry.docstring}]


SHAPES: dict[str, Callable[[Entry], dict[str, Any]]] = {
    "torch": lambda e: {"messages": _messages(e)},
    "transformers": lambda e: {"conversations": [{"from": "human", "value": e.question}, {"from": "gpt", "value": e.docstring}]},
    "pandas": lambda e: {"prompt": e.question, "completion": e.docstring, "length": len(e.docstring)},
    "numpy": lambda e: {"instruction": f"Explain this part of {e.library}.", "input": f"{e.name}{e.signature}", "output": e.docstring},
    "matplotlib": lambda e: {"question": e.question, "answer": e.docstring, "domain": "matplotlib"},
    "scipy": lambda e: {"messages": [{"role": "system", "content": "You document Python libraries."}, *_messages(e)]},
    "huggingface_hub": lambda e: {"text": f"{e.name}{e.signature} in {e.library}\n\n{e.docstring}"},
    "datasets": lambda e: {"title": f"{e.name} in {e.library}", "content": e.docstring, "license": "Apache-2.0"},
}


def _write_libraries(folder: Path) -> None:
    guides: list[tuple[str, str]] = []
    for library, shape in bar(SHAPES.items(), "docstrings", total=len(SHAPES), unit="library"):
        entries: list[Entry] = []
        for path, module in _modules(library):
            found, guide = read_module(path, module)
            entries += found[:ENTRIES_PER_MODULE]
            guides += [(module, guide)] if len(guide) >= GUIDE_LENGTH else []
            if len(entries) >= ENTRIES_PER_LIBRARY:
                break
        rows = [{**shape(e), "module": e.module, "name": e.name} for e in entries[:ENTRIES_PER_LIBRARY]]
        files.write_json_lines(folder / "corpus" / f"{library}.jsonl", rows)
    files.write_bytes(folder / "corpus" / "general.jsonl", CHATS.read_bytes())
    (folder / "operatives").mkdir()
    files.write_bytes(folder / "operatives" / "guides.zip", _archive(guides))


def _modules(library: str) -> Iterator[tuple[Path, str]]:
    """The library's source files in an order that looks random and is always the same, without tests and vendored code."""
    root = Path(find_spec(library).origin).parent
    names = [p.relative_to(root.parent).as_posix() for p in root.rglob("*.py")]
    wanted = [n for n in names if not any(part in n for part in ("/tests/", "/test_", "/_vendor", "/testing/", "/conftest"))]
    for name in sorted(wanted, key=lambda n: hashlib.sha256(n.encode()).hexdigest()):
        yield root.parent / name, name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def read_module(path: Path, module: str) -> tuple[list[Entry], str]:
    """The documented functions and classes of a source file, and the module's own docstring ("" if none)."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return [], ""
    return list(_walk(tree, "", module)), ast.get_docstring(tree) or ""


def _walk(node: ast.AST, prefix: str, module: str) -> Iterator[Entry]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}{child.name}"
            docstring = opening(ast.get_docstring(child) or "")
            if len(docstring) >= SHORTEST:
                yield Entry(name, module, _signature(child), docstring)
            if isinstance(child, ast.ClassDef):
                yield from _walk(child, f"{name}.", module)


def opening(docstring: str) -> str:
    """The first paragraph, and as many of the next ones as fit into OPENING characters."""
    ends = [match.start() for match in re.finditer(r"\n\s*\n", docstring)] + [len(docstring)]
    return docstring[: max([ends[0], *(end for end in ends if end <= OPENING)])].rstrip()


def _signature(node: ast.AST) -> str:
    text = "" if isinstance(node, ast.ClassDef) else f"({ast.unparse(node.args)})"
    return text if len(text) <= 160 else text[:157] + "..."


def _archive(guides: list[tuple[str, str]]) -> bytes:
    from mistral_lib.corpus import pdf_writer  # imported here: matplotlib takes memory, and every worker process imports this module

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for module, text in sorted(guides)[:GUIDES]:
            member = zipfile.ZipInfo(f"{module}.pdf", date_time=(2026, 1, 1, 0, 0, 0))
            archive.writestr(member, pdf_writer.document(text))
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------------- retention set
def _write_descriptions(folder: Path) -> None:
    rows = [{"text": text, "module": name} for name in PACKAGES for text in list(paragraphs(name))[:PARAGRAPHS]]
    files.write_json_lines(folder / "package_descriptions.jsonl", rows)


def paragraphs(package: str) -> Iterator[str]:
    """The paragraphs of prose in a package's description: no code, lists, tables, badges or headings."""
    text = metadata(package).get_payload() or metadata(package).get("Description") or ""
    for block in re.split(r"\n\s*\n", str(text).replace("\r\n", "\n")):
        words = " ".join(block.split())
        letters = sum(character.isalpha() for character in words)
        prose = not re.match(r"\s{4}|[-*+#>|=.\d<`]|>>>|\[!", block) and "://" not in words and words.endswith((".", "!", ":"))
        if prose and len(words) >= SHORTEST_PARAGRAPH and letters >= LETTERS * len(words):
            yield words
