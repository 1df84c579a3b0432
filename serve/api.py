"""The HTTP face: routes, what a request may look like, and every error as problem+json.

What lives here: a FastAPI application over a service object. What does not: Ray Serve (app.py), so that
every refusal can be tested without an engine.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any, Protocol

import pydantic
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from boxmed_ray import __version__
from serve import images
from serve.grounded import EngineDeadError, GroundedReport
from serve.schemas import MEDIA_PROBLEM, NOTICE, Health, ImageInfo, ModelInfo, Problem, Report, ReportRequest, Timings
from serve.security import Limits, RequestGuard, RequestRefusedError, problem_response

log = logging.getLogger("boxmed.serve")

_ACCEPTED = 'send multipart/form-data with the file field image, or application/json {"image": base64}'
_RETRY = {"Retry-After": "5"}
_DECLARED_IMAGES = {"", "application/octet-stream", *images.MEDIA_TYPES, "image/jpg", "image/pjpeg", "image/x-png"}


class Service(Protocol):
    """What the routes need behind them."""

    @property
    def model(self) -> ModelInfo:
        """What answers."""
        ...

    @property
    def side(self) -> int:
        """Pixels of the square the model sees."""
        ...

    def check(self) -> None:
        """Raise EngineDeadError when no request can be answered."""
        ...

    async def report(self, radiograph: images.Radiograph) -> GroundedReport:
        """Write and ground a report."""
        ...


class _InMemoryParser(MultiPartParser):
    """Keeps files in memory (bodies are limited before they come here): patients' images never touch a disk."""

    spool_max_size = 1 << 62


def build_app(service: Service, limits: Limits) -> FastAPI:
    """The application, answering from ``service``."""
    app = FastAPI(
        title="BoxMed-RL",
        version=__version__,
        description=f"Chest X-ray reports in which every sentence says where it looks.\n\n{NOTICE}",
        redirect_slashes=False,
    )
    app.add_middleware(RequestGuard, body_bytes=limits.body_bytes)
    _tell_problems(app)
    waiting = asyncio.Semaphore(limits.waiting)

    @app.get("/healthz", response_model=Health, responses={503: _problem_schema("The engine has failed.")})
    async def healthz() -> Health:
        """Answers 200 once the engine is loaded, and as long as it lives."""
        service.check()
        return Health(model=service.model)

    @app.post(
        "/v1/reports",
        response_model=Report,
        openapi_extra={"requestBody": _request_schema()},
        responses={
            413: _problem_schema("Too large a body, or too many pixels."),
            415: _problem_schema("Neither multipart nor JSON, or not a kind of image that is read."),
            422: _problem_schema("No image, or an unreadable one."),
            503: _problem_schema("Too many requests are waiting."),
        },
    )
    async def reports(request: Request) -> Report:
        """Write a report about one radiograph; every sentence with its boxes and reasoning."""
        if waiting.locked():
            raise RequestRefusedError(503, "too many requests are waiting; come back later", _RETRY)
        async with waiting:
            return await _report(request, service, limits)

    return app


async def _report(request: Request, service: Service, limits: Limits) -> Report:
    begun = time.perf_counter()
    try:
        async with asyncio.timeout(limits.read_s):
            data = await read_image_bytes(request)
    except TimeoutError:
        raise RequestRefusedError(408, f"the request body did not arrive within {limits.read_s:g} s") from None
    radiograph = await asyncio.to_thread(images.prepare, data, service.side, limits)
    decoded = time.perf_counter()
    try:
        async with asyncio.timeout(limits.answer_s):
            written = await service.report(radiograph)
    except TimeoutError:
        raise RequestRefusedError(503, f"no report within {limits.answer_s:g} s; come back later", _RETRY) from None
    total_ms = 1000 * (time.perf_counter() - begun)
    request_id = request.state.request_id
    log.info("report id=%s sentences=%d total_ms=%.0f", request_id, len(written.sentences), total_ms)
    return Report(
        id=request_id,
        report=written.report,
        truncated=written.truncated,
        sentences=written.sentences,
        image=ImageInfo(width=radiograph.width, height=radiograph.height),
        model=service.model,
        timings=Timings(
            decode_ms=round(1000 * (decoded - begun), 2),
            report_ms=round(written.report_ms, 2),
            ground_ms=round(written.ground_ms, 2),
            total_ms=round(total_ms, 2),
        ),
    )


