"""The code archive: this commit exactly, the same bytes each time, never a secret."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from mistral_lib.rented_run import packing
from mistral_lib.rented_run.packing import PackingError


def git(root: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    for name, text in {"mistral_lib/a.py": "a = 1\n", "tests/test_a.py": "", "params/quick.yaml": "seed: 1\n"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def packed(code: packing.Code) -> dict[str, str]:
    with tarfile.open(fileobj=io.BytesIO(code.data)) as archive:
        return {member.name: archive.extractfile(member).read().decode(errors="replace") for member in archive}


def test_the_archive_holds_the_commit_without_tests_and_is_the_same_each_time(clone: Path) -> None:
    first = packing.code(root=clone)
    assert packed(first) == {"mistral_lib/a.py": "a = 1\n", "params/quick.yaml": "seed: 1\n"}
    (clone / "mistral_lib" / "a.py").touch()
    (clone / "tests" / "test_a.py").write_text("# changed, and not packed anyway")
    assert packing.code(root=clone).sha256 == first.sha256 and str(first) == f"commit {first.commit[:12]}"


def test_a_changed_tree_is_refused_and_dirty_packs_the_tracked_files_and_says_so(clone: Path) -> None:
    (clone / "mistral_lib" / "a.py").write_text("a = 2\n")
    (clone / "new.py").write_text("")
    with pytest.raises(PackingError, match=r"mistral_lib/a\.py, new\.py.*--dirty"):
        packing.code(root=clone)
    code = packing.code(dirty=True, root=clone)
    assert packed(code)["mistral_lib/a.py"] == "a = 2\n" and "new.py" not in packed(code)
    assert "uncommitted changes in mistral_lib/a.py; not tracked by git and not packed: new.py" in str(code)


@pytest.mark.parametrize("name", [".env", "deploy/id_rsa", ".aws/config", "server.pem", "hf_token.txt", "credentials.json", "notes.txt"])
def test_a_file_that_looks_like_a_secret_stops_the_packing(clone: Path, name: str) -> None:
    (clone / name).parent.mkdir(exist_ok=True)
    (clone / name).write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    git(clone, "add", "-f", name)
    git(clone, "commit", "-q", "-m", "oh")
    with pytest.raises(PackingError, match=f"look like secrets: {name}"):
        packing.code(root=clone)


def test_a_folder_that_is_no_clone_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackingError, match="expected a git clone of the workbook"):
        packing.code(root=tmp_path)


def test_the_workbook_itself_can_be_packed() -> None:
    names = packed(packing.code(dirty=True)).keys()
    assert {"mistral_lib/__main__.py", "params/instances.yaml", "requirements.txt", "pyproject.toml"} <= names
    assert not any(name.startswith("tests/") for name in names)
