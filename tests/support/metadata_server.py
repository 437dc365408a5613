"""A false metadata service of an instance: IMDSv2 alone, a role's credentials, and a spot notice on demand.

    with metadata_server() as metadata:
        metadata.take_away(seconds=120)

Like the real one it answers 401 without a valid token, and 404 for a spot notice that is not there.
"""

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

INSTANCE = "i-0123456789abcdef0"
ROLE = "mistral-workbook-quick"


@dataclass
class MetadataServer:
    """url: for AWS_EC2_METADATA_SERVICE_ENDPOINT. asked: paths so far."""

    url: str = ""
    facts: dict[str, str] = field(default_factory=dict)  # path below latest/meta-data/ → text
    tokens: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    secret: str = "instance-secret-" + "k" * 24  # of the role: must not appear anywhere

    def take_away(self, seconds: float = 120) -> None:
        """A spot notice: the machine is terminated after so many seconds."""
        moment = datetime.now(UTC) + timedelta(seconds=seconds)
        self.facts["spot/instance-action"] = json.dumps({"action": "terminate", "time": moment.strftime("%Y-%m-%dT%H:%M:%SZ")})

    def recommend_rebalance(self) -> None:
        self.facts["events/recommendations/rebalance"] = json.dumps({"noticeTime": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")})

    def expire_tokens(self) -> None:
        self.tokens.clear()


class _Answers(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        if self.path != "/latest/api/token" or not self.headers.get("X-aws-ec2-metadata-token-ttl-seconds"):
            return self.answer(400)
        token = secrets.token_urlsafe(16)
        self.server.metadata.tokens.add(token)
        return self.answer(200, token)

    def do_GET(self) -> None:
        metadata = self.server.metadata
        if self.headers.get("X-aws-ec2-metadata-token") not in metadata.tokens:
            return self.answer(401)
        path = self.path.removeprefix("/latest/meta-data/")
        metadata.asked.append(path)
        return self.answer(200, metadata.facts[path]) if path in metadata.facts else self.answer(404)

    def answer(self, status: int, text: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


@contextmanager
def metadata_server() -> Iterator[MetadataServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.daemon_threads = True
    metadata = server.metadata = MetadataServer(f"http://127.0.0.1:{server.server_port}")
    until = (datetime.now(UTC) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ")
    role = {"Code": "Success", "LastUpdated": until, "Type": "AWS-HMAC", "AccessKeyId": "ASIATESTING", "SecretAccessKey": metadata.secret, "Token": "t", "Expiration": until}  # fmt: skip
    metadata.facts |= {
        "instance-id": INSTANCE,
        "iam/security-credentials/": ROLE,
        f"iam/security-credentials/{ROLE}": json.dumps(role),
    }
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield metadata
    finally:
        server.shutdown()
        server.server_close()
