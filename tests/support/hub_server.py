"""A small server that answers as the Hugging Face hub does: information, file tree and files of models and data sets, and its error codes.

Uploads go to another one: hub_uploads.py.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "fedcba9876543210fedcba9876543210fedcba98"
REVISIONS = {"main": COMMIT, COMMIT: COMMIT, "v1": OLDER, OLDER: OLDER}
GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this model is restricted."}
NO_REVISION = {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"}
NO_FILE = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
UNKNOWN = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
BAD_TOKEN = {"X-Error-Message": "Invalid credentials in Authorization header"}


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The address, and the list of requested files. open/tiny and gated/tiny have the folder's files, gated ones need the token `good`;
    As a data set open/rows has the folder's files. busy/tiny answers 503, forbidden/tiny 403, disabled/tiny is disabled; every other name is unknown, 401 without a token. The token
    `bad` is always refused. Revisions: main, the tag v1 of an older commit with the same files, and both commits."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(True)

        def do_HEAD(self) -> None:
            self.answer(False)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.answer(True)

        def answer(self, with_body: bool) -> None:
            path = self.path.split("?")[0]
            parts = [part for part in path.removeprefix("/api/models").removeprefix("/api").removeprefix("/datasets").split("/") if part]
            token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            status, headers, body = reply(folder, "/".join(parts[:2]), parts[2:], token, path.startswith("/api/"), "blobs=" in self.path)
            if parts[2:3] == ["resolve"] and with_body and status == 200:
                asked.append(parts[-1])
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def reply(folder: Path, name: str, rest: list[str], token: str, api: bool, sizes: bool = False) -> tuple[int, dict[str, str], bytes]:
    if token == "bad":
        return 401, BAD_TOKEN, b"{}"
    if name == "busy/tiny":
        return 503, {}, b"{}"
    if name == "forbidden/tiny":
        return 403, {"X-Error-Message": "Forbidden"}, b"{}"
    if name == "disabled/tiny":
        return 403, {"X-Error-Message": "Access to this resource is disabled."}, b"{}"
    if name not in ("open/tiny", "open/rows", "gated/tiny"):
        return (404 if token else 401), UNKNOWN, b"{}"
    commit = REVISIONS.get(rest[1])
    if commit is None:
        return 404, NO_REVISION, b"{}"
    if api and rest[0] == "revision":
        files = [{"rfilename": one["path"], "size": one["size"]} for one in map(fact, sorted(folder.iterdir()))] if sizes else []
        return 200, {}, json.dumps({"id": name, "sha": commit, "siblings": files}).encode()
    if api:
        return 200, {}, json.dumps([fact(path) for path in sorted(folder.iterdir())]).encode()
    if name == "gated/tiny" and token != "good":
        return (403 if token else 401), GATED, b"{}"
    if not (folder / rest[-1]).is_file():
        return 404, {**NO_FILE, "X-Repo-Commit": commit}, b"{}"
    body = (folder / rest[-1]).read_bytes()
    return 200, {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": commit}, body


def fact(path: Path) -> dict[str, Any]:
    return {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": hashlib.sha1(path.read_bytes()).hexdigest()}