async def read_image_bytes(request: Request) -> bytes:
    """The bytes of the one image in a request.

    Raises:
        RequestRefusedError: 415 wrong content type or encoding, 422 no image or more than one.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RequestRefusedError(415, "compressed bodies are not read; send the request without Content-Encoding")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _from_json(await request.body())
    if kind == "multipart/form-data":
        return await _from_multipart(request)
    raise RequestRefusedError(415, f"this content type is not read; {_ACCEPTED}")


def _from_json(body: bytes) -> bytes:
    try:
        parsed = ReportRequest.model_validate_json(body)
    except pydantic.ValidationError as error:
        # Only our own field names and pydantic's fixed words: never the input.
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        problem = "it is not valid JSON" if first["type"] == "json_invalid" else _field_problem(first)
        raise RequestRefusedError(422, f"the JSON body was refused: {problem}; {_ACCEPTED}") from None
    return images.from_base64(parsed.image)


def _field_problem(item: Any) -> str:
    if item["type"] == "extra_forbidden":
        return "it has a key other than image"
    return f"{'.'.join(str(part) for part in item['loc']) or 'body'}: {item['msg']}"


async def _from_multipart(request: Request) -> bytes:
    try:
        form = await _InMemoryParser(request.headers, request.stream(), max_files=2, max_fields=2).parse()
    except MultiPartException as error:
        raise RequestRefusedError(422, f"the multipart body cannot be read; {_ACCEPTED}") from error
    fields = form.multi_items()
    uploads = [value for name, value in fields if name == "image"]
    if not uploads:
        raise RequestRefusedError(422, f"no image: the field image is missing; {_ACCEPTED}")
    if len(fields) > 1:
        raise RequestRefusedError(422, "one field is read, image; send one image a request and nothing else")
    upload = uploads[0]
    if not isinstance(upload, UploadFile):
        raise RequestRefusedError(
            422, "the field image is text; send the file itself (curl -F image=@FILE). Paths and URLs are not read"
        )
    declared = (upload.content_type or "").partition(";")[0].strip().lower()
    if declared not in _DECLARED_IMAGES:
        raise RequestRefusedError(415, f"this kind of file is not read; send one of: {', '.join(images.MEDIA_TYPES)}")
    return await upload.read()


def _tell_problems(app: FastAPI) -> None:
    """Every error leaves as problem+json, and none with a word of the request in it."""

    def answer(request: Request, status: int, detail: str, headers: Any = None) -> JSONResponse:
        request_id = getattr(request.state, "request_id", None)
        log.info("refused id=%s status=%d", request_id, status)
        return problem_response(status, detail, request_id, dict(headers or {}))

    @app.exception_handler(RequestRefusedError)
    async def refused(request: Request, error: RequestRefusedError) -> Response:
        return answer(request, error.status, error.detail, error.headers)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return answer(request, error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, 422, f"the request was refused; {_ACCEPTED}")

    @app.exception_handler(EngineDeadError)
    async def dead(request: Request, error: EngineDeadError) -> Response:
        return answer(request, 503, "the engine has stopped; a new one is being started", _RETRY)

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return answer(request, 400, "the client closed the connection before the body was complete")


def _problem_schema(description: str) -> dict[str, Any]:
    return {"description": description, "content": {MEDIA_PROBLEM: {"schema": Problem.model_json_schema()}}}


def _request_schema() -> dict[str, Any]:
    binary = {"type": "string", "format": "binary", "description": "A PNG, JPEG or DICOM file."}
    return {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["image"], "properties": {"image": binary}},
            },
            "application/json": {"schema": ReportRequest.model_json_schema()},
        },
    }
