"""Asks for the key at every path of vLLM's server but /health: vLLM itself asks for it only below /v1, /v2, /inference and /cohere, and leaves
others open that answer as a model does (/invocations, /tokenize).

vLLM imports it by name (`--middleware`) in its own environment, so it imports the standard library only.
Source: vLLM 0.33, vllm/entrypoints/serve/middleware; https://asgi.readthedocs.io/en/latest/specs/www.html
"""

import hmac
import os
from collections.abc import Awaitable, Callable
from typing import Any

OPEN = ("/health",)
VARIABLE = "VLLM_API_KEY"


class KeyGuard:
    """ASGI middleware. Without a key in the environment it lets nothing through."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app, self.key = app, os.environ.get(VARIABLE, "")

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan" or (scope["type"] == "http" and scope["path"] in OPEN) or self.has_key(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"error": {"message": "the key is missing or wrong", "code": 401}}'})

    def has_key(self, scope: dict[str, Any]) -> bool:
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        return bool(self.key) and hmac.compare_digest(given, f"Bearer {self.key}".encode())
