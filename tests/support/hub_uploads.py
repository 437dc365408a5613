"""A small server that takes uploads of models as the Hugging Face hub does, with the rules that they meet there.

Large files go into a store first and are checked there; a commit names its parent; a new repository has the visibility that was requested;
the metadata of a model card are checked.   Source: huggingface_hub, src/huggingface_hub/_commit_api.py and lfs.py
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

from tests.support.hub_server import BAD_TOKEN, UNKNOWN

LARGE = (".safetensors", ".gguf")  # what a new repository's .gitattributes sends to the store


@dataclass
class Commit:
    """files: by path, the SHA-256 of a large file's content in the store, or the content of any other."""

    id: str
    title: str
    description: str
    files: dict[str, str | bytes]


@dataclass
class Repository:
    private: bool
    commits: list[Commit] = field(default_factory=list)

    def add(self, title: str, description: str, changed: dict[str, str | bytes]) -> str:
        kept = self.commits[-1].files if self.commits else {}
        digest = hashlib.sha1(f"{len(self.commits)} {title} {sorted(changed)}".encode()).hexdigest()
        self.commits.append(Commit(digest, title, description, {**kept, **changed}))
        return digest


@dataclass
class Uploads:
    """What the server has, and its faults. Tokens: `good` may write to the repositories of `me`, `reader` to none, `bad` is none."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    store: dict[str, bytes] = field(default_factory=dict)  # large files, by SHA-256
    received: list[str] = field(default_factory=list)  # their SHA-256, in the order in which they arrived
    cut_after: int | None = None  # large files; of the next one half is read, then nothing answers any more
    is_down: bool = False
    commit_lost: bool = False  # the next commit is made, and its answer is lost
    meanwhile: bool = False  # another commit is made before the next one
    falsified: str = ""  # a path whose size the listing gets wrong

    def make(self, name: str, private: bool) -> Repository:
        self.repositories[name] = Repository(private)
        self.repositories[name].add("initial commit", "", {".gitattributes": b"*.gguf filter=lfs\n*.safetensors filter=lfs\n"})
        return self.repositories[name]

    def content(self, name: str, path: str) -> bytes:
        """A file of the newest commit."""
        found = self.repositories[name].commits[-1].files[path]
        return self.store[found] if isinstance(found, str) else found


@contextmanager
def receiving() -> Iterator[Uploads]:
    """A hub without any repository, to which one may upload."""
    hub = Uploads()

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def do_PUT(self) -> None:
            self.answer()

        def answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            if self.command == "PUT" and hub.cut_after is not None and len(hub.received) >= hub.cut_after:
                hub.is_down = True
            if hub.is_down:
                self.rfile.read(size // 2)
                self.close_connection = True  # without an answer
                return
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            status, headers, body = taken(hub, self.command, self.path.split("?")[0], token, self.rfile.read(size))
            if status == 0:
                self.close_connection = True
                return
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    yield hub
    server.shutdown()
    server.server_close()


Reply = tuple[int, dict[str, str], bytes]


def taken(hub: Uploads, method: str, path: str, token: str, body: bytes) -> Reply:
    """The answer to a request; status 0: the connection ends without one."""
    if path == "/api/validate-yaml":
        return checked_card(json.loads(body)["content"])
    if method == "PUT":
        return stored(hub, path.rpartition("/")[2], body)
    if token not in ("good", "reader"):
        return (401, BAD_TOKEN, b"{}") if token else (401, UNKNOWN, b"{}")
    if path == "/api/repos/create":
        return created(hub, token, json.loads(body))
    name, what, rest = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/.]+)(?:\.git)?/?([^/]*)/?(.*)", path).groups()
    repository = hub.repositories.get(name)
    if repository is None or (repository.private and token != "good"):
        return 404, UNKNOWN, b"{}"
    if what in ("preupload", "info", "commit") and token != "good":
        return 403, {"X-Error-Message": "Forbidden"}, b"{}"
    known = {commit.id: commit for commit in repository.commits} | {"main": repository.commits[-1]}
    if what == "":
        return json_reply({"id": name, "sha": repository.commits[-1].id, "private": repository.private, "siblings": []})
    if what == "tree":
        return json_reply([listed(hub, path, content) for path, content in known[rest].files.items()])
    if what == "preupload":
        return json_reply({"files": [upload_mode(hub, known[rest], one) for one in json.loads(body)["files"]]})
    if what == "info":
        return json_reply({"objects": [batched(hub, one) for one in json.loads(body)["objects"]]})
    return committed(hub, name, [json.loads(line) for line in body.splitlines()])


def json_reply(value: Any, status: int = 200) -> Reply:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def checked_card(content: str) -> Reply:
    """As the hub does: base_model is an id of a model on it, owner and name."""
    named = yaml.safe_load(content.split("---\n")[1]).get("base_model", "a/b")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", named):
        return json_reply({"errors": [], "warnings": []})
    fault = f'"base_model" with value "{named}" is not valid. Use a model id from https://hf.co/models.'
    return json_reply({"errors": [{"message": fault}], "warnings": []}, 400)


def created(hub: Uploads, token: str, asked: dict[str, Any]) -> Reply:
    name = f"{asked['organization']}/{asked['name']}"
    if asked["organization"] != "me" or token != "good":
        return 403, {"X-Error-Message": "You don't have the rights to create a model under this namespace"}, b"{}"
    if name in hub.repositories:
        return 409, {"X-Error-Message": "You already created this model repo"}, b"{}"
    hub.make(name, asked["visibility"] == "private")
    return json_reply({"url": f"{hub.address}/{name}"})


def listed(hub: Uploads, path: str, content: str | bytes) -> dict[str, Any]:
    """A file as the tree lists it."""
    large = isinstance(content, str)
    data = hub.store[content] if large else content
    size = len(data) + (path == hub.falsified)
    lfs = {"lfs": {"oid": content, "size": size, "pointerSize": 134}} if large else {}
    return {"type": "file", "path": path, "size": size, "oid": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), **lfs}


def upload_mode(hub: Uploads, head: Commit, file: dict[str, Any]) -> dict[str, Any]:
    there = head.files.get(file["path"])
    oid = {"oid": listed(hub, file["path"], there)["oid"] if isinstance(there, bytes) else there} if there is not None else {}
    return {"path": file["path"], "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular", "shouldIgnore": False, **oid}


def batched(hub: Uploads, asked: dict[str, Any]) -> dict[str, Any]:
    """Where a large file is sent to; nowhere if the store has it."""
    if asked["oid"] in hub.store:
        return asked
    return {**asked, "actions": {"upload": {"href": f"{hub.address}/store/{asked['oid']}"}}}


def stored(hub: Uploads, digest: str, body: bytes) -> Reply:
    if hashlib.sha256(body).hexdigest() != digest:
        return 400, {}, b"the content does not have this checksum"
    hub.store[digest] = body
    hub.received.append(digest)
    return 200, {}, b""


def committed(hub: Uploads, name: str, lines: list[dict[str, Any]]) -> Reply:
    repository, header = hub.repositories[name], lines[0]["value"]
    if hub.meanwhile:
        hub.meanwhile = False
        repository.add("of somebody else", "", {"note.txt": b"hello"})
    if header.get("parentCommit") not in (None, repository.commits[-1].id):
        return 412, {"X-Error-Message": "A commit has happened since. Please refresh and try again."}, b"{}"
    changed: dict[str, str | bytes] = {}
    for line in lines[1:]:
        value = line["value"]
        if line["key"] == "lfsFile" and value["oid"] not in hub.store:
            return 400, {"X-Error-Message": f"{value['path']} is not in the store"}, b"{}"
        changed[value["path"]] = value["oid"] if line["key"] == "lfsFile" else base64.b64decode(value["content"])
    made = repository.add(header["summary"], header["description"], changed)
    if hub.commit_lost:
        hub.commit_lost = False
        return 0, {}, b""
    return json_reply({"commitUrl": f"{hub.address}/{name}/commit/{made}", "commitOid": made})
