"""Who may ask: a key in a header, and how often; without keys, whoever asks for this machine by its own name.

What lives here: the ASGI middleware before the routes. What does not: the keys (keys.py), bodies (security.py).
"""

from __future__ import annotations

import logging
import math

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from boxmed_ray.config import ConfigError
from serve.keys import Key, KeyFile, Rates
from serve.security import RETRY, is_loopback, problem_response

log = logging.getLogger("boxmed.serve")

_OPEN = ("/", "/livez", "/readyz", "/healthz", "/docs", "/openapi.json")
"""Paths that tell nothing of a patient and cost nothing; all else needs a key, paths that do not exist too."""
_OPEN_BELOW = "/page/"


class KeyGuard:
    """Refuses requests without a key that is known, and those of a key that has asked too often."""

    def __init__(self, app: ASGIApp, keys: KeyFile) -> None:
        self._app, self._keys, self._rates = app, keys, Rates()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        path = scope.get("path", "")
        if scope["type"] != "http" or path in _OPEN or path.startswith(_OPEN_BELOW) or scope["method"] == "OPTIONS":
            await self._app(scope, receive, send)
            return
        request_id = scope["state"]["request_id"]
        try:
            key = self._key(Headers(scope=scope))
        except ConfigError as error:
            log.error("keys-unreadable id=%s why=%r", request_id, str(error))
            detail = "the server cannot read its file of keys, and answers nobody until it can"
            await problem_response(503, detail, request_id, RETRY)(scope, receive, send)
            return
        if key is None:
            detail = "send a key that is known: Authorization: Bearer KEY (`boxmed keys add NAME` makes one)"
            await problem_response(401, detail, request_id, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        scope["state"]["key"] = key.id
        if wait_s := self._rates.take(key):
            detail = f"this key may ask {key.per_minute} times a minute; come back later"
            headers = {"Retry-After": str(math.ceil(wait_s))}
            await problem_response(429, detail, request_id, headers)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _key(self, headers: Headers) -> Key | None:
        kind, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        return self._keys.find(given) if given else None


class HostGuard:
    """Without keys: refuses requests for any name but this machine's own.

    A page from elsewhere could otherwise let its name point to 127.0.0.1 (DNS rebinding) and read what is answered
    here, in the browser of whoever works at this machine.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http" or is_loopback(_host(Headers(scope=scope).get("host", ""))):
            await self._app(scope, receive, send)
            return
        detail = "without keys only http://127.0.0.1 and http://localhost are answered; with keys, any name is"
        await problem_response(421, detail, scope["state"]["request_id"])(scope, receive, send)


def _host(header: str) -> str:
    """The name in a Host header, without port and brackets."""
    return header.partition("]")[0].lstrip("[") if header.startswith("[") else header.partition(":")[0]
