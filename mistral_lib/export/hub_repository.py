"""A model repository on the Hugging Face hub: made if it is not there, filled in one commit, and read back.

All files arrive before the commit that makes them visible: an upload that was cut leaves the repository as it was, and a second one sends what
is missing. Knows the hub and its errors; knows nothing of runs and forms.
Source: huggingface_hub, guides/upload ("Preupload LFS files before commit")
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_lib.run import files
from mistral_lib.run.folder import summary
from mistral_lib.run.progress import say

HUBS_OWN = ".gitattributes"  # made by the hub in every repository
SENDING, COMMITTING, READING = "sending", "committing", "reading back"  # steps of an upload
UNTOUCHED = "Nothing was committed: the repository shows what it showed before."


class UploadError(RuntimeError):
    """An upload that was refused, or failed; the message says what became of it, and what to do."""


class UploadCutError(UploadError):
    """The connection was lost, or the hub is overloaded; the same command resumes."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of an upload."""

    path: str  # in the repository
    content: Path | bytes
    bytes: int
    sha256: str


class Repository:
    """One upload to one repository."""

    def __init__(self, name: str, public: bool, token: str) -> None:
        from huggingface_hub import HfApi

        self.name, self.public, self.api = name, public, HfApi(token=token)
        self.step, self.arrived, self.total, self.commit = SENDING, 0, 0, ""

    def upload(self, uploads: Sequence[Upload], card: str, title: str, description: str) -> list[str]:
        """Send the files that the hub does not have, commit them, and read all back; the lines to print.

        card: the content of README.md; title and description: of the commit. Errors: UploadError, UploadCutError.
        """
        self.total = len(uploads)
        with self.errors_explained():
            self.require_valid(card)
            head = self.ready()
            there = self.listed(head)
            new = [one for one in uploads if difference(one, there.get(one.path))]
            lines = others(uploads, new, there)
            if new:
                self.commit_files(new, head, title, description)
                self.read_back(uploads)
            else:
                self.commit = head
        if not new:
            return [*lines, f"nothing to send: the hub has all {len(uploads)} files as they are here, at commit {head}"]
        size = files.size_text(sum(one.bytes for one in new))
        return [*lines, f"uploaded: {len(new)} files, {size}, as commit {self.commit}",
                f"verified: the hub lists all {len(uploads)} files with the sizes and hashes that they have here"]  # fmt: skip

    # -- steps --------------------------------------------------------------------------------------------------------

    def require_valid(self, card: str) -> None:
        """Errors: UploadError if the hub would refuse the metadata of the card; before anything is sent."""
        from huggingface_hub import ModelCard

        try:
            ModelCard(card).validate("model")
        except ValueError as error:
            raise UploadError(f"nothing was uploaded: the hub refuses the metadata of the model card: {error}") from error

    def ready(self) -> str:
        """The newest commit of the repository, which is made if it is not there.

        Errors: UploadError if others can read it and were not meant to, or cannot and were meant to.
        """
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            info = self.api.model_info(self.name)
        except RepositoryNotFoundError:
            self.api.create_repo(self.name, private=not self.public)
            info = self.api.model_info(self.name)
        if info.private == self.public:
            page = f"{self.api.endpoint}/{self.name}/settings"
            seen, meant, remedy = (
                ("private", "public", f"leave --public out, or make it public at {page}")
                if info.private
                else ("public", "private", f"choose another name, or make it private at {page}, or give --public if everybody may read it")
            )
            raise UploadError(f"nothing was uploaded: {self.name} is {seen} on the hub, expected {meant}; {remedy}")
        return info.sha

    def listed(self, commit: str) -> dict[str, Any]:
        """The files of a commit, as the hub lists them, by path."""
        from huggingface_hub.hf_api import RepoFile

        tree = self.api.list_repo_tree(self.name, recursive=True, revision=commit)
        return {one.path: one for one in tree if isinstance(one, RepoFile)}

    def commit_files(self, uploads: Sequence[Upload], head: str, title: str, description: str) -> None:
        """Send large files one after another, then commit all. The hub refuses the commit if `head` is not the newest one any more."""
        from huggingface_hub import CommitOperationAdd

        operations = [CommitOperationAdd(one.path, one.content) for one in uploads]
        self.total = len(uploads)
        for number, (one, operation) in enumerate(zip(uploads, operations, strict=True), 1):
            say(f"upload: {one.path}, {files.size_text(one.bytes)}, file {number} of {self.total}")
            self.api.preupload_lfs_files(self.name, [operation], free_memory=False)
            self.arrived = number
        self.step = COMMITTING
        made = self.api.create_commit(self.name, operations, commit_message=title, commit_description=description, parent_commit=head)
        self.commit = made.oid

    def read_back(self, uploads: Sequence[Upload]) -> None:
        """Errors: UploadError if the hub lists anything else than what was meant."""
        self.step = READING
        there = self.listed(self.commit)
        if faults := [fault for one in uploads if (fault := difference(one, there.get(one.path)))]:
            raise UploadError(
                f"{self.name}: commit {self.commit} was made, but the hub lists other files than were sent: {summary(faults)}; use nothing of "
                "it, and give the same command again"
            )

    # -- errors -------------------------------------------------------------------------------------------------------

    @contextmanager
    def errors_explained(self) -> Iterator[None]:
        """The hub's errors as messages with steps. Errors: UploadError, UploadCutError."""
        from huggingface_hub.errors import HfHubHTTPError, HTTPError

        try:
            yield
        except UploadError:
            raise
        except (HTTPError, OSError, RuntimeError, ValueError) as error:  # HTTPError: of the library that sends the requests
            found = next((one for one in (error, error.__cause__) if isinstance(one, HfHubHTTPError)), None)
            raise self.refusal(found) if found else self.cut(error.__cause__ or error) from error

    def refusal(self, error: Any) -> UploadError:
        """What a status of the hub means, and the steps to take."""
        owner, endpoint, status = self.name.partition("/")[0], self.api.endpoint, error.response.status_code
        meanings = {
            401: f"the hub refuses the token; make a new one with write access at {endpoint}/settings/tokens, then `hf auth login`, and check "
                 "that HF_TOKEN does not hold an old one",
            403: f"the account of the token may not write there; it takes a token with write access to repositories of {owner}",
            404: "the repository is not there any more, or the token may not read it; check the name",
            409: "a repository of this name is there, and the token may not read it; choose another name, or take a token of its owner",
            412: "somebody else changed the repository meanwhile; look at what is there, and give the same command again",
        }  # fmt: skip
        if status == 429 or status >= 500 or self.step == READING:
            return self.cut(error)
        if status in meanings:
            return UploadError(f"{self.name}: {meanings[status]} ({status}). {UNTOUCHED}")
        return UploadError(f"{self.name}: the hub answers {status}: {error.server_message or error}. {UNTOUCHED}")

    def cut(self, error: BaseException) -> UploadError:
        """Where the upload stopped, and what that left."""
        why = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
        if self.step == COMMITTING:
            return UploadCutError(
                f"{self.name}: all files arrived, and the hub did not confirm the commit ({why}). Whether it was made is not known: the same "
                "command looks, and commits what is missing"
            )
        if self.step == READING:
            return UploadCutError(
                f"{self.name}: commit {self.commit} was made, but could not be read back ({why}): it is not verified. The same command does that"
            )
        return UploadCutError(
            f"{self.name}: cut after {self.arrived} of {self.total} files ({why}). {UNTOUCHED} The same command resumes: large files that have "
            "arrived are not sent again"
        )


def others(uploads: Sequence[Upload], new: Sequence[Upload], there: dict[str, Any]) -> list[str]:
    """Lines that name the files on the hub that will be replaced, and those that stay and are not of this upload."""
    replaced = [one.path for one in new if one.path in there]
    left = sorted(there.keys() - {one.path for one in uploads} - {HUBS_OWN})
    lines = [f"replaced on the hub, the old ones stay in its history: {', '.join(replaced)}"] if replaced else []
    return [*lines, f"on the hub, but not of this upload: {', '.join(left)}"] if left else lines


def difference(expected: Upload, there: Any) -> str:
    """What the hub has instead of a file; "" if it has that file. there: its entry in the hub's listing, None without one.

    The hub lists large files with their SHA-256, all others with the hash that git gives them.
    """
    if there is None:
        return f"{expected.path} is not there"
    if there.size != expected.bytes:
        return f"{expected.path} has {there.size:,} bytes, expected {expected.bytes:,}"
    if there.lfs is not None:
        return "" if there.lfs.sha256 == expected.sha256 else f"{expected.path} has other content"
    content = expected.content if isinstance(expected.content, bytes) else expected.content.read_bytes()
    own = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return "" if there.blob_id == own else f"{expected.path} has other content"
