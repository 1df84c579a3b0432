"""What is refused and how the refusal is told: limits, problem+json, a body-size guard, quiet logs.

What lives here: limits, the error type every layer raises, its RFC 9457 form, and the ASGI middleware
that stops large bodies before they are in memory. What does not: reading pixels (images.py).
"""

from __future__ import annotations

import http
import ipaddress
import logging
import uuid
from dataclasses import dataclass
from traceback import format_tb

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.schemas import MEDIA_PROBLEM, Problem

log = logging.getLogger("boxmed.serve")

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may cost.

    The body limit holds a 16-bit radiograph of 3000 x 3000 pixels in base64 (24 MiB); the pixel limit
    is twice the largest digital radiographs (4280 x 3520).
    """

    body_bytes: int = 32 * MIB
    pixels: int = 30_000_000
    side: int = 16_384
    sentences: int = 32
    waiting: int = 32
    """Requests accepted at a time; more are told to come back (503). It bounds memory: each may hold a body."""
    read_s: float = 30.0
    """Seconds for the body to arrive."""
    answer_s: float = 90.0
    """Seconds for the report, waiting for the engine included."""


class RequestRefusedError(Exception):
    """A request that is refused. ``detail`` is shown to the client: never put content of the request in it."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers or {}


def problem_response(
    status: int, detail: str, request_id: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """The problem+json answer."""
    problem = Problem(
        title=http.HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=f"urn:uuid:{request_id}" if request_id else None,
    )
    return JSONResponse(
        problem.model_dump(exclude_none=True), status_code=status, headers=headers, media_type=MEDIA_PROBLEM
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class RequestGuard:
    """ASGI middleware: gives each request an id, refuses bodies above the limit, and answers for what fails.

    A declared length is refused at once, an undeclared one as soon as it is exceeded, so that no more
    than the limit is ever held.
    """

    def __init__(self, app: ASGIApp, body_bytes: int) -> None:
        self._app = app
        self._body_bytes = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = _request_id(headers.get("x-request-id", ""))
        scope.setdefault("state", {})["request_id"] = request_id
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._body_bytes:
            await self._too_large(request_id)(scope, receive, send)
            return
        received = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > self._body_bytes:
                    raise _BodyTooLargeError
            return message

        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, counted_receive, watched_send)
        except _BodyTooLargeError:  # raised while the body was read, so before any answer began
            await self._too_large(request_id)(scope, receive, send)
        except Exception as error:
            # Where it happened, never the message: libraries put parts of the input into it. Passed on, it would
            # be written to Serve's log as it is.
            where = "".join(format_tb(error.__traceback__))
            log.error("failed id=%s with %s at:\n%s", request_id, type(error).__name__, where)
            if not started:
                detail = "the server failed to answer; the fault is not in the request"
                await problem_response(500, detail, request_id)(scope, receive, send)

    def _too_large(self, request_id: str) -> JSONResponse:
        detail = f"the request body exceeds {self._body_bytes / MIB:g} MiB; send a smaller image"
        return problem_response(413, detail, request_id, {"Connection": "close"})


def _request_id(given: str) -> str:
    """Ray Serve's own id of the request, or a new one.

    Serve hands a client's X-Request-ID on; only a UUID is taken, for anything else could be a name.
    """
    try:
        return str(uuid.UUID(given))
    except ValueError:
        return str(uuid.uuid4())


class _BodyTooLargeError(Exception):
    """Raised out of ``receive``, through the application, to the guard that raised it."""
