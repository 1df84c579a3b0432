"""What is refused and how the refusal is told: limits, problem+json, a body-size guard, quiet logs.

What lives here: limits, the error type every layer raises, its RFC 9457 form, and the ASGI middleware
that stops large bodies before they are in memory. What does not: reading pixels (images.py).
"""

from __future__ import annotations

import http
import ipaddress
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.schemas import MEDIA_PROBLEM, Problem

log = logging.getLogger("boxmed.serve")

MIB = 1024 * 1024
RETRY = {"Retry-After": "5"}
LOG_LINE = "time=%(asctime)s level=%(levelname)s event=%(message)s"
"""Form of the log: name=value (logfmt), a line for each event."""


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
    batch_images: int = 200
    """Images of one request to /v1/batches, whose body may be ``batch_body_bytes``."""
    batch_body_bytes: int = 512 * MIB
    batches: int = 2
    """Batches at a time; more are told to come back (503). Together they take half of the seats at most."""
    batch_read_s: float = 600.0
    """Seconds for the body of a batch to arrive."""
    tokens: int = 2048
    """Of one answer, whatever a request asks for."""
    waiting: int = 32
    """Requests accepted at a time; more are told to come back (503). It bounds memory: each may hold a body."""
    decoders: int = 4
    """Images decoded at a time: the largest, in 16 bits, takes some 0.7 GB meanwhile."""
    read_s: float = 30.0
    """Seconds for the body to arrive."""
    answer_s: float = 90.0
    """Seconds for the report, waiting for the engine included."""


class RequestRefusedError(Exception):
    """A request that is refused. ``detail`` is shown to the client: never put content of the request in it."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers or {}


def problem_of(status: int, detail: str, request_id: str | None = None) -> Problem:
    """The problem, in the form in which it is told."""
    return Problem(
        title=http.HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        instance=f"urn:uuid:{request_id}" if request_id else None,
    )


def problem_response(
    status: int, detail: str, request_id: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """The problem+json answer."""
    problem = problem_of(status, detail, request_id)
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

    def __init__(self, app: ASGIApp, limits: Limits, observed: Callable[[str, int, float], None]) -> None:
        self._app = app
        self._limits = limits
        self._observed = observed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        begun, most = time.perf_counter(), self._most(scope["path"])
        given = headers.get("x-request-id", "")
        request_id = _request_id(given)
        # Ray Serve names the id that it gave, or that a client gave it, in each answer; twice is not once.
        named = [] if given == request_id else [(b"x-request-id", request_id.encode())]
        scope.setdefault("state", {})["request_id"] = request_id
        received = 0

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > most:
                    raise _BodyTooLargeError
            return message

        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS, *named]
                seconds = time.perf_counter() - begun
                self._observed(_route(scope), message["status"], seconds)
                log.log(
                    logging.DEBUG if _route(scope) in _PROBES else logging.INFO,
                    "answered id=%s route=%s status=%d ms=%.0f key=%s",
                    *(request_id, _route(scope), message["status"], 1000 * seconds, scope["state"].get("key", "-")),
                )
            await send(message)

        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > most:
            await self._too_large(request_id, most)(scope, receive, watched_send)
            return
        try:
            await self._app(scope, counted_receive, watched_send)
        except _BodyTooLargeError:  # raised while the body was read, so before any answer began
            await self._too_large(request_id, most)(scope, receive, watched_send)
        except Exception as error:
            # Where it happened, never the message: libraries put parts of the input into it. Passed on, it would
            # be written to Serve's log as it is.
            log.error("failed id=%s with=%s at=%s", request_id, type(error).__name__, where(error))
            if not started:
                detail = "the server failed to answer; the fault is not in the request"
                await problem_response(500, detail, request_id)(scope, receive, watched_send)

    def _most(self, path: str) -> int:
        return self._limits.batch_body_bytes if path == "/v1/batches" else self._limits.body_bytes

    def _too_large(self, request_id: str, most: int) -> JSONResponse:
        detail = f"the request body exceeds {most / MIB:g} MiB; send less at a time"
        return problem_response(413, detail, request_id, {"Connection": "close"})


def where(error: BaseException) -> str:
    """The frames of an error, in one line, the innermost last."""
    return "<".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in extract_tb(error.__traceback__))


_PROBES = ("/livez", "/readyz", "/healthz", "/metrics")
"""Asked every few seconds by machines: no line for each."""
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)


def _route(scope: Scope) -> str:
    """The route's pattern: a path is the client's words."""
    return str(getattr(scope.get("route"), "path", "none"))


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
