"""An HTTP server on the loopback that answers by a table: for clients that must cope with servers that are not installed, or that fail."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any]  # status and JSON, or bytes as they are
Table = Mapping[
    str, Reply | Callable[[dict[str, Any]], Reply] | None
]  # by path; a function gets the JSON of the request; None: it hangs up


@dataclass
class StandIn:
    url: str
    requests: list[tuple[str, dict[str, Any], dict[str, str]]] = field(default_factory=list)  # path, JSON and headers of each request


@contextmanager
def answering(table: Table, keeps_connections: bool = True) -> Iterator[StandIn]:
    """keeps_connections: False closes each connection after its answer without saying so, as servers do with idle ones."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.reply({})

        def do_POST(self) -> None:
            self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def reply(self, body: dict[str, Any]) -> None:
            stand_in.requests.append((self.path, body, dict(self.headers)))
            found = table.get(self.path, (404, {"error": {"message": "File Not Found"}}))
            self.close_connection = not keeps_connections or found is None
            if found is None:
                return
            status, value = found(body) if callable(found) else found
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stand_in = StandIn(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
