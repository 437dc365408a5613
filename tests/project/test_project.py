"""The project's own promises: README, lock, environment and module table agree with the tree."""

import ast
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
from mistral_lib.run import paths

ROOT = paths.project()
README = (ROOT / "README.md").read_text()


def test_every_notebook_and_params_file_is_in_the_readme() -> None:
    for path in [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("params/*.yaml")]:
        assert path.name in README, path.name
    for name in re.findall(r"`(\w+\.(?:py|ipynb|yaml))`", README):
        assert any(ROOT.glob(f"[a-z]*/**/{name}")), f"README names {name}, which is not there"


PACKAGES = sorted(path.parent for path in ROOT.glob("mistral_lib/*/__init__.py"))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)
def test_each_package_lists_its_modules(package: Path) -> None:
    """A line per module in the docstring, in the order of reading; at most 18 of them."""
    lines = ast.get_docstring(ast.parse((package / "__init__.py").read_text())).splitlines()
    listed = [line.split()[0] for line in lines[1:] if re.match(r"[a-z_0-9]+  ", line)]
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    assert sorted(listed) == sorted(modules) and len(modules) <= 18


def test_the_top_of_the_library_holds_packages_alone() -> None:
    assert {path.name for path in ROOT.glob("mistral_lib/*.py")} == {"__init__.py", "__main__.py"}
    assert not [path for path in ROOT.glob("mistral_lib/*/") if path.name != "__pycache__" and path not in PACKAGES]


def test_the_readmes_links_resolve() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_the_readmes_commands_are_understood() -> None:
    lines = [line.strip() for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines()]
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ["make"]:
            assert words[1] in targets, line
        if words[1:3] == ["-m", "mistral_lib"]:
            __main__.parser().parse_args(words[3:])


def test_the_environment_installs_the_lock(tmp_path: Path) -> None:
    """pip itself reads the list that conda would hand it, all together in one file; what it names is installed here, so nothing is fetched."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert "python=3.11" in environment["dependencies"] and "-r requirements.txt" in pip
    shutil.copy(ROOT / "requirements.txt", tmp_path)  # a file's -r is relative to it, its -e to where pip is started
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
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    assert not [name for name in tracked if Path(name).parts[0] in ("runs", "models", "corpora", ".venv")]
