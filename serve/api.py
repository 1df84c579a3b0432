"""The HTTP face: the application over a service object, and every error as problem+json.

What lives here: putting routes, guards and errors together. What does not: Ray Serve (app.py), so that every refusal
can be tested without an engine; the routes (routes_*.py).
"""

from __future__ import annotations

import logging
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from boxmed_ray import __version__
from serve import chat
from serve.desk import Desk, Service, Settings, request_id
from serve.feedback import Feedback
from serve.guard import HostGuard, KeyGuard
from serve.keys import KeyFile
from serve.openapi import problem_schema
from serve.questions import EngineDeadError
from serve.reading import ACCEPTED, content_kind, knows, read_json
from serve.routes_chat import add_chat_routes
from serve.routes_reports import add_preview_route, add_report_routes
from serve.schemas import NOTICE, GroundRequest, Health, ReportRequest
from serve.security import RETRY, Limits, RequestGuard, RequestRefusedError, problem_of

log = logging.getLogger("boxmed.serve")

_PAGE = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_PARTS = ("page.css", "page.js", "window.js", "docs.js")
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_KEY = HTTPBearer(auto_error=False, description="A key that `boxmed keys add NAME` printed.")
"""For the OpenAPI page alone: KeyGuard is who refuses."""
_ASTRAY = {
    404: "there is nothing at this address; /docs shows what there is",
    405: "this address takes another method; Allow says which",
}
_NOT_KEPT, _KEPT = b"and not kept", b"and kept here, without its header, for readers' verdicts"


def build_app(service: Service, limits: Limits, settings: Settings | None = None) -> FastAPI:
    """The application, answering from ``service``."""
    settings = settings or Settings()
    app = FastAPI(
        title="BoxMed-RL",
        version=__version__,
        description=f"Chest X-ray reports in which every sentence says where it looks.\n\n{NOTICE}",
        redirect_slashes=False,
        redoc_url=None,
        docs_url=None,  # FastAPI's page is fetched from elsewhere, which hospitals' networks do not reach
        dependencies=[] if settings.keys is None else [Security(_KEY)],
    )
    if settings.keys is not None:
        app.add_middleware(KeyGuard, keys=KeyFile(settings.keys))
    elif settings.loopback:
        app.add_middleware(HostGuard)
    if settings.origins:  # around the guard: a page must be able to read that its key is not known
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(RequestGuard, limits=limits, observed=service.observer.request)
    knows([ReportRequest, GroundRequest, chat.ChatRequest, Feedback])
    desk = Desk(service, limits, settings)
    _tell_problems(app)
    _add_health(app, desk)
    add_report_routes(app, desk)
    add_chat_routes(app, desk)
    _add_feedback(app, desk)
    add_preview_route(app, desk)
    _add_page(app, kept=settings.feedback_images)
    return app


def _add_health(app: FastAPI, desk: Desk) -> None:
    failed: dict[int | str, dict[str, Any]] = {503: problem_schema("The engine has failed.")}

    @app.get("/livez", tags=["health"])
    async def livez() -> dict[str, str]:
        """Answers as long as the process does, also when the engine has failed."""
        return {"status": "alive"}

    @app.get("/healthz", response_model=Health, responses=failed, tags=["health"])
    @app.get("/readyz", response_model=Health, responses=failed, tags=["health"])
    async def readyz() -> Health:
        """Answers 200 once the engine is loaded, and as long as it lives."""
        desk.service.check()
        return Health(model=desk.service.model(desk.adapter(None)))


def _add_feedback(app: FastAPI, desk: Desk) -> None:
    schema = {"required": True, "content": {"application/json": {"schema": Feedback.model_json_schema()}}}
    refusals: dict[int | str, dict[str, Any]] = {
        404: problem_schema("No feedback is taken here."),
        422: problem_schema("Not a verdict."),
        507: problem_schema("It cannot be stored."),
    }

    @app.post(
        "/v1/feedback", status_code=201, openapi_extra={"requestBody": schema}, responses=refusals, tags=["feedback"]
    )
    async def feedback(request: Request) -> dict[str, str]:
        """Keep a reader's verdict on one sentence: right or wrong, what it should say, where it is."""
        if desk.feedback is None:
            raise RequestRefusedError(404, "no feedback is taken here; start the service with --feedback FOLDER")
        if content_kind(request) != "application/json":
            raise RequestRefusedError(415, "feedback is application/json; see POST /v1/feedback in /docs")
        verdict = read_json(await desk.arrived(request.body()), Feedback, "see POST /v1/feedback in /docs")
        key = getattr(request.state, "key", None)
        try:
            name = desk.feedback.append(verdict, desk.service.model(desk.adapter(None)), key)
        except OSError as error:
            log.error("feedback-not-stored id=%s why=%r", request_id(request), error.strerror)
            raise RequestRefusedError(507, "the verdict was not stored: the disk is full or not writable") from error
        return {"id": name}


def _add_page(app: FastAPI, kept: bool) -> None:
    folder = files("serve") / "page"

    def read(name: str) -> Response:
        headers = {"Content-Security-Policy": _PAGE_POLICY, "X-Frame-Options": "DENY"}
        content = (folder / name).read_bytes()
        if kept:
            content = content.replace(_NOT_KEPT, _KEPT)
        return Response(content, media_type=_PAGE[Path(name).suffix], headers=headers)

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        return read("page.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return read("docs.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def part(name: str) -> Response:
        if name not in _PARTS:
            raise HTTPException(404)
        return read(name)


def _tell_problems(app: FastAPI) -> None:
    """Every error leaves as problem+json, and none with a word of the request in it."""

    def answer(request: Request, status: int, detail: str, headers: Any = None) -> JSONResponse:
        name = getattr(request.state, "request_id", None)
        problem = problem_of(status, detail, name)
        body = problem.model_dump(exclude_none=True)
        if request.url.path.startswith(("/v1/chat", "/v1/models")):
            body["error"] = chat.openai_error(problem)
        return JSONResponse(body, status, dict(headers or {}), "application/problem+json")

    @app.exception_handler(RequestRefusedError)
    async def refused(request: Request, error: RequestRefusedError) -> Response:
        return answer(request, error.status, error.detail, error.headers)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        detail = _ASTRAY.get(error.status_code, str(error.detail))
        return answer(request, error.status_code, detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, 422, f"the request was refused; {ACCEPTED}")

    @app.exception_handler(EngineDeadError)
    async def dead(request: Request, error: EngineDeadError) -> Response:
        return answer(request, 503, "the engine has stopped; a new one is being started", RETRY)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return answer(request, 400, "the client closed the connection before the body was complete")
