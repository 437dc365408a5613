"""The workbook's code as an archive for the machine: the files of this commit, without the tests.

A working tree with changes is refused, since nobody could say afterwards which code a result came from; `dirty` packs the changed files
and says so. A file that looks like a secret stops the packing, before anything leaves this computer.
"""

import gzip
import hashlib
import io
import re
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mistral_lib.run import paths

LEFT_OUT = "tests/"  # the machine runs no tests
SECRET_NAMES = re.compile(
    r"\.env(\..+)?|\.netrc|_netrc|\.pypirc|\.npmrc|\.pgpass|\.htpasswd|id_(rsa|dsa|ecdsa|ed25519)|credentials(\.(json|csv|ini|txt))?"
    r"|service[_-]account.*\.json|(hf|hub)?[_-]?token(\.txt)?|secrets?(\.(json|ya?ml|toml|txt|env))?|.+\.(pem|key|p12|pfx|jks|keystore|ppk|kdbx)",
    re.IGNORECASE,
)
SECRET_FOLDERS = {".aws", ".ssh", ".gnupg"}
PRIVATE_KEY = re.compile(rb"\s*-----BEGIN [A-Z ]*PRIVATE KEY")


class PackingError(RuntimeError):
    """The code cannot be packed as it is; the message names each file and what to do."""


@dataclass(frozen=True, slots=True)
class Code:
    """A gzip-compressed tar archive of the workbook's code; equal for equal files."""

    data: bytes
    commit: str
    changed: tuple[str, ...] = ()  # files that are packed with changes that no commit holds
    not_packed: tuple[str, ...] = ()  # files that git does not track

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def __str__(self) -> str:
        name = f"commit {self.commit[:12]}"
        changed = f" with uncommitted changes in {_some(self.changed)}" if self.changed else ""
        absent = f"; not tracked by git and not packed: {_some(self.not_packed)}" if self.not_packed else ""
        return f"{name}{changed}{absent}"


def code(dirty: bool = False, root: Path | None = None) -> Code:
    """The tracked files of this commit or, if `dirty`, of the working tree.

    Errors: PackingError for a tree with changes, a folder that is no clone, or files that look like secrets.
    """
    root = root or paths.project()
    commit = _git(root, "rev-parse", "HEAD").decode().strip()
    changed, untracked = _changes(root)
    if (changed or untracked) and not dirty:
        raise PackingError(
            f"{paths.short(root)} differs from commit {commit[:12]}: {_some((*changed, *untracked))}; the machine would run other code than this "
            "commit. Commit the changes (or remove them), or give --dirty to send the tracked files as they are"
        )
    packed = _working_tree(root) if changed else _committed(root)
    refuse_secrets(packed)
    return Code(_archive(packed), commit, changed, untracked)


def _changes(root: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The changed tracked files, and the files that git neither tracks nor ignores; those that are not packed anyway do not count."""
    lines = [line for line in _git(root, "status", "--porcelain=v1", "-z", "--no-renames").decode().split("\0") if line]
    found = [(line[:2], line[3:]) for line in lines if not line[3:].startswith(LEFT_OUT)]
    changed = tuple(name for state, name in found if state != "??")
    return changed, tuple(name for state, name in found if state == "??")


def _committed(root: Path) -> dict[str, tuple[bytes, bool]]:
    """`{name: (content, executable)}` of this commit. A link is left out: nothing in the workbook needs one."""
    with tarfile.open(fileobj=io.BytesIO(_git(root, "archive", "--format=tar", "HEAD"))) as archive:
        members = [member for member in archive if member.isfile() and not member.name.startswith(LEFT_OUT)]
        return {member.name: (archive.extractfile(member).read(), bool(member.mode & 0o100)) for member in members}


def _working_tree(root: Path) -> dict[str, tuple[bytes, bool]]:
    """As `_committed`, of the tracked files as they are on disk."""
    names = [name for name in _git(root, "ls-files", "-z").decode().split("\0") if name and not name.startswith(LEFT_OUT)]
    found = {name: root / name for name in names}
    return {name: (path.read_bytes(), bool(path.stat().st_mode & 0o100)) for name, path in found.items() if path.is_file()}


def refuse_secrets(packed: dict[str, tuple[bytes, bool]]) -> None:
    """Errors: PackingError that names every file whose name or beginning is that of a secret."""
    suspicious = [name for name, (content, _) in packed.items() if _looks_secret(name) or PRIVATE_KEY.match(content)]
    if suspicious:
        raise PackingError(
            f"these tracked files look like secrets: {', '.join(suspicious)}; nothing was sent. Take them out of the repository "
            "(git rm --cached, and change the secret, since the history still holds it), or rename a file that is none"
        )


def _looks_secret(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(SECRET_NAMES.fullmatch(path.name)) or bool(SECRET_FOLDERS & set(path.parts))


def _archive(packed: dict[str, tuple[bytes, bool]]) -> bytes:
    """The same bytes for the same files: no times, no owners, sorted names."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, (content, executable) in sorted(packed.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755 if executable else 0o644
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=0)


def _git(root: Path, *arguments: str) -> bytes:
    """Errors: PackingError if git is missing or the folder is no clone."""
    try:
        return subprocess.run(["git", "-C", str(root), *arguments], check=True, capture_output=True).stdout
    except FileNotFoundError:
        raise PackingError("git is not installed; the code is packed from a git clone of the workbook: install git") from None
    except subprocess.CalledProcessError as error:
        seen = error.stderr.decode(errors="replace").strip()
        raise PackingError(f"git {arguments[0]} failed in {root}: {seen}; expected a git clone of the workbook with a commit") from None


def _some(names: tuple[str, ...], most: int = 5) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{rest}"
