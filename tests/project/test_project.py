"""README, docs, lock, environment and module lists agree with the tree."""

import ast
import itertools
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from mistral_lib import __main__
from mistral_lib.run import params, paths

ROOT = paths.project()
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
PACKAGES = sorted(path.parent for path in ROOT.glob("mistral_lib/*/__init__.py"))
NESTED = sorted(path.parent for path in ROOT.glob("mistral_lib/*/*/__init__.py"))  # packages in packages
COMMANDS = __main__.parser()._subparsers._group_actions[0].choices
README_WORDS = 1200  # as `wc -w` counts them, code blocks included
TERMS = {"adapter", "leak", "nats", "nbval", "near-duplicate", "operatives", "packed block", "papermill", "retention", "ship", "source document",
         "supervised tokens", "window"}  # fmt: skip

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
each_package = pytest.mark.parametrize("package", [*PACKAGES, *NESTED], ids=lambda package: package.name)


def blocks(page: Path, language: str = "bash") -> list[str]:
    """The code blocks of a page in one language; "" for those without."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.S | re.M)
    return [block for named, block in found if named == language]


def named_commands(page: Path) -> set[str]:
    """The workbook's own commands in a page: lines of its bash blocks and `python -m mistral_lib …` in its text."""
    lines = {line.strip() for block in blocks(page) for line in block.splitlines()}
    return lines | set(re.findall(r"`((?:python -m mistral_lib|make) [^`]+)`", page.read_text()))


def arguments(command: str) -> list[str] | None:
    """The arguments of `python -m mistral_lib` in a command, also under torchrun or accelerate; None for another command."""
    words = shlex.split(command, comments=True)
    place = next((i for i, pair in enumerate(itertools.pairwise(words)) if pair == ("-m", "mistral_lib")), None)
    return None if place is None else words[place + 2 :]


def test_the_length_of_the_readme_is_limited() -> None:
    assert len(README.split()) <= README_WORDS


def test_every_notebook_and_params_file_is_in_the_readme() -> None:
    for path in [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("params/*.yaml")]:
        assert path.name in README, path.name


def test_every_page_of_the_docs_is_linked_in_the_readme() -> None:
    for page in ROOT.glob("docs/*.md"):
        assert f"](docs/{page.name})" in README, page.name


@each_page
def test_the_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    for name in re.findall(r"`([\w/]+\.(?:py|ipynb|yaml|html))`", text):
        made_by_a_run = name.startswith("runs/") or name in ("report.html", "comparison.html", "params.yaml")
        assert made_by_a_run or (ROOT / name).exists() or any(ROOT.glob(f"[a-z]*/**/{name}")), (
            f"{page.name} names {name}, which does not exist"
        )


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.stem)
def test_the_links_of_a_page_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


@each_page
def test_the_commands_of_a_page_are_understood(page: Path, capsys: pytest.CaptureFixture) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for command in named_commands(page):
        words = shlex.split(command, comments=True)
        if words[:1] == ["make"]:
            assert words[1] in targets, command
        given = arguments(command)
        if given and not (len(given) == 1 and given[0] in COMMANDS):  # a name alone, in a sentence, is a mention
            try:
                __main__.parser().parse_args(given)
            except SystemExit:
                pytest.fail(f"{page.name}: {command}: {capsys.readouterr().err}")
        for word in given or []:
            assert not word.startswith("params/") or (ROOT / word).is_file(), command


def test_what_a_page_sets_is_valid_together() -> None:
    """Every `--set …` of a page, for the file that it names or else params/own_corpus.yaml."""
    found = 0
    for page in PAGES:
        for code in re.findall(r"`([^`]*--set [^`]*)`|^([^`\n]*--set [^`\n]*)$", page.read_text(), re.M):
            words = shlex.split("".join(code), comments=True)
            pairs = [value for word, value in itertools.pairwise(words) if word == "--set" and "=" in value]
            named = [word for word in words if word.startswith("params/") and word.endswith(".yaml")]
            params.load(ROOT / (named or ["params/own_corpus.yaml"])[0], pairs)
            found += bool(pairs)
    assert found >= 6


def test_the_docs_have_commands_to_check() -> None:
    assert sum(arguments(command) is not None for page in PAGES for command in named_commands(page)) >= 20


def test_the_tree_in_the_readme_is_that_of_the_library() -> None:
    """A line per package, each one importing only from those above it; the commands are those of the parser."""
    tree = next(block for block in blocks(ROOT / "README.md", "") if block.startswith("mistral_lib/"))
    order = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    listed = re.findall(r"^  (\w+)/ ", tree, re.M)
    in_order = [name for layer in reversed(order) for name in layer.split(" | ")]  # " | ": two that do not import each other
    assert listed == in_order and sorted(listed) == [package.name for package in PACKAGES]
    commands = re.search(r"python -m mistral_lib (.+)", tree)[1].split(", ")
    assert sorted(commands) == sorted(COMMANDS)


def test_the_glossary_has_the_terms_that_newcomers_look_for() -> None:
    terms = re.findall(r"^\| \*\*(.+?)\*\* \| .{20}", (ROOT / "docs" / "glossary.md").read_text(), re.M)
    assert set(terms) >= TERMS and terms == sorted(terms, key=str.lower)


@each_package
def test_each_package_lists_its_modules(package: Path) -> None:
    """A line per module, or package in it, in the docstring, in reading order; at most 18 of them."""
    lines = ast.get_docstring(ast.parse((package / "__init__.py").read_text())).splitlines()
    listed = [line.split()[0] for line in lines[1:] if re.match(r"[a-z_0-9]+  ", line)]
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"} | {path.name for path in NESTED if path.parent == package}
    assert sorted(listed) == sorted(modules) and len(modules) <= 18


def test_the_top_folder_of_the_library_has_only_packages() -> None:
    assert {path.name for path in ROOT.glob("mistral_lib/*.py")} == {"__init__.py", "__main__.py"}
    assert not [path for path in ROOT.glob("mistral_lib/*/") if path.name != "__pycache__" and path not in PACKAGES]


def test_the_environment_installs_the_lock(tmp_path: Path) -> None:
    """pip reads the list that conda would pass to it, as one file. All packages in it are installed here, so nothing is downloaded."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert "python=3.11" in environment["dependencies"] and "-r requirements.txt" in pip
    shutil.copy(ROOT / "requirements.txt", tmp_path)  # in a file, -r is relative to the file, -e to the folder in which pip runs
    (tmp_path / "list.txt").write_text("\n".join(pip))
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--no-build-isolation", "-r", tmp_path / "list.txt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"Would install (.+)-[\d.]+", done.stdout) == ["mistral-workbook"], done.stdout[-2000:]


def test_the_lock_pins_all_that_the_project_declares() -> None:
    lock = (ROOT / "requirements.txt").read_text()
    pinned = {name(line) for line in lock.splitlines() if "==" in line}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {name(entry) for entry in project["dependencies"] + project["optional-dependencies"]["test"]}
    assert declared <= pinned, declared - pinned
    assert "kernels" not in pinned, "with that package, importing bitsandbytes downloads code"
    assert not re.search(r"https?://|file:|\+cpu", lock)


def name(requirement: str) -> str:
    return re.split(r"[=<>\[ ]", requirement)[0].lower().replace("_", "-")


def test_nothing_made_at_run_time_is_committed() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone: there is no list of committed files")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert {"README.md", "mistral_lib/__init__.py"} <= set(tracked)
    assert not [name for name in tracked if Path(name).parts[0] in ("runs", "models", "corpora", "workbook", ".lab", ".venv")]
