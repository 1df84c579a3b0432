"""Who may ask: a key in a header, and how often.

What lives here: the ASGI middleware before the routes. What does not: the keys (keys.py), bodies (security.py).
"""

from __future__ import annotations

import logging
import math

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.keys import Key, KeyFile, Rates
from serve.security import problem_response

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
        key = self._key(Headers(scope=scope))
        request_id = scope["state"]["request_id"]
        if key is None:
            log.info("refused id=%s status=401", request_id)
            detail = "send a key that is known: Authorization: Bearer KEY (`boxmed keys add NAME` makes one)"
            await problem_response(401, detail, request_id, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        if wait_s := self._rates.take(key):
            log.info("refused id=%s status=429 key=%s", request_id, key.id)
            detail = f"this key may ask {key.per_minute} times a minute; come back later"
            headers = {"Retry-After": str(math.ceil(wait_s))}
            await problem_response(429, detail, request_id, headers)(scope, receive, send)
            return
        scope["state"]["key"] = key.id
        await self._app(scope, receive, send)

    def _key(self, headers: Headers) -> Key | None:
        kind, _, given = headers.get("authorization", "").partition(" ")
        given = given.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")
        return self._keys.find(given) if given else None
