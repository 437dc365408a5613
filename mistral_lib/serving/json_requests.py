"""JSON over HTTP with a server that asks for a key: one connection per thread, kept open, and errors that say what to do.

Knows addresses, keys and status codes; knows nothing of models. The key is in no message.
"""

import http.client
import threading
from typing import Any
from urllib.parse import urlsplit

import orjson

CONNECT = 10.0  # seconds until an address that does not react counts as dead
SHOWN = 300  # characters of a server's own words in a message
STALE = (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError)  # a server closes idle connections


class EndpointError(RuntimeError):
    """A server that does not answer as expected; the message says what was seen and what to do."""


class NoAnswerError(EndpointError):
    """Nothing answers at the address, or not in time."""


class StillLoadingError(EndpointError):
    """The server answers, and its model is not loaded yet."""


class WrongKeyError(EndpointError):
    """The server refuses the key, or asks for one."""


class JsonRequests:
    """Requests to one server. seconds: how long one answer may take."""

    def __init__(self, url: str, key: str | None, seconds: float) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise EndpointError(f"{url}: not an address; expected one such as http://127.0.0.1:8001")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
        self._parts, self._path, self._seconds = parts, parts.path.rstrip("/").removesuffix("/v1"), seconds
        self._key, self._own = key, threading.local()

    def status(self, path: str) -> int:
        """The status code of GET `path`. Errors: NoAnswerError."""
        return self._exchange("GET", path, None)[0]

    def get(self, path: str) -> Any:
        return self._json("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Errors: NoAnswerError, StillLoadingError, WrongKeyError; EndpointError for any other refusal."""
        return self._json("POST", path, orjson.dumps(body))

    def _json(self, method: str, path: str, body: bytes | None) -> Any:
        status, data = self._exchange(method, path, body)
        if status != 200:
            raise self._refusal(method, path, status, data)
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            raise EndpointError(
                f"{self.url}: {method} {path} answers without JSON ({data[:60]!r}); expected a server with OpenAI's API"
            ) from None

    def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Status and body of an answer; a connection that the server has closed meanwhile is opened again, once."""
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        try:
            kept = getattr(self._own, "connection", None)
            if kept is not None:
                try:
                    return self._send(kept, method, path, body, headers)
                except STALE:
                    kept.close()
            return self._send(self._connect(), method, path, body, headers)
        except TimeoutError:
            self._drop()
            raise NoAnswerError(
                f"{self.url}: {method} {path} got no answer within {self._seconds:.0f} s; is the server still at work?"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            words = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise NoAnswerError(f"{self.url}: nothing answers ({words}); start a server there, or check address and port") from None

    def _send(self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None, headers: dict) -> tuple[int, bytes]:
        connection.request(method, self._path + path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._parts.hostname, self._parts.port, timeout=min(CONNECT, self._seconds))
        connection.connect()
        connection.timeout = self._seconds  # of a connection that it opens again by itself
        connection.sock.settimeout(self._seconds)
        self._own.connection = connection
        return connection

    def _drop(self) -> None:
        if (connection := getattr(self._own, "connection", None)) is not None:
            connection.close()
            self._own.connection = None

    def _refusal(self, method: str, path: str, status: int, data: bytes) -> EndpointError:
        words = _words(data)
        if status in (401, 403):
            seen = "the key is refused" if self._key else "asks for a key, and none was given"
            return WrongKeyError(f"{self.url}: {seen} ({status} for {path}); expected the one in the key file that `serve` prints")
        if status == 503 and "oading" in words:
            return StillLoadingError(f"{self.url}: its model is still loading; ask again when {self.url}/health answers 200")
        return EndpointError(f"{self.url}: {method} {path} was refused with status {status}: {words}")


def _words(data: bytes) -> str:
    """What a server says is wrong, from its JSON or as it is."""
    try:
        found = orjson.loads(data)
        error = found.get("error", found) if isinstance(found, dict) else found
        text = error.get("message", error) if isinstance(error, dict) else error
    except orjson.JSONDecodeError:
        text = data.decode(errors="replace")
    return str(text)[:SHOWN]
